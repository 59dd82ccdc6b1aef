// SPDX-License-Identifier: Apache-2.0
//
// LogSender: brings the lines of all containers to the server, in order, and tells when they are safe.
// Bounded: room() makes a reader wait when the server does not keep up, so that the pressure reaches the
// container's pipe.
//
// On the worker's loop. Repeats while the server is away; lines that it refuses are lost, with a warning.
#pragma once

#include <cstdint>
#include <deque>

#include "base/log.h"
#include "rt/loop.h"
#include "sched/peer.h"

namespace proa::worker {

class LogSender {
 public:
  using Ticket = std::uint64_t;

  // How long a first line waits for company.
  static constexpr Duration kBatchDelay = std::chrono::milliseconds(20);
  static constexpr std::size_t kBatchBytesMax = 1 << 20;
  static constexpr std::size_t kBatchLinesMax = 10'000;
  static constexpr std::size_t kQueueBytesMax = 8 << 20;

  LogSender(Loop& loop, sched::WorkerCalls& calls, WorkerId worker, Logger& log);
  LogSender(const LogSender&) = delete;
  LogSender& operator=(const LogSender&) = delete;

  Ticket add(sched::LogLine line);
  // Finishes when there is room for more lines.
  Async<> room();
  // True when all up to `ticket` are safe, false at the deadline.
  Async<bool> wait(Ticket ticket, Time deadline);
  Ticket last() const { return added_; }
  void retry_now() { retry_.notify(); }

 private:
  Async<> run();

  Loop& loop_;
  sched::WorkerCalls& calls_;
  WorkerId worker_;
  Logger& log_;
  std::deque<sched::LogLine> queue_;
  std::size_t queue_bytes_ = 0;
  Ticket added_ = 0;
  Ticket done_ = 0;
  Signal added_signal_;
  Signal done_signal_;
  Signal retry_;
  Scope scope_;
};

}  // namespace proa::worker
