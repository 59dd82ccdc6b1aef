// SPDX-License-Identifier: Apache-2.0
#include "sim/fake_worker.h"

#include <algorithm>
#include <utility>

namespace proa::sim {

using sched::EndReason;
using sched::LeaseId;
using sched::TaskState;

FakeWorker::FakeWorker(SimLoop& loop, Random& random, Witness& witness, WorkerId id, FakeWorkerConfig config)
    : loop_(loop), random_(random), witness_(witness), id_(id), config_(config), incarnation_(new_incarnation()) {}

FakeWorker::~FakeWorker() {
  *alive_ = false;
  for (auto& [id, task] : tasks_) loop_.cancel(task.timer);
}

void FakeWorker::send(sched::Report report) {
  if (wire_ != nullptr && wire_->connected()) wire_->report(std::move(report));
}

void FakeWorker::connected(Wire& wire) {
  wire_ = &wire;
  pushing_ = false;
  sched::Hello hello;
  hello.worker = id_;
  hello.incarnation = incarnation_;
  hello.name = "fake";
  hello.cores = config_.cores;
  hello.total = {.cpu_milli = config_.cores * 1000LL, .memory_bytes = 8LL << 30};
  for (const auto& [id, task] : tasks_) hello.tasks.push_back({.task = id, .function = task.function, .state = task.state, .definition = task.definition});
  for (const auto& [id, report] : ended_) hello.tasks.push_back(report);
  for (const auto& [function, queue] : queues_) {
    for (const sched::Lease& lease : queue) hello.unbound.push_back(lease.id);
  }
  for (const auto& [id, task] : tasks_) {
    if (task.running) hello.bound.push_back({*task.running, id});
  }
  for (const sched::Output& output : unacknowledged_) hello.bound.push_back({output.lease, output.task});
  sched::Report report;
  report.hello = std::move(hello);
  send(std::move(report));
  push_outputs();
}

void FakeWorker::disconnected() {
  wire_ = nullptr;
  pushing_ = false;
}

void FakeWorker::restart() {
  for (auto& [id, task] : tasks_) loop_.cancel(task.timer);
  tasks_.clear();
  ended_.clear();
  queues_.clear();
  held_.clear();
  unacknowledged_.clear();
  pushing_ = false;
  wire_ = nullptr;
  incarnation_ = new_incarnation();
}

void FakeWorker::calm() { calm_ = true; }

void FakeWorker::say(TaskId id, const Task& task) {
  sched::Report report;
  report.task = sched::TaskReport{.task = id, .function = task.function, .state = task.state, .definition = task.definition};
  send(std::move(report));
}

void FakeWorker::end(TaskId id, EndReason reason, std::string message) {
  auto found = tasks_.find(id);
  if (found == tasks_.end()) return;
  loop_.cancel(found->second.timer);
  if (found->second.running) held_.erase(found->second.running->input);
  sched::TaskReport said{.task = id, .function = found->second.function, .state = TaskState::kEnded, .reason = reason, .message = std::move(message), .definition = found->second.definition};
  tasks_.erase(found);
  ended_[id] = said;
  sched::Report report;
  report.task = std::move(said);
  send(std::move(report));
}

void FakeWorker::command(sched::Command command) {
  if (command.start && !tasks_.contains(command.start->task) && !ended_.contains(command.start->task)) {
    const TaskId id = command.start->task;
    Task& task = tasks_[id];
    task.function = command.start->function;
    task.definition = command.start->definition;
    task.state = TaskState::kStarting;
    say(id, task);
    task.timer = loop_.at(loop_.now() + config_.start_time, [this, id] {
      Task& begun = tasks_.at(id);
      begun.timer = 0;
      if (!calm_ && random_.below(config_.start_fails_one_in) == 0) {
        ++failed_starts_;
        end(id, EndReason::kStartFailed, "simulated");
        return;
      }
      begun.state = TaskState::kReady;
      say(id, begun);
      ask(id);
    });
  }
  if (command.stop) {
    const auto found = tasks_.find(command.stop->task);
    if (found != tasks_.end()) {
      found->second.draining = true;
      if (command.stop->how != sched::StopHow::kDrain || (found->second.state == TaskState::kReady && !found->second.running)) {
        end(command.stop->task, EndReason::kFinished, "");
      }
    }
  }
  for (sched::Lease& lease : command.lease) {
    if (const auto held = held_.find(lease.id.input); held != held_.end()) {
      if (held->second != lease.id) witness_.leased_twice(lease.id.input);
      continue;
    }
    held_[lease.id.input] = lease.id;
    const FunctionId function = lease.function;
    queues_[function].push_back(std::move(lease));
    ask_all(function);
  }
  sched::Report gone;
  const auto drop_unbound = [&](const LeaseId& wanted) {
    for (auto& [function, queue] : queues_) {
      const auto place = std::find_if(queue.begin(), queue.end(), [&](const sched::Lease& lease) { return lease.id == wanted; });
      if (place == queue.end()) continue;
      queue.erase(place);
      held_.erase(wanted.input);
      gone.revoked.push_back(wanted);
      return true;
    }
    return false;
  };
  for (const LeaseId& lease : command.revoke) drop_unbound(lease);
  for (const LeaseId& lease : command.cancel) {
    if (drop_unbound(lease)) continue;
    for (auto& [id, task] : tasks_) {
      if (task.running == lease) {
        loop_.cancel(task.timer);
        held_.erase(lease.input);
        task.running.reset();
        loop_.post([this, alive = alive_, task_id = id] {
          if (*alive) ask(task_id);
        });
        break;
      }
    }
  }
  if (!gone.revoked.empty()) send(std::move(gone));
}

void FakeWorker::ask_all(FunctionId function) {
  std::vector<TaskId> asking;
  for (const auto& [id, task] : tasks_) {
    if (task.function == function) asking.push_back(id);
  }
  for (const TaskId id : asking) ask(id);
}

void FakeWorker::ask(TaskId id) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return;
  Task& task = found->second;
  if (task.state != TaskState::kReady || task.running) return;
  if (task.draining) {
    end(id, EndReason::kFinished, "");
    return;
  }
  auto& queue = queues_[task.function];
  if (queue.empty()) return;
  task.running = queue.front().id;
  task.retry_count = queue.front().retry_count;
  queue.pop_front();
  witness_.ran(task.running->input);
  sched::Report report;
  report.bound.push_back({*task.running, id});
  send(std::move(report));
  const Duration most = random_.below(config_.long_run_one_in) == 0 ? config_.long_run_time_max : config_.run_time_max;
  const Duration takes(static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(most.count()) + 1)));
  task.timer = loop_.at(loop_.now() + takes, [this, id] { finish(id); });
}

void FakeWorker::finish(TaskId id) {
  Task& task = tasks_.at(id);
  task.timer = 0;
  if (!calm_ && random_.below(config_.crash_one_in) == 0) {
    ++crashes_;
    end(id, EndReason::kCrashed, "simulated crash");
    return;
  }
  sched::Output output;
  output.lease = *task.running;
  output.task = id;
  output.retry_count = task.retry_count;
  output.outcome.status = random_.below(config_.fail_one_in) == 0 ? control::Status::kFailure : control::Status::kSuccess;
  output.outcome.value.bytes = output.lease.input.text();
  output.finished = loop_.now();
  unacknowledged_.push_back(std::move(output));
  push_outputs();
  // As in the real one, the container is told that its output is safe, and only then asks again. It asks
  // at once here, which makes more things happen at a time.
  held_.erase(task.running->input);
  task.running.reset();
  ask(id);
}

bool FakeWorker::runs(CallId call) const {
  return std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& task) { return task.second.running && task.second.running->input.call == call; });
}

void FakeWorker::push_outputs() {
  if (pushing_ || wire_ == nullptr || !wire_->connected() || unacknowledged_.empty()) return;
  pushing_ = true;
  const std::vector<sched::Output> sending = unacknowledged_;
  wire_->put_outputs(sending, [this, alive = alive_, incarnation = incarnation_, sending](bool acknowledged) {
    if (!*alive || incarnation != incarnation_) return;
    pushing_ = false;
    if (acknowledged) {
      for (const sched::Output& output : sending) {
        witness_.output_acknowledged(output.lease.input, output.outcome.status);
        std::erase_if(unacknowledged_, [&](const sched::Output& held) { return held.lease == output.lease; });
      }
    }
    push_outputs();
  });
}

}  // namespace proa::sim
