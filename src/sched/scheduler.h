// SPDX-License-Identifier: Apache-2.0
//
// Scheduler: how many containers each function has, on which workers, and which inputs those may run.
//
// It owns the fleet (workers, tasks) and the leases; what an input is and what became of it belongs to
// control::Calls. A worker is leased inputs of a function as long as it has containers for it that could
// take them, and two more; the container that asks first gets the input. Everything a worker is told waits
// until what led to it is durable.
//
// Nothing of the fleet is stored: a server that starts anew learns from the workers' Hellos what runs where,
// and waits a moment for them before it hands out what was unfinished.
//
// On the server's loop.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/log.h"
#include "control/apps.h"
#include "control/calls.h"
#include "control/ledger.h"
#include "rt/loop.h"
#include "sched/peer.h"
#include "sched/placement.h"

namespace proa::sched {

struct SchedulerConfig {
  control::Resources default_request{.cpu_milli = 125, .memory_bytes = 128LL << 20};
  Duration scaledown_window = std::chrono::seconds(60);
  Duration worker_lost_after = std::chrono::seconds(10);  // Since its stream broke.
  Duration recovery_grace = std::chrono::seconds(3);      // How long a new server waits for its workers.
  Duration stop_grace = std::chrono::seconds(5);          // From SIGINT to SIGKILL.
  Duration waiting_told_after = std::chrono::seconds(5);
  Duration waiting_told_again = std::chrono::seconds(60);
  std::uint32_t lease_surplus = 2;      // Inputs leased beyond what the containers can take at once.
  std::uint32_t init_failures_max = 3;  // In a row, before a deployed function's inputs fail with it.
  std::size_t ended_tasks_kept = 10'000;
};

// The way to one connected worker.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void send(std::vector<Command> commands) = 0;
  // The worker's stream is to be ended: it said something that cannot be, or another one took its place.
  virtual void close(std::string why) = 0;
};

struct TaskView {
  TaskId id;
  FunctionId function;
  AppId app;
  WorkerId worker;
  TaskState state = TaskState::kAssigned;
  EndReason reason = EndReason::kNone;
  std::string message;
  Time created;
  Time started;  // Of the process.
  Time ended;
  bool draining = false;
  std::uint32_t running = 0;  // Inputs in it, as far as is known here.
};

struct FunctionStats {
  std::size_t backlog = 0;
  std::size_t running = 0;
  std::size_t tasks = 0;
};

// Resolves what a task needs; see TaskOrder. Implemented where images, secrets and faces meet.
class TaskPlanner {
 public:
  virtual ~TaskPlanner() = default;
  virtual Async<Result<TaskOrder>> plan(TaskId task, FunctionId function) = 0;
};

class Scheduler final : public control::Dispatch, public control::AppListener {
 public:
  Scheduler(Loop& loop, Random& random, control::Ledger& ledger, control::FunctionBook& functions, control::Calls& calls,
            TaskPlanner& planner, Logger& log, SchedulerConfig config);
  ~Scheduler() override;

  // Workers that an earlier server knew: wait for them before handing out what it left unfinished.
  void expect_workers(std::vector<WorkerId> workers);
  // Told of every change of a task.
  void on_task_changed(std::function<void(const TaskView&)> callback) { task_changed_ = std::move(callback); }
  // Told, again and again, why a function without a single container makes its inputs wait, once that takes a while.
  void on_waiting(std::function<void(AppId, FunctionId, std::string)> callback) { waiting_ = std::move(callback); }
  // Told when the last container and input of a stopping app are gone.
  void on_app_stopped(std::function<void(AppId)> callback) { app_stopped_ = std::move(callback); }
  void on_worker_joined(std::function<void(WorkerId)> callback) { worker_joined_ = std::move(callback); }
  // Told when a worker's process is known to be gone, with all that it did.
  void on_worker_lost(std::function<void(WorkerId)> callback) { worker_lost_ = std::move(callback); }

  // --- Workers. The link must outlive its connection: until disconnected() or close() was called.
  void report(WorkerLink& link, Report report);
  void disconnected(WorkerLink& link);
  // The calls of WorkerCalls, but for logs, which are not the scheduler's.
  Async<Result<TaskOrder>> fetch_task(TaskId task);
  Async<Result<control::Arguments>> fetch_arguments(LeaseId lease);
  Async<Result<void>> put_outputs(WorkerId worker, std::vector<Output> outputs);

  // --- control::Dispatch
  void enqueue(FunctionId function, InputId input) override;
  void withdraw(FunctionId function, InputId input) override;

  // --- control::AppListener
  void function_changed(FunctionId function) override;
  void app_stopping(AppId app) override;

  // --- Questions and orders from the faces.
  std::vector<TaskView> tasks(AppId app) const;  // Live ones; of all apps if `app` is empty.
  std::optional<TaskView> task(TaskId id) const;  // Ended ones too, for a while.
  // Of the app, newest first; looks among the last kEndedLookedAt of all apps.
  std::vector<TaskView> ended_tasks(AppId app, std::size_t tasks_max) const;
  static constexpr std::size_t kEndedLookedAt = 1000;
  std::vector<TaskId> tasks_running(CallId call) const;  // Those that have an input of the call, as far as is known here.
  FunctionStats stats(FunctionId function) const;
  // kNotFound if it is not live.
  Result<void> stop_task(TaskId id, StopHow how);
  // Why the oldest input of the function waits, for a person; "" if none does.
  std::string why_waiting(FunctionId function) const;
  std::size_t workers_connected() const;
  // What all tasks of all workers have been promised.
  control::Resources reserved() const;
  // For work beside tasks. kUnavailable: none is connected.
  Result<WorkerId> least_busy_worker() const;
  Result<void> tell_worker(WorkerId worker, Command command);

 private:
  struct Task {
    TaskView view;
    DefinitionId definition;
    control::Resources reserved;
    Time last_active;
    std::unordered_set<InputId> bound;
    std::optional<StopHow> stopping;  // How it was told to.
  };
  struct HeldLease {
    std::uint32_t epoch = 0;
    WorkerId worker;
    FunctionId function;
    TaskId task;  // Once it is bound.
    bool revoke_sent = false;
  };
  struct Worker {
    WorkerId id;
    Bytes incarnation;
    std::string name;
    WorkerLink* link = nullptr;
    control::Resources total;
    control::Resources reserved;
    std::uint32_t cores = 1;
    Load load;
    std::unordered_set<TaskId> tasks;
    std::unordered_set<InputId> leases;
    std::unordered_map<FunctionId, std::size_t> leased;  // How many of each function.
    Time lost_at = kNever;  // When a worker that is away is given up.
    // What to tell it with the next flush_outbox().
    std::deque<Command> outbox;
    bool flush_waiting = false;
  };
  struct Pool {
    std::deque<InputId> queue;  // May name inputs that are not queued any more; they are passed over.
    std::size_t queued = 0;
    std::size_t leased = 0;
    std::set<TaskId> tasks;
    DefinitionId definition;  // Whose containers are started now.
    std::uint32_t init_failures = 0;
    Time next_start;  // Not before, after failures.
    std::string waiting_for;
    Time waiting_since = kNever;  // Without a container.
    Time waiting_told;
  };

  Pool& pool(FunctionId function) { return pools_[function]; }
  void mark_dirty(FunctionId function);
  void run_dirty();
  void pump(FunctionId function);
  void lease_inputs(FunctionId function, Pool& pool, const control::FunctionView& view);
  void scale_up(FunctionId function, Pool& pool, const control::FunctionView& view);
  bool make_room(FunctionId wanting);
  void tell_waiting(FunctionId function, Pool& pool, const control::FunctionView& view);
  void scale_down(Pool& pool, const control::FunctionView& view);
  void revoke_stranded(FunctionId function, const control::FunctionView& view);
  std::size_t able(const Worker& worker, FunctionId function, const control::FunctionView& view) const;
  std::size_t room(const Worker& worker, FunctionId function, const control::FunctionView& view) const;
  std::size_t per_task(const control::FunctionView& view) const;
  std::size_t live_tasks(const Pool& pool) const;
  void lease(Worker& worker, FunctionId function, InputId input);
  void start_task(WorkerId worker, FunctionId function, const control::FunctionView& view);
  void stop(Task& task, StopHow how);
  void tell(Worker& worker, Command command);
  void flush_outbox(WorkerId id);
  // Takes the lease off the books; the input's state is the caller's business.
  std::optional<HeldLease> drop_lease(InputId input);
  void give_back(InputId input, control::Calls::Return how);
  void hello(WorkerLink& link, Hello hello);
  void adopt_tasks(Worker& worker, const Hello& hello);
  enum class Leases { kKnownHere, kUnknownHere };
  void adopt_leases(Worker& worker, const Hello& hello, Leases known);
  void task_report(Worker& worker, TaskReport report);
  void task_ended(Task& task, const TaskReport& report);
  void init_failed(FunctionId function, const TaskReport& report);
  void fail_pool(FunctionId function, const control::Outcome& outcome);
  void forget_worker(WorkerId id, EndReason reason);
  void bound(Worker& worker, const std::vector<Binding>& bindings);
  void retire(Task& task);
  void changed(const Task& task);
  void check_app(AppId app);
  void finish_recovery();
  Async<> tick();

  Loop& loop_;
  Random& random_;
  control::Ledger& ledger_;
  control::FunctionBook& functions_;
  control::Calls& calls_;
  TaskPlanner& planner_;
  Logger& log_;
  SchedulerConfig config_;
  std::function<void(const TaskView&)> task_changed_;
  std::function<void(AppId)> app_stopped_;
  std::function<void(AppId, FunctionId, std::string)> waiting_;
  std::function<void(WorkerId)> worker_joined_;
  std::function<void(WorkerId)> worker_lost_;

  std::map<WorkerId, Worker> workers_;
  std::unordered_map<WorkerLink*, WorkerId> links_;
  std::unordered_map<TaskId, Task> tasks_;
  std::unordered_map<TaskId, TaskView> ended_;
  std::deque<TaskId> ended_order_;
  std::map<FunctionId, Pool> pools_;
  std::unordered_map<InputId, HeldLease> leases_;
  std::uint32_t next_epoch_;
  std::set<FunctionId> dirty_;
  bool dirty_posted_ = false;
  std::unordered_set<AppId> stopping_;
  bool recovering_ = false;
  std::set<WorkerId> expected_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  Scope scope_;
};

}  // namespace proa::sched
