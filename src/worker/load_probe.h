// SPDX-License-Identifier: Apache-2.0
//
// ProcLoadProbe: the machine's load as /proc tells it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "worker/seams.h"

namespace proa::worker {

// What /proc/stat's first line counts, in ticks since the machine started.
struct CpuTicks {
  std::uint64_t busy = 0;
  std::uint64_t total = 0;
};
std::optional<CpuTicks> parse_cpu_ticks(std::string_view stat);
// MemAvailable in bytes.
std::optional<std::int64_t> parse_memory_available(std::string_view meminfo);

class ProcLoadProbe final : public LoadProbe {
 public:
  sched::Load sample() override;

 private:
  CpuTicks last_;
};

}  // namespace proa::worker
