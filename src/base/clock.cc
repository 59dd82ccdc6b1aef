// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <sys/random.h>

#include <cstring>

#include "base/check.h"

namespace proa {

Bytes Random::bytes(std::size_t count) {
  Bytes out;
  out.reserve(count + 8);
  while (out.size() < count) {
    const std::uint64_t word = next();
    out.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  out.resize(count);
  return out;
}

Time SystemClock::now() const {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}

std::uint64_t SystemRandom::next() {
  std::uint64_t word = 0;
  PROA_CHECK(getrandom(&word, sizeof word, 0) == static_cast<ssize_t>(sizeof word));
  return word;
}

std::uint64_t SeededRandom::next() {
  // Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (OOPSLA 2014).
  state_ += 0x9E3779B97F4A7C15ULL;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

}  // namespace proa
