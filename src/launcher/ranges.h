// SPDX-License-Identifier: Apache-2.0
//
// Ranges: how launchers on one machine share what there is once (user ids, addresses) without a place to write
// it down. A range is taken by binding an abstract unix socket named after it, and is free again when its
// owner ends, however it ends.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace proa::launcher {

struct IdRange {
  std::uint32_t number = 0;
  OwnedFd claim;
};

// The first free range of `count` from `preferred` on. kResourceExhausted if all are taken.
Result<IdRange> claim_range(const std::string& kind, std::uint32_t count, std::uint32_t preferred);

}  // namespace proa::launcher
