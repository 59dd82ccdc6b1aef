// SPDX-License-Identifier: Apache-2.0
#include "worker/load_probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

namespace proa::worker {
namespace {

// The beginning of a /proc file; these never block.
std::string read_start(const char* path) {
  container::OwnedFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return "";
  std::string text(4096, '\0');
  const ssize_t count = ::read(fd.get(), text.data(), text.size());
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, count)));
  return text;
}

std::optional<std::uint64_t> next_number(std::string_view& text) {
  const std::size_t start = text.find_first_not_of(' ');
  if (start == std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + start, text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

}  // namespace

std::optional<CpuTicks> parse_cpu_ticks(std::string_view stat) {
  if (!stat.starts_with("cpu ")) return std::nullopt;
  std::string_view line = stat.substr(4, stat.find('\n') - 4);
  CpuTicks ticks;
  // user nice system idle iowait irq softirq steal; guest time is in user already.
  for (int field = 0; field < 8; ++field) {
    const auto value = next_number(line);
    if (!value) return field >= 4 ? std::optional(ticks) : std::nullopt;
    ticks.total += *value;
    if (field != 3 && field != 4) ticks.busy += *value;
  }
  return ticks;
}

std::optional<std::int64_t> parse_memory_available(std::string_view meminfo) {
  constexpr std::string_view kName = "MemAvailable:";
  const std::size_t at = meminfo.find(kName);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = meminfo.substr(at + kName.size());
  const auto kibibytes = next_number(rest);
  if (!kibibytes) return std::nullopt;
  return static_cast<std::int64_t>(*kibibytes) * 1024;
}

sched::Load ProcLoadProbe::sample() {
  sched::Load load;
  load.memory_bytes_available = parse_memory_available(read_start("/proc/meminfo")).value_or(0);
  const CpuTicks now = parse_cpu_ticks(read_start("/proc/stat")).value_or(CpuTicks());
  const CpuTicks before = std::exchange(last_, now);
  if (before.total > 0 && now.total > before.total && now.busy >= before.busy) {
    load.cpu_busy = static_cast<double>(now.busy - before.busy) / static_cast<double>(now.total - before.total);
  }
  return load;
}

}  // namespace proa::worker
