// SPDX-License-Identifier: Apache-2.0
#include "worker/log_sender.h"

#include <utility>
#include <vector>

#include "worker/backoff.h"

namespace proa::worker {
namespace {

// A line costs more than its text.
std::size_t cost(const sched::LogLine& line) { return line.text.size() + sizeof(sched::LogLine); }

}  // namespace

LogSender::LogSender(Loop& loop, sched::WorkerCalls& calls, WorkerId worker, Logger& log)
    : loop_(loop), calls_(calls), worker_(worker), log_(log), added_signal_(loop), done_signal_(loop), retry_(loop) {
  scope_.spawn(run());
}

LogSender::Ticket LogSender::add(sched::LogLine line) {
  queue_bytes_ += cost(line);
  queue_.push_back(std::move(line));
  if (queue_.size() == 1 || queue_bytes_ >= kBatchBytesMax) added_signal_.notify();
  return ++added_;
}

Async<> LogSender::room() {
  while (queue_bytes_ >= kQueueBytesMax) co_await done_signal_.wait();
}

Async<bool> LogSender::wait(Ticket ticket, Time deadline) {
  while (done_ < ticket) {
    if (loop_.now() >= deadline) co_return false;
    (void)co_await done_signal_.wait_until(deadline);
  }
  co_return true;
}

Async<> LogSender::run() {
  while (true) {
    while (queue_.empty()) co_await added_signal_.wait();
    const Time send_at = loop_.now() + kBatchDelay;
    while (queue_bytes_ < kBatchBytesMax && loop_.now() < send_at) (void)co_await added_signal_.wait_until(send_at);

    std::vector<sched::LogLine> batch;
    std::size_t bytes = 0;
    while (!queue_.empty() && batch.size() < kBatchLinesMax && bytes < kBatchBytesMax) {
      bytes += cost(queue_.front());
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    Backoff backoff;
    while (true) {
      const Result<void> sent = co_await calls_.put_logs(worker_, batch);
      if (sent.ok()) break;
      if (!is_transient(sent.error().code)) {
        log_.warning("logs.refused", {{"lines", batch.size()}, {"error", sent.error().message}});
        break;
      }
      co_await backoff.wait(loop_, retry_);
    }
    queue_bytes_ -= bytes;
    done_ += batch.size();
    done_signal_.notify();
  }
}

}  // namespace proa::worker
