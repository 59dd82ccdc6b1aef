// SPDX-License-Identifier: Apache-2.0
//
// Clock and Random: the two parts of the outside world that every rule needs, as interfaces, so that the
// simulator can own both.
#pragma once

#include <chrono>
#include <cstdint>

#include "base/bytes.h"

namespace proa {

// Wall time, since it is stored and shown; microseconds, since lists are paged by it.
using Time = std::chrono::sys_time<std::chrono::microseconds>;
using Duration = std::chrono::microseconds;

constexpr Time kNever = Time::max();

inline std::int64_t to_micros(Time time) { return time.time_since_epoch().count(); }
inline Time from_micros(std::int64_t micros) { return Time(Duration(micros)); }
inline double to_unix_seconds(Time time) { return static_cast<double>(to_micros(time)) / 1e6; }

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() const = 0;
};

class Random {
 public:
  virtual ~Random() = default;
  virtual std::uint64_t next() = 0;

  // Uniform in [0, bound); `bound` must not be 0.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  Bytes bytes(std::size_t count);
};

// The machine's.
class SystemClock final : public Clock {
 public:
  Time now() const override;
};

// The kernel's (getrandom); fit for keys.
class SystemRandom final : public Random {
 public:
  std::uint64_t next() override;
};

// splitmix64; fit for simulation only.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() override;

 private:
  std::uint64_t state_;
};

}  // namespace proa
