// SPDX-License-Identifier: Apache-2.0
#include "rt/sim/sim_loop.h"

#include <algorithm>

namespace proa::sim {

Loop::TimerId SimLoop::at(Time time, std::function<void()> work) {
  const TimerId id = next_timer_++;
  timers_.emplace(std::pair(time, id), std::move(work));
  when_.emplace(id, time);
  return id;
}

void SimLoop::cancel(TimerId timer) {
  const auto found = when_.find(timer);
  if (found == when_.end()) return;
  timers_.erase({found->second, timer});
  when_.erase(found);
}

bool SimLoop::step() {
  if (ready_.empty()) {
    if (timers_.empty()) return false;
    auto first = timers_.begin();
    now_ = std::max(now_, first->first.first);
    ready_.push_back(std::move(first->second));
    when_.erase(first->first.second);
    timers_.erase(first);
  }
  auto work = std::move(ready_.front());
  ready_.pop_front();
  work();
  return true;
}

void SimLoop::run_until(Time time) {
  while (!ready_.empty() || (!timers_.empty() && timers_.begin()->first.first <= time)) step();
  now_ = std::max(now_, time);
}

void SimLoop::clear() {
  ready_.clear();
  timers_.clear();
  when_.clear();
}

}  // namespace proa::sim
