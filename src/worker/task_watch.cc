// SPDX-License-Identifier: Apache-2.0
//
// The time limits of a task. One timer, for the earliest of them: limits that move away do not touch it, and
// when it fires too early it looks again.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "worker/task.h"

namespace proa::worker {
namespace {

// "300s", "1.5s": as the official client's users know it.
std::string seconds_text(Duration duration) {
  return fmt::format("{}s", std::chrono::duration<double>(duration).count());
}

}  // namespace

Time Task::next_limit() const {
  if (!running_ || closing_ || state_ < sched::TaskState::kStarting) return kNever;
  Time limit = kNever;
  if (!was_ready_ && order_.startup_timeout > Duration(0)) limit = started_at_ + order_.startup_timeout;
  if (heartbeat_seen_ && heartbeats_held_ == 0) {
    limit = std::min(limit, last_heartbeat_ + context_.options.heartbeat_silence_max);
  }
  for (const auto& [lease, bound] : bound_) {
    if (bound.claimed) continue;
    if (order_.timeout > Duration(0)) limit = std::min(limit, bound.delivered + order_.timeout);
    limit = std::min(limit, bound.cancel_deadline);
  }
  if (draining_ && bound_.empty()) limit = std::min(limit, idle_since_ + context_.options.leave_grace);
  return limit;
}

void Task::watch() {
  const Time limit = next_limit();
  if (limit >= watch_time_) return;
  if (watch_timer_ != 0) context_.loop.cancel(watch_timer_);
  watch_time_ = limit;
  watch_timer_ = context_.loop.at(limit, [this] {
    watch_timer_ = 0;
    watch_time_ = kNever;
    check_limits();
  });
}

void Task::check_limits() {
  if (closing_ || forced_reason_ != sched::EndReason::kNone) return;
  const Time now = context_.loop.now();
  const TaskOptions& options = context_.options;
  const auto kill = [&](sched::EndReason reason, std::string message) {
    end_container(reason, std::move(message), Duration(0));
  };

  std::vector<sched::LeaseId> late;
  for (const auto& [lease, bound] : bound_) {
    if (bound.claimed) continue;
    if (order_.timeout > Duration(0) && now >= bound.delivered + order_.timeout) late.push_back(lease);
    if (now >= bound.cancel_deadline) {
      // The others in it are innocent, and are queued again by the server.
      kill(sched::EndReason::kFinished, fmt::format("Killed: input {} was cancelled and did not end within {}",
                                                    lease.input.text(), seconds_text(options.cancel_grace)));
      return;
    }
  }
  for (const sched::LeaseId lease : late) time_out(lease);
  if (!late.empty()) {
    end_container(
        sched::EndReason::kInputTimeout,
        fmt::format("Stopped: input {} hit its timeout of {}", late[0].input.text(), seconds_text(order_.timeout)),
        options.timeout_grace);
    return;
  }
  if (!was_ready_ && order_.startup_timeout > Duration(0) && now >= started_at_ + order_.startup_timeout) {
    kill(sched::EndReason::kStartTimeout,
         fmt::format("The container did not ask for its first input within its startup timeout of {}",
                     seconds_text(order_.startup_timeout)));
    return;
  }
  if (heartbeat_seen_ && heartbeats_held_ == 0 && now >= last_heartbeat_ + options.heartbeat_silence_max) {
    kill(sched::EndReason::kCrashed, fmt::format("The container was killed: it gave no sign of life for {}",
                                                 seconds_text(options.heartbeat_silence_max)));
    return;
  }
  if (draining_ && bound_.empty() && now >= idle_since_ + options.leave_grace) {
    kill(sched::EndReason::kFinished, fmt::format("Killed: it had nothing left to do and did not leave within {}",
                                                  seconds_text(options.leave_grace)));
    return;
  }
  watch();
}

void Task::time_out(sched::LeaseId lease) {
  const auto found = bound_.find(lease);
  const Bound bound = std::move(found->second);
  const Time now = context_.loop.now();
  finish_input(lease, {.input = lease.input,
                       .retry_count = bound.lease.retry_count,
                       .outcome = {.status = control::Status::kTimeout,
                                   .error = fmt::format("Task's current input {} hit its timeout of {}",
                                                        lease.input.text(), seconds_text(order_.timeout))},
                       .started = bound.delivered,
                       .finished = now});
}

}  // namespace proa::worker
