// SPDX-License-Identifier: Apache-2.0
//
// OutputSender: brings outputs to the server and tells when they are safe there. One call is under way at a
// time; what comes meanwhile makes up the next, so that a busy worker sends big groups and an idle one
// waits for nobody. Repeats for ever while the server is away.
//
// On the worker's loop. An output stays in pending() until the server has it.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/log.h"
#include "rt/loop.h"
#include "sched/peer.h"

namespace proa::worker {

class OutputSender {
 public:
  // Counts outputs in the order of add().
  using Ticket = std::uint64_t;

  OutputSender(Loop& loop, sched::WorkerCalls& calls, WorkerId worker, Logger& log);
  OutputSender(const OutputSender&) = delete;
  OutputSender& operator=(const OutputSender&) = delete;

  Ticket add(sched::Output output);
  // Finishes when all up to `ticket` are durable at the server (or were refused by it for good).
  Async<> wait(Ticket ticket);
  Ticket last() const { return added_; }

  std::vector<sched::Binding> pending() const;
  bool holds(sched::LeaseId lease) const;
  // The server may be there again: do not sit out a delay.
  void retry_now() { retry_.notify(); }

 private:
  static constexpr std::size_t kGroupMax = 500;
  static constexpr std::size_t kGroupBytesMax = 8 << 20;

  Async<> run();
  Async<> send_group(std::vector<sched::Output> group);

  Loop& loop_;
  sched::WorkerCalls& calls_;
  WorkerId worker_;
  Logger& log_;
  std::deque<sched::Output> queue_;  // Not sent, or not acknowledged: the first `in_flight_` are.
  Ticket added_ = 0;
  Ticket done_ = 0;
  Signal added_signal_;
  Signal done_signal_;
  Signal retry_;
  Scope scope_;
};

}  // namespace proa::worker
