// SPDX-License-Identifier: Apache-2.0
//
// From the bytes of a pipe to lines of text: LineSplitter cuts, LogRate bounds. Values; no loop, no I/O.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"

namespace proa::worker {

// `bytes` with each part that is not UTF-8 replaced by U+FFFD.
std::string to_valid_utf8(BytesView bytes);

class LineSplitter {
 public:
  static constexpr std::size_t kLineBytesMax = 64 * 1024;

  // The lines that `bytes` completes, with their newlines; longer ones in pieces of at most kLineBytesMax.
  std::vector<std::string> feed(BytesView bytes);
  bool has_partial() const { return !partial_.empty(); }
  // The line that is not complete yet, as far as it has come, but for the first bytes of a character.
  std::string flush();
  // All of it: no more bytes will come.
  std::string finish();

 private:
  std::string take_front(std::size_t count);

  std::string partial_;
};

// Bounds one task's lines: a bucket for lines and one for bytes, refilled by time.
class LogRate {
 public:
  struct Limits {
    std::uint64_t lines_per_second = 20'000;
    std::uint64_t bytes_per_second = 8 << 20;
    double burst_seconds = 4;
  };
  LogRate(Limits limits, Time now);

  // Whether a line of so many bytes may pass now. Counts it if not.
  bool admit(std::size_t bytes, Time now);
  // How many did not pass since this was asked last.
  std::uint64_t take_dropped();

 private:
  Limits limits_;
  double lines_;
  double bytes_;
  Time last_;
  std::uint64_t dropped_ = 0;
};

}  // namespace proa::worker
