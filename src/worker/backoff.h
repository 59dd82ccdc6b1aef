// SPDX-License-Identifier: Apache-2.0
//
// Backoff: the growing delays between attempts at something that must succeed some day.
#pragma once

#include <algorithm>

#include "base/result.h"
#include "rt/loop.h"

namespace proa::worker {

// Whether the same request may succeed later.
inline bool is_transient(Code code) {
  return code == Code::kUnavailable || code == Code::kDeadlineExceeded || code == Code::kResourceExhausted ||
         code == Code::kCancelled || code == Code::kAborted || code == Code::kUnknown || code == Code::kInternal;
}

class Backoff {
 public:
  // A server restarts within half a second: the first attempts come quickly, so that nobody notices.
  static constexpr Duration kFirst = std::chrono::milliseconds(10);
  static constexpr Duration kMost = std::chrono::seconds(1);

  Duration next() { return std::exchange(delay_, std::min(delay_ * 2, kMost)); }
  // Sleeps, or until `sooner` is notified.
  Async<> wait(Loop& loop, Signal& sooner) { (void)co_await sooner.wait_until(loop.now() + next()); }

 private:
  Duration delay_ = kFirst;
};

}  // namespace proa::worker
