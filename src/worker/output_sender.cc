// SPDX-License-Identifier: Apache-2.0
#include "worker/output_sender.h"

#include <algorithm>
#include <utility>

#include "worker/backoff.h"

namespace proa::worker {

OutputSender::OutputSender(Loop& loop, sched::WorkerCalls& calls, WorkerId worker, Logger& log)
    : loop_(loop), calls_(calls), worker_(worker), log_(log), added_signal_(loop), done_signal_(loop), retry_(loop) {
  scope_.spawn(run());
}

OutputSender::Ticket OutputSender::add(sched::Output output) {
  queue_.push_back(std::move(output));
  added_signal_.notify();
  return ++added_;
}

Async<> OutputSender::wait(Ticket ticket) {
  while (done_ < ticket) co_await done_signal_.wait();
}

std::vector<sched::Binding> OutputSender::pending() const {
  std::vector<sched::Binding> bindings;
  bindings.reserve(queue_.size());
  for (const sched::Output& output : queue_) bindings.push_back({.lease = output.lease, .task = output.task});
  return bindings;
}

bool OutputSender::holds(sched::LeaseId lease) const {
  return std::any_of(queue_.begin(), queue_.end(), [&](const sched::Output& output) { return output.lease == lease; });
}

Async<> OutputSender::run() {
  while (true) {
    while (queue_.empty()) co_await added_signal_.wait();
    std::vector<sched::Output> group;
    std::size_t bytes = 0;
    for (const sched::Output& output : queue_) {
      if (group.size() == kGroupMax || (bytes > 0 && bytes >= kGroupBytesMax)) break;
      bytes += output.outcome.value.inline_bytes();
      group.push_back(output);
    }
    const std::size_t count = group.size();
    co_await send_group(std::move(group));
    // Only run() takes from the front, so the first `count` are still those that were sent.
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(count));
    done_ += count;
    done_signal_.notify();
  }
}

Async<> OutputSender::send_group(std::vector<sched::Output> group) {
  Backoff backoff;
  while (true) {
    const Result<void> sent = co_await calls_.put_outputs(worker_, group);
    if (sent.ok()) co_return;
    const Code code = sent.error().code;
    if (is_transient(code)) {
      co_await backoff.wait(loop_, retry_);
      continue;
    }
    // The server will never take this group as it is. One bad output must not hold up the others.
    if (group.size() > 1) {
      for (sched::Output& output : group) {
        std::vector<sched::Output> single;
        single.push_back(std::move(output));
        co_await send_group(std::move(single));
      }
      co_return;
    }
    log_.warning("output.refused", {{"input", group[0].lease.input.text()}, {"error", sent.error().message}});
    if (group[0].outcome.status == control::Status::kInternalFailure) co_return;
    group[0].outcome = {.status = control::Status::kInternalFailure,
                        .error = "The server refused the result of this input: " + sent.error().message};
  }
}

}  // namespace proa::worker
