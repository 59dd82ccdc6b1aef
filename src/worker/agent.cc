// SPDX-License-Identifier: Apache-2.0
#include "worker/agent.h"

#include <algorithm>
#include <utility>

namespace proa::worker {
namespace {

constexpr Duration kLoadInterval = std::chrono::seconds(1);
// After the grace of a shutdown: for the runtime to make good on it, and for the last reports.
constexpr Duration kShutdownSlack = std::chrono::seconds(10);

}  // namespace

Agent::Agent(Seams seams, AgentOptions options)
    : seams_(seams),
      options_(std::move(options)),
      incarnation_(seams.random.bytes(16)),
      reports_(seams.loop, seams.link),
      outputs_(seams.loop, seams.link.calls(), options_.worker, seams.log),
      logs_(seams.loop, seams.link.calls(), options_.worker, seams.log),
      slots_(seams.loop, seams.runtime, seams.log, options_.prepared_kind, options_.prepared_slots),
      task_ended_(seams.loop) {}

Agent::~Agent() {
  scope_.cancel_all();
  for (const auto& [id, task] : tasks_) task->abandon();
}

void Agent::start() {
  slots_.start();
  scope_.spawn(tick());
  seams_.link.start(*this);
}

std::shared_ptr<Task> Agent::find(TaskId task) const {
  const auto found = tasks_.find(task);
  return found == tasks_.end() ? nullptr : found->second;
}

// --- The stream ---

void Agent::on_connected() {
  reports_.connected();
  for (auto& [id, end] : ends_) end.told = seams_.loop.now();
  reports_.hello(hello());
  outputs_.retry_now();
  logs_.retry_now();
}

void Agent::on_disconnected() { reports_.disconnected(); }

sched::Hello Agent::hello() const {
  sched::Hello hello{.worker = options_.worker,
                     .incarnation = incarnation_,
                     .name = options_.name,
                     .total = options_.total,
                     .cores = options_.cores};
  for (const auto& [id, task] : tasks_) {
    hello.tasks.push_back(task->report());
    for (sched::Binding& binding : task->bindings()) hello.bound.push_back(std::move(binding));
  }
  for (const auto& [id, end] : ends_) hello.tasks.push_back(end.report);
  for (const auto& [function, queue] : queues_) {
    for (const sched::LeaseId lease : queue->leases()) hello.unbound.push_back(lease);
  }
  for (sched::Binding& binding : outputs_.pending()) hello.bound.push_back(std::move(binding));
  return hello;
}

void Agent::on_command(sched::Command command) {
  if (seams_.steps != nullptr) {
    if (command.run_step) seams_.steps->run(*command.run_step);
    if (command.cancel_step) seams_.steps->cancel(*command.cancel_step);
  }
  if (command.start) start_task(*command.start);
  if (command.stop) stop_task(*command.stop);
  if (!command.lease.empty()) lease(std::move(command.lease));
  for (const sched::LeaseId id : command.revoke) revoke(id);
  for (const sched::LeaseId id : command.cancel) cancel(id);
}

// --- Tasks ---

void Agent::start_task(const sched::StartTask& start) {
  // The server may say everything twice.
  if (const auto known = find(start.task)) {
    reports_.task(known->report());
    return;
  }
  if (const auto end = ends_.find(start.task); end != ends_.end()) {
    reports_.task(end->second.report);
    return;
  }
  if (closing_) {
    tell_end({.task = start.task,
              .function = start.function,
              .state = sched::TaskState::kEnded,
              .reason = sched::EndReason::kStartFailed,
              .message = "The worker is shutting down"});
    return;
  }
  auto task = std::make_shared<Task>(Task::Context{.loop = seams_.loop,
                                                   .runtime = seams_.runtime,
                                                   .calls = seams_.link.calls(),
                                                   .reports = reports_,
                                                   .outputs = outputs_,
                                                   .logs = logs_,
                                                   .slots = slots_,
                                                   .pipes = seams_.pipes,
                                                   .face = seams_.face,
                                                   .log = seams_.log,
                                                   .options = options_.task},
                                     start, queue_of(start.function));
  tasks_.emplace(start.task, task);
  scope_.spawn(run_task(std::move(task)));
}

void Agent::stop_task(const sched::StopTask& stop) {
  if (const auto task = find(stop.task)) {
    task->stop(stop.how, stop.grace);
  } else if (const auto end = ends_.find(stop.task); end != ends_.end()) {
    reports_.task(end->second.report);
  } else {
    // It never came here, or its end was told long ago. Either way it does not run.
    reports_.task({.task = stop.task,
                   .state = sched::TaskState::kEnded,
                   .reason = sched::EndReason::kFinished,
                   .message = "Not on this worker"});
  }
}

Async<> Agent::run_task(std::shared_ptr<Task> task) {
  co_await Task::run(task);
  const FunctionId function = task->function();
  tasks_.erase(task->id());
  tell_end(task->report());
  drop_idle_queue(function);
  task_ended_.notify();
}

void Agent::tell_end(sched::TaskReport report) {
  reports_.task(report);
  const TaskId task = report.task;
  ends_.insert_or_assign(task, End{.report = std::move(report), .told = seams_.loop.now()});
}

bool Agent::has_task_of(FunctionId function) const {
  return std::any_of(tasks_.begin(), tasks_.end(),
                     [&](const auto& entry) { return entry.second->function() == function; });
}

// --- Inputs ---

std::shared_ptr<InputQueue> Agent::queue_of(FunctionId function) {
  auto& queue = queues_[function];
  if (queue == nullptr) queue = std::make_shared<InputQueue>();
  return queue;
}

void Agent::drop_idle_queue(FunctionId function) {
  const auto found = queues_.find(function);
  if (found == queues_.end() || has_task_of(function)) return;
  for (const sched::LeaseId lease : found->second->take_all()) reports_.revoked(lease);
  queues_.erase(found);
}

bool Agent::in_use(sched::LeaseId lease) const {
  return outputs_.holds(lease) ||
         std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& entry) { return entry.second->holds(lease); });
}

void Agent::lease(std::vector<sched::Lease> leases) {
  std::vector<std::shared_ptr<InputQueue>> touched;
  for (sched::Lease& lease : leases) {
    if (in_use(lease.id)) continue;
    if (closing_ || !has_task_of(lease.function)) {
      // Nobody here will ask for it. (Its task may just have ended.)
      reports_.revoked(lease.id);
      continue;
    }
    std::shared_ptr<InputQueue> queue = queue_of(lease.function);
    queue->push(std::move(lease));
    if (std::find(touched.begin(), touched.end(), queue) == touched.end()) touched.push_back(std::move(queue));
  }
  for (const std::shared_ptr<InputQueue>& queue : touched) queue->wake();
}

void Agent::revoke(sched::LeaseId lease) {
  if (in_use(lease)) return;
  for (const auto& [function, queue] : queues_) {
    if (queue->remove(lease)) break;
  }
  // Also if it was nowhere: then it was lost on the way, and is not here either.
  reports_.revoked(lease);
}

void Agent::cancel(sched::LeaseId lease) {
  for (const auto& [id, task] : tasks_) {
    if (task->cancel(lease)) return;
  }
  if (!outputs_.holds(lease)) revoke(lease);
}

// --- The rest ---

Async<> Agent::tick() {
  while (true) {
    co_await sleep_for(seams_.loop, kLoadInterval);
    const sched::Load load = seams_.load.sample();
    if (!reports_.is_connected()) continue;
    reports_.load(load);
    // A stream that has lived on for so long after an end was told has carried it.
    const Time before = seams_.loop.now() - options_.ends_kept;
    std::erase_if(ends_, [&](const auto& entry) { return entry.second.told < before; });
  }
}

Async<> Agent::shut_down(Duration grace) {
  closing_ = true;
  for (const auto& [function, queue] : queues_) {
    for (const sched::LeaseId lease : queue->take_all()) reports_.revoked(lease);
  }
  for (const auto& [id, task] : tasks_) {
    task->stop(grace > Duration(0) ? sched::StopHow::kInterrupt : sched::StopHow::kKill, grace);
  }
  const Time deadline = seams_.loop.now() + grace + kShutdownSlack;
  while (!tasks_.empty() && seams_.loop.now() < deadline) (void)co_await task_ended_.wait_until(deadline);
  co_await slots_.shut_down();
}

}  // namespace proa::worker
