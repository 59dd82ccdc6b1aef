// SPDX-License-Identifier: Apache-2.0
//
// Agent: a worker's side of its conversation with the server. It takes commands, owns the tasks and the
// queues of leased inputs, and tells the server all that it holds whenever the two find each other again.
//
// It decides nothing about which task runs where (sched/ does), and keeps nothing: its containers do not
// outlive it. Pure logic on the worker's loop; everything else comes in through the seams, which must
// outlive it. Destroying it abandons all tasks without stopping their containers; shut_down() stops them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "rt/loop.h"
#include "worker/input_queue.h"
#include "worker/log_sender.h"
#include "worker/output_sender.h"
#include "worker/reports.h"
#include "worker/seams.h"
#include "worker/server_link.h"
#include "worker/slot_pool.h"
#include "worker/task.h"

namespace proa::worker {

struct AgentOptions {
  WorkerId worker;
  std::string name;
  control::Resources total;
  std::uint32_t cores = 1;
  // Slots to keep prepared, at first for tasks of this kind.
  std::size_t prepared_slots = 2;
  container::SlotSpec prepared_kind;
  TaskOptions task;
  // How long the end of a task is told again in each Hello.
  Duration ends_kept = std::chrono::minutes(2);
};

class Agent final : private ServerLink::Listener {
 public:
  struct Seams {
    Loop& loop;
    Random& random;
    Logger& log;
    container::Runtime& runtime;
    ServerLink& link;
    Face& face;
    Pipes& pipes;
    LoadProbe& load;
    StepRunner* steps = nullptr;  // Null: this worker builds no images.
  };

  Agent(Seams seams, AgentOptions options);
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  ~Agent() override;

  // Connects, and prepares slots.
  void start();
  // Takes no more tasks, gives inputs back, interrupts all containers and after `grace` kills them.
  // Finishes when all is gone, or could not be reported within some seconds more.
  Async<> shut_down(Duration grace);

  // Null if it is not here.
  std::shared_ptr<Task> find(TaskId task) const;
  std::size_t task_count() const { return tasks_.size(); }

 private:
  struct End {
    sched::TaskReport report;
    Time told;
  };

  void on_connected() override;
  void on_disconnected() override;
  void on_command(sched::Command command) override;

  void start_task(const sched::StartTask& start);
  void stop_task(const sched::StopTask& stop);
  void lease(std::vector<sched::Lease> leases);
  void revoke(sched::LeaseId lease);
  void cancel(sched::LeaseId lease);
  // Whether it is in a container, or is an output on its way.
  bool in_use(sched::LeaseId lease) const;

  Async<> run_task(std::shared_ptr<Task> task);
  Async<> tick();
  void tell_end(sched::TaskReport report);
  std::shared_ptr<InputQueue> queue_of(FunctionId function);
  // Gives the inputs of a function without tasks back, and forgets its queue.
  void drop_idle_queue(FunctionId function);
  bool has_task_of(FunctionId function) const;
  sched::Hello hello() const;

  Seams seams_;
  AgentOptions options_;
  Bytes incarnation_;
  bool closing_ = false;
  Reports reports_;
  OutputSender outputs_;
  LogSender logs_;
  SlotPool slots_;
  std::map<TaskId, std::shared_ptr<Task>> tasks_;
  std::map<TaskId, End> ends_;
  std::unordered_map<FunctionId, std::shared_ptr<InputQueue>> queues_;
  Signal task_ended_;
  Scope scope_;
};

}  // namespace proa::worker
