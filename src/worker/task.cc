// SPDX-License-Identifier: Apache-2.0
//
// The life of a task: order, slot, process, end.
#include "worker/task.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>

#include <utility>

#include "worker/backoff.h"

namespace proa::worker {
namespace {

container::SlotSpec slot_spec(const sched::TaskOrder& order) {
  return {.limits = {.cpu_milli_max = order.cpu_milli_max,
                     .cpu_milli_weight = order.request.cpu_milli,
                     .memory_bytes_max = order.memory_bytes_max},
          .network = order.network_blocked ? container::Network::kNone : container::Network::kInternet};
}

container::TaskSpec task_spec(const sched::TaskOrder& order) {
  container::TaskSpec spec{.trees = order.trees,
                           .argv = order.argv,
                           .env = order.env,
                           .working_directory = order.working_directory.empty() ? "/" : order.working_directory,
                           .uid = order.uid,
                           .gid = order.gid,
                           .hostname = order.task.text()};
  for (const auto& [name, content] : order.files) spec.files.push_back({.name = name, .content = content});
  return spec;
}

std::string end_sentence(const container::Exit& exit, std::int64_t memory_bytes_max) {
  if (exit.oom && exit.code != 0) {
    if (memory_bytes_max <= 0) return "The container was killed: out of memory";
    return fmt::format("The container was killed: out of memory (limit {} MiB)", memory_bytes_max >> 20);
  }
  if (exit.code > 128 && exit.code < 128 + 65) {
    const int number = exit.code - 128;
    const char* name = ::sigabbrev_np(number);
    return name != nullptr ? fmt::format("The container was ended by signal {} (SIG{})", number, name)
                           : fmt::format("The container was ended by signal {}", number);
  }
  return fmt::format("The container exited with code {}", exit.code);
}

}  // namespace

Task::Task(Context context, const sched::StartTask& start, std::shared_ptr<InputQueue> queue)
    : context_(context),
      id_(start.task),
      function_(start.function),
      definition_(start.definition),
      queue_(std::move(queue)),
      log_rate_(context.options.log_rate, context.loop.now()),
      changed_(context.loop),
      cancelled_(context.loop),
      pumps_done_(context.loop) {}

Task::~Task() {
  if (watch_timer_ != 0) context_.loop.cancel(watch_timer_);
}

sched::TaskReport Task::report() const {
  if (state_ == sched::TaskState::kEnded) return end_;
  return {.task = id_, .function = function_, .state = state_, .definition = definition_};
}

void Task::set_state(sched::TaskState state) {
  state_ = state;
  context_.reports.task(report());
}

sched::TaskReport Task::end_report(sched::EndReason reason, std::string message) const {
  return {.task = id_,
          .function = function_,
          .state = sched::TaskState::kEnded,
          .reason = reason,
          .message = std::move(message),
          .definition = definition_};
}

Async<> Task::run(std::shared_ptr<Task> self) {
  self->context_.reports.task(self->report());
  sched::TaskReport end = co_await live(self);
  co_await self->close_down();
  self->end_ = std::move(end);
  self->state_ = sched::TaskState::kEnded;
  self->context_.log.info(
      "task.ended",
      {{"task", self->id_.text()}, {"reason", static_cast<int>(self->end_.reason)}, {"message", self->end_.message}});
}

Async<sched::TaskReport> Task::live(std::shared_ptr<Task> self) {
  Task& task = *self;
  Result<sched::TaskOrder> order = co_await task.fetch_order();
  if (task.stopping_) co_return task.end_report(sched::EndReason::kFinished, "Stopped before it was started");
  if (!order.ok()) {
    if (order.error().code == Code::kNotFound) {
      co_return task.end_report(sched::EndReason::kFinished, "Not wanted any more");
    }
    co_return task.end_report(sched::EndReason::kStartFailed, order.error().message);
  }
  task.order_ = std::move(order).value();

  task.set_state(sched::TaskState::kLoading);
  Result<void> started = co_await task.start_container();
  if (!started.ok() && started.error().code == Code::kFailedPrecondition && !task.stopping_) {
    // A slot that was prepared long ago may have died since; a new one has not.
    started = co_await task.start_container();
  }
  if (task.stopping_ && !task.running_) {
    co_return task.end_report(sched::EndReason::kFinished, "Stopped before it was started");
  }
  if (!started.ok()) co_return task.end_report(sched::EndReason::kStartFailed, started.error().message);

  task.started_at_ = task.context_.loop.now();
  if (task.state_ < sched::TaskState::kStarting) task.set_state(sched::TaskState::kStarting);
  task.watch();
  if (task.stopping_) task.scope_.spawn(task.stop_container(Duration(0)));

  const Result<container::Exit> exit = co_await task.context_.runtime.wait(task.slot_);
  task.closing_ = true;
  if (!exit.ok()) {
    co_return task.end_report(sched::EndReason::kCrashed, "The worker lost the container: " + exit.error().message);
  }
  co_return task.classify(*exit);
}

Async<Result<sched::TaskOrder>> Task::fetch_order() {
  Backoff backoff;
  while (true) {
    Result<sched::TaskOrder> order = co_await context_.calls.fetch_task(id_);
    if (order.ok() || !is_transient(order.error().code) || stopping_) co_return order;
    co_await backoff.wait(context_.loop, changed_);
    if (stopping_) co_return order;
  }
}

Async<Result<void>> Task::start_container() {
  PROA_CO_TRY(container::Slot slot, co_await context_.slots.take(slot_spec(order_)));
  if (stopping_) {
    context_.slots.give_back(slot.id);
    co_return Error{Code::kCancelled, "stopped"};
  }
  slot_ = slot.id;
  // The doors are open before the program runs, which may knock at once.
  const std::shared_ptr<Task> self = shared_from_this();
  door_ = context_.face.open(self, std::move(slot.api_listener), std::move(slot.blob_listener));
  pumps_running_ = 2;
  pumps_.spawn(pump(self, control::LogStream::kStdout, context_.pipes.open(std::move(slot.stdout_pipe))));
  pumps_.spawn(pump(self, control::LogStream::kStderr, context_.pipes.open(std::move(slot.stderr_pipe))));
  running_ = true;
  const Result<void> started = co_await context_.runtime.start(slot_, task_spec(order_));
  if (started.ok()) co_return started;
  running_ = false;
  door_.reset();
  pumps_.cancel_all();
  pumps_running_ = 0;
  context_.slots.give_back(std::exchange(slot_, 0));
  co_return started;
}

Async<> Task::close_down() {
  closing_ = true;
  // Calls under way end here: those that wait for inputs give back what they had claimed.
  door_.reset();
  scope_.cancel_all();
  if (watch_timer_ != 0) context_.loop.cancel(std::exchange(watch_timer_, 0));
  changed_.notify();
  cancelled_.notify();
  // Inputs on their way in, which the container never had: the server leases them anew.
  std::erase_if(bound_, [this](const auto& entry) {
    if (entry.second.claimed) context_.reports.revoked(entry.first);
    return entry.second.claimed;
  });

  const Time pipes_deadline = context_.loop.now() + context_.options.pipes_drain_max;
  while (pumps_running_ > 0 && context_.loop.now() < pipes_deadline) {
    (void)co_await pumps_done_.wait_until(pipes_deadline);
  }
  pumps_.cancel_all();
  note_dropped_lines();
  // The lines first: who reads that it ended wants to see why.
  (void)co_await context_.logs.wait(last_line_, context_.loop.now() + context_.options.logs_flush_max);
  // An end that is heard before an output would queue the input again.
  co_await context_.outputs.wait(last_output_);
  bound_.clear();
  if (slot_ != 0) context_.slots.give_back(std::exchange(slot_, 0));
}

sched::TaskReport Task::classify(const container::Exit& exit) const {
  sched::TaskReport end = end_report(sched::EndReason::kFinished, "");
  end.exit_code = exit.code;
  end.oom = exit.oom;
  const std::string sentence = end_sentence(exit, order_.memory_bytes_max);
  if (forced_reason_ != sched::EndReason::kNone) {
    end.reason = forced_reason_;
    end.message = forced_message_;
  } else if (result_ && !was_ready_) {
    end.reason = sched::EndReason::kInitFailure;
    end.message = result_->error;
    end.outcome = result_;
  } else if (stopping_) {
    end.message = "Stopped";
  } else if (exit.code != 0) {
    end.reason = sched::EndReason::kCrashed;
    end.message = sentence;
  } else if (result_) {
    end.message = result_->error;
    end.outcome = result_;
  } else if (!was_ready_ && !draining_) {
    end.reason = sched::EndReason::kCrashed;
    end.message = sentence + " before it asked for an input";
  } else if (!bound_.empty()) {
    end.reason = sched::EndReason::kCrashed;
    end.message = sentence + " while an input was running";
  }
  return end;
}

void Task::stop(sched::StopHow how, Duration grace) {
  if (ended()) return;
  const bool begun = running_ && state_ >= sched::TaskState::kStarting;
  if (how == sched::StopHow::kDrain && begun && was_ready_) {
    if (!draining_) idle_since_ = context_.loop.now();
    draining_ = true;
    changed_.notify();
    watch();
    return;
  }
  const bool again = stopping_;
  stopping_ = true;
  draining_ = true;
  changed_.notify();
  if (!begun) return;  // live() looks before and after it starts the process.
  if (how == sched::StopHow::kKill) {
    grace = Duration(0);
  } else if (how == sched::StopHow::kDrain) {
    // It has nothing to finish, and may be far from asking.
    if (again) return;
    grace = context_.options.stop_grace;
  } else if (grace <= Duration(0)) {
    grace = context_.options.stop_grace;
  }
  scope_.spawn(stop_container(grace));
}

void Task::abandon() {
  closing_ = true;
  door_.reset();
  pumps_.cancel_all();
  scope_.cancel_all();
}

void Task::end_container(sched::EndReason reason, std::string message, Duration grace) {
  if (forced_reason_ == sched::EndReason::kNone) {
    forced_reason_ = reason;
    forced_message_ = std::move(message);
  }
  draining_ = true;
  changed_.notify();
  scope_.spawn(stop_container(grace));
}

Async<> Task::stop_container(Duration grace) {
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(grace);
  const Result<void> stopped = co_await context_.runtime.stop(slot_, millis);
  if (!stopped.ok()) {
    context_.log.warning("task.stop_failed", {{"task", id_.text()}, {"error", stopped.error().message}});
  }
}

}  // namespace proa::worker
