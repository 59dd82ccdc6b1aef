// SPDX-License-Identifier: Apache-2.0
//
// SlotPool: keeps a few slots prepared, so that a task's start need not wait for one. Which kinds it keeps
// follows what was taken lately. Also gives slots back, however often that has to be tried.
//
// On the worker's loop. Owns the slots that nobody has taken; shut_down() gives those back.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "base/log.h"
#include "container/runtime.h"
#include "rt/loop.h"

namespace proa::worker {

class SlotPool {
 public:
  // Keeps `count` slots, at first all of kind `first`.
  SlotPool(Loop& loop, container::Runtime& runtime, Logger& log, container::SlotSpec first, std::size_t count);
  SlotPool(const SlotPool&) = delete;
  SlotPool& operator=(const SlotPool&) = delete;

  // Begins to prepare.
  void start();
  // A prepared slot of this kind if there is one, else a new one. Errors are those of Runtime::prepare.
  Async<Result<container::Slot>> take(container::SlotSpec spec);
  // Removes a slot in the background.
  void give_back(container::SlotId slot);
  // Gives back what is prepared, and finishes when all that was given back is gone.
  Async<> shut_down();

  std::size_t ready() const { return ready_.size(); }

 private:
  struct Ready {
    container::SlotSpec spec;
    container::Slot slot;
  };

  Async<> refill();
  Async<> remove(container::SlotId slot);
  void trim();
  // A kind of which there are fewer than wanted, if any.
  const container::SlotSpec* missing() const;

  Loop& loop_;
  container::Runtime& runtime_;
  Logger& log_;
  std::size_t count_;
  std::deque<container::SlotSpec> wanted_;  // One for each slot to keep; the oldest wish first.
  std::vector<Ready> ready_;
  bool closing_ = false;
  Signal changed_;
  Signal removed_;
  Scope removals_;
  Scope scope_;
};

}  // namespace proa::worker
