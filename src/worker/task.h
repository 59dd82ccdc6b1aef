// SPDX-License-Identifier: Apache-2.0
//
// Task: one container's life on this worker, from its order to its end, and what the container may ask of
// the worker meanwhile. The Agent makes tasks and tells them to stop; a Face translates the container's
// calls into those below "For the face".
//
// It hands out inputs, holds the time limits (start, each input, heartbeat, leaving), tells the container of
// cancellations, and says in a sentence how it ended. Inputs that were in it when it ended have no output;
// the server finds that out from the report and queues them again.
//
// On the worker's loop. Held by shared_ptr, because a call of a container may be under way when the
// container ends; after that every call finishes soon, with kCancelled where it has an error to give.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "container/runtime.h"
#include "rt/loop.h"
#include "sched/peer.h"
#include "worker/input_queue.h"
#include "worker/log_lines.h"
#include "worker/log_sender.h"
#include "worker/output_sender.h"
#include "worker/reports.h"
#include "worker/seams.h"
#include "worker/slot_pool.h"

namespace proa::worker {

struct TaskOptions {
  // A container that has said something, and then nothing for so long, is taken for hung. Six of the
  // official client's intervals.
  Duration heartbeat_silence_max = std::chrono::seconds(90);
  // From the news of a cancellation to the container's end, if the input does not end by itself.
  Duration cancel_grace = std::chrono::seconds(30);
  // From SIGINT to SIGKILL, where the command does not say; exit hooks run meanwhile.
  Duration stop_grace = std::chrono::seconds(30);
  // The same after an input ran out of time: its code has had its time.
  Duration timeout_grace = std::chrono::seconds(10);
  // From the moment a container has nothing left to do and should leave, to its end.
  Duration leave_grace = std::chrono::seconds(60);
  // A call for inputs is answered empty after so long.
  Duration inputs_hold_max = std::chrono::seconds(55);
  // After the end: for the last bytes of the pipes, and for the server to have the lines.
  Duration pipes_drain_max = std::chrono::seconds(2);
  Duration logs_flush_max = std::chrono::seconds(10);
  LogRate::Limits log_rate;
};

// An input on its way into a container.
struct Delivery {
  sched::Lease lease;
  control::Arguments arguments;
};

struct NextInputs {
  std::vector<Delivery> inputs;
  bool leave = false;  // There will be no more: clean up and exit. `inputs` is empty then.
};

// The end of an input as the container tells it.
struct TaskOutput {
  InputId input;
  std::uint32_t retry_count = 0;
  control::Outcome outcome;
  Time started;
  Time finished;
};

class Task : public std::enable_shared_from_this<Task> {
 public:
  struct Context {
    Loop& loop;
    container::Runtime& runtime;
    sched::WorkerCalls& calls;
    Reports& reports;
    OutputSender& outputs;
    LogSender& logs;
    SlotPool& slots;
    Pipes& pipes;
    Face& face;
    Logger& log;
    const TaskOptions& options;
  };

  Task(Context context, const sched::StartTask& start, std::shared_ptr<InputQueue> queue);
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task();

  // --- For the agent ---

  // Lives the whole life; finishes when the task has ended, its logs and outputs are safe and its slot is
  // given back. The last report is the caller's to send: it is report() then.
  static Async<> run(std::shared_ptr<Task> self);
  void stop(sched::StopHow how, Duration grace);
  // False if the lease is not in this container.
  bool cancel(sched::LeaseId lease);
  bool holds(sched::LeaseId lease) const { return bound_.contains(lease); }
  std::vector<sched::Binding> bindings() const;
  sched::TaskReport report() const;
  // Drops all that is under way without a word, as when the process ends.
  void abandon();

  // --- For the face ---

  TaskId id() const { return id_; }
  FunctionId function() const { return function_; }
  // Once the door is open.
  const sched::TaskOrder& order() const { return order_; }
  bool ended() const { return state_ == sched::TaskState::kEnded || closing_; }

  // Waits until there is an input for this container, or it should leave, or inputs_hold_max has passed
  // (then the answer is empty). Up to `max` inputs, of one method, if its function is batched; else one.
  // If the call is abandoned before it is done, the inputs are given to another container.
  static Async<Result<NextInputs>> next_inputs(std::shared_ptr<Task> self, std::size_t max);
  // Finishes when the outputs are durable at the server. Those of inputs that this container does not have
  // (any more) are ignored.
  static Async<> put_outputs(std::shared_ptr<Task> self, std::vector<TaskOutput> outputs);
  // A sign of life. Waits up to `hold` for inputs to cancel.
  static Async<std::vector<InputId>> heartbeat(std::shared_ptr<Task> self, Duration hold);
  // The runner's own report that it failed.
  void set_result(control::Outcome outcome);
  // How many inputs it should work on at once now.
  std::uint32_t concurrency() const;
  // The container asks for no more inputs.
  void retire();
  // Whether the container may have this input: it is in it now.
  bool has_input(InputId input) const;

 private:
  struct Bound {
    sched::Lease lease;    // Without its arguments.
    bool claimed = false;  // Not handed over yet.
    bool dropped = false;  // Cancelled while it was claimed.
    Time delivered;
    bool tell_cancellation = false;  // With a heartbeat.
    Time cancel_deadline = kNever;
  };
  struct Claim;
  struct PumpState;

  // task.cc: the life.
  static Async<sched::TaskReport> live(std::shared_ptr<Task> self);
  Async<Result<sched::TaskOrder>> fetch_order();
  Async<Result<void>> start_container();
  Async<> close_down();
  sched::TaskReport end_report(sched::EndReason reason, std::string message) const;
  sched::TaskReport classify(const container::Exit& exit) const;
  void set_state(sched::TaskState state);
  void end_container(sched::EndReason reason, std::string message, Duration grace);
  Async<> stop_container(Duration grace);

  // task_watch.cc: the time limits.
  void watch();
  void check_limits();
  Time next_limit() const;
  void time_out(sched::LeaseId lease);

  // task_inputs.cc
  std::size_t room() const;
  std::optional<sched::Lease> claim_one(Claim& claim, const std::string* method);
  Async<> linger(Claim& claim, std::size_t max);
  Async<Result<std::vector<Delivery>>> fetch(Claim& claim);
  Async<std::optional<control::Arguments>> fetch_arguments(sched::LeaseId lease);
  Async<> wait_for_input(Time deadline);
  void finish_input(sched::LeaseId lease, TaskOutput output);
  void now_ready();
  std::vector<InputId> take_cancellations();
  Time next_cancellation() const;

  // task_logs.cc
  static Async<> pump(std::shared_ptr<Task> self, control::LogStream stream, std::unique_ptr<Pipe> pipe);
  void add_line(control::LogStream stream, std::string text);
  void note_dropped_lines();
  void flush_partial(PumpState& state);

  Context context_;
  TaskId id_;
  FunctionId function_;
  DefinitionId definition_;
  std::shared_ptr<InputQueue> queue_;
  sched::TaskOrder order_;

  sched::TaskState state_ = sched::TaskState::kAssigned;
  sched::TaskReport end_;  // Once it has ended.
  container::SlotId slot_ = 0;
  std::unique_ptr<Door> door_;
  bool running_ = false;   // Its process was started.
  bool closing_ = false;   // Its process has ended.
  bool stopping_ = false;  // Told to stop before or while it ran.
  bool draining_ = false;  // Gets no more inputs.
  // Why this worker ends the container, where it does.
  sched::EndReason forced_reason_ = sched::EndReason::kNone;
  std::string forced_message_;
  std::optional<control::Outcome> result_;
  bool was_ready_ = false;

  std::map<sched::LeaseId, Bound> bound_;
  std::uint64_t delivered_count_ = 0;
  OutputSender::Ticket last_output_ = 0;

  Time started_at_;
  Time idle_since_;
  Time last_heartbeat_;
  std::size_t heartbeats_held_ = 0;
  bool heartbeat_seen_ = false;
  Loop::TimerId watch_timer_ = 0;
  Time watch_time_ = kNever;

  LogRate log_rate_;
  LogSender::Ticket last_line_ = 0;
  std::size_t pumps_running_ = 0;

  Signal changed_;    // For whoever waits for inputs or for room.
  Signal cancelled_;  // For heartbeats.
  Signal pumps_done_;
  Scope pumps_;
  Scope scope_;
};

}  // namespace proa::worker
