// SPDX-License-Identifier: Apache-2.0
//
// Reports: puts the small news of a worker together before they go to the server. Bindings and revocations
// wait up to kBatchDelay for company, since nobody waits for them; all else goes at once, after what was
// said before it.
//
// On the worker's loop. What is said while the stream is down is dropped: Hello says it.
#pragma once

#include <vector>

#include "rt/loop.h"
#include "worker/server_link.h"

namespace proa::worker {

class Reports {
 public:
  // Well below what a person or the autoscaler notices, well above a wake-up of the loop.
  static constexpr Duration kBatchDelay = std::chrono::milliseconds(20);
  static constexpr std::size_t kBatchMax = 512;

  Reports(Loop& loop, ServerLink& link) : loop_(loop), link_(link) {}
  Reports(const Reports&) = delete;
  Reports& operator=(const Reports&) = delete;
  ~Reports() { forget(); }

  void bound(sched::Binding binding);
  void revoked(sched::LeaseId lease);
  void task(sched::TaskReport report);
  void retiring(TaskId task);
  void load(sched::Load load);
  void hello(sched::Hello hello);

  void connected() { connected_ = true; }
  void disconnected();
  bool is_connected() const { return connected_; }

 private:
  void flush();
  void forget();
  void batch();

  Loop& loop_;
  ServerLink& link_;
  bool connected_ = false;
  std::vector<sched::Binding> bound_;
  std::vector<sched::LeaseId> revoked_;
  Loop::TimerId timer_ = 0;
};

}  // namespace proa::worker
