// SPDX-License-Identifier: Apache-2.0
//
// SimLoop: the Loop with virtual time. Nothing happens but in step(); when nothing is ready, time jumps to
// the next timer. The same program on the same seed does the same things in the same order.
#pragma once

#include <deque>
#include <map>

#include "rt/loop.h"

namespace proa::sim {

class SimLoop final : public Loop {
 public:
  explicit SimLoop(Time start = Time(Duration(1'700'000'000'000'000))) : now_(start) {}

  Time now() const override { return now_; }
  void post(std::function<void()> work) override { ready_.push_back(std::move(work)); }
  TimerId at(Time time, std::function<void()> work) override;
  void cancel(TimerId timer) override;

  // Runs one piece of work; false if there is nothing left to do, now or later.
  bool step();
  // Steps until nothing is ready and the next timer, if any, is after `time`; then it is `time`.
  void run_until(Time time);
  void run_for(Duration duration) { run_until(now_ + duration); }
  // Drops all work and timers, as when the process dies. The coroutines must be destroyed by their owners.
  void clear();

 private:
  Time now_;
  std::deque<std::function<void()>> ready_;
  std::map<std::pair<Time, TimerId>, std::function<void()>> timers_;
  std::map<TimerId, Time> when_;
  TimerId next_timer_ = 1;
};

}  // namespace proa::sim
