// SPDX-License-Identifier: Apache-2.0
//
// ByteBudget: how many bytes of messages one identity may have in flight at a time. Shared by its calls. Whoever
// would go over waits, and that wait is the back-pressure: what is not read stays with the peer.
//
// On the loop only. A budget outlives its waiters (calls hold it by shared_ptr).
#pragma once

#include <cstddef>
#include <memory>

#include "rt/loop.h"

namespace proa::rpc {

class ByteBudget {
 public:
  ByteBudget(Loop& loop, std::size_t bytes_max) : bytes_max_(bytes_max), freed_(loop) {}

  // Waits until something is free. One message may go over, since its size is known only once it is there.
  Async<> room();
  bool has_room() const { return used_ < bytes_max_; }
  void take(std::size_t bytes) { used_ += bytes; }
  void give(std::size_t bytes);
  std::size_t used() const { return used_; }

 private:
  std::size_t bytes_max_;
  std::size_t used_ = 0;
  Signal freed_;
};

}  // namespace proa::rpc
