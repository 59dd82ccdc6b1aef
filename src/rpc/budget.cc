// SPDX-License-Identifier: Apache-2.0
#include "rpc/budget.h"

#include "base/check.h"

namespace proa::rpc {

Async<> ByteBudget::room() {
  while (used_ >= bytes_max_) co_await freed_.wait();
}

void ByteBudget::give(std::size_t bytes) {
  PROA_CHECK(bytes <= used_);
  const bool was_full = used_ >= bytes_max_;
  used_ -= bytes;
  if (was_full && used_ < bytes_max_) freed_.notify();
}

}  // namespace proa::rpc
