// SPDX-License-Identifier: Apache-2.0
//
// FakeWorker: a worker as the scheduler sees one, with containers that are timers. It keeps the protocol of
// sched/peer.h: leases and bindings, outputs repeated until they are acknowledged, a Hello with all it holds
// after each reconnection. Its process may die (its containers with it), its stream may break.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "rt/sim/sim_loop.h"
#include "sched/peer.h"

namespace proa::sim {

// What happened, told to whoever checks.
class Witness {
 public:
  virtual ~Witness() = default;
  // User code of the input began to run.
  virtual void ran(InputId input) = 0;
  // The server acknowledged the worker's output.
  virtual void output_acknowledged(InputId input, control::Status status) = 0;
  // A worker was leased an input that it holds under another lease.
  virtual void leased_twice(InputId input) = 0;
};

// The network between one worker and the server: what the worker sends arrives later, or never.
class Wire {
 public:
  virtual ~Wire() = default;
  virtual bool connected() const = 0;
  virtual void report(sched::Report report) = 0;
  virtual void put_outputs(std::vector<sched::Output> outputs, std::function<void(bool acknowledged)> done) = 0;
};

struct FakeWorkerConfig {
  std::uint32_t cores = 2;
  Duration start_time = std::chrono::milliseconds(300);
  Duration run_time_max = std::chrono::milliseconds(400);
  std::uint32_t crash_one_in = 200;       // A container dies while it runs an input.
  std::uint32_t start_fails_one_in = 60;  // A container cannot begin.
  std::uint32_t fail_one_in = 10;         // User code raises.
  Duration long_run_time_max = std::chrono::seconds(8);
  std::uint32_t long_run_one_in = 12;
};

class FakeWorker {
 public:
  FakeWorker(SimLoop& loop, Random& random, Witness& witness, WorkerId id, FakeWorkerConfig config);
  ~FakeWorker();

  void connected(Wire& wire);  // Says Hello.
  void disconnected();
  void command(sched::Command command);
  // Dies and starts anew: a new incarnation that holds nothing.
  void restart();

  std::uint64_t crashes() const { return crashes_; }
  std::uint64_t failed_starts() const { return failed_starts_; }
  void calm();  // From now on nothing crashes.
  bool runs(CallId call) const;  // User code of one of its inputs runs here.

 private:
  struct Task {
    FunctionId function;
    DefinitionId definition;
    sched::TaskState state = sched::TaskState::kAssigned;
    bool draining = false;
    std::optional<sched::LeaseId> running;
    std::uint32_t retry_count = 0;
    Loop::TimerId timer = 0;
  };

  void send(sched::Report report);
  void say(TaskId id, const Task& task);
  void end(TaskId id, sched::EndReason reason, std::string message);
  void ask(TaskId id);  // The container asks for an input.
  void ask_all(FunctionId function);
  void finish(TaskId id);
  void push_outputs();
  Bytes new_incarnation() { return random_.bytes(8); }

  SimLoop& loop_;
  Random& random_;
  Witness& witness_;
  WorkerId id_;
  FakeWorkerConfig config_;
  Bytes incarnation_;
  Wire* wire_ = nullptr;
  std::map<TaskId, Task> tasks_;
  std::map<TaskId, sched::TaskReport> ended_;  // Ends that may not have been heard.
  std::map<FunctionId, std::deque<sched::Lease>> queues_;
  std::map<InputId, sched::LeaseId> held_;  // Queued or running.
  std::vector<sched::Output> unacknowledged_;
  bool pushing_ = false;
  bool calm_ = false;
  std::uint64_t crashes_ = 0;
  std::uint64_t failed_starts_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace proa::sim
