// SPDX-License-Identifier: Apache-2.0
#include "worker/log_lines.h"

#include <algorithm>
#include <utility>

namespace proa::worker {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Sequence {
  std::size_t length = 0;  // Bytes that belong together; at least 1.
  bool valid = false;
  bool cut = false;  // Right so far, and ends with the text.
};

// Reads one character at the start of `text`, which is not empty. Unicode 15, table 3-7.
Sequence read_character(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return {1, true, false};
  std::size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, false, true};
    if (at(i) < low || at(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true, false};
}

// How many bytes at the end of `text` are the beginning of a character.
std::size_t cut_tail(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte >= 0xC0) return read_character(text.substr(text.size() - back)).cut ? back : 0;
  }
  return 0;
}

}  // namespace

std::string to_valid_utf8(BytesView bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Sequence sequence = read_character(bytes);
    text += sequence.valid ? bytes.substr(0, sequence.length) : kReplacement;
    bytes.remove_prefix(sequence.length);
  }
  return text;
}

std::string LineSplitter::take_front(std::size_t count) {
  std::string text = to_valid_utf8(BytesView(partial_).substr(0, count));
  partial_.erase(0, count);
  return text;
}

std::vector<std::string> LineSplitter::feed(BytesView bytes) {
  std::vector<std::string> lines;
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const std::size_t room = kLineBytesMax - partial_.size();
    const std::size_t wanted = newline == BytesView::npos ? bytes.size() : newline + 1;
    const std::size_t count = std::min(wanted, room);
    partial_.append(bytes.substr(0, count));
    bytes.remove_prefix(count);
    if (partial_.back() == '\n') {
      lines.push_back(take_front(partial_.size()));
    } else if (partial_.size() == kLineBytesMax) {
      lines.push_back(take_front(partial_.size() - cut_tail(partial_)));
    }
  }
  return lines;
}

std::string LineSplitter::flush() { return take_front(partial_.size() - cut_tail(partial_)); }

std::string LineSplitter::finish() { return take_front(partial_.size()); }

LogRate::LogRate(Limits limits, Time now)
    : limits_(limits),
      lines_(static_cast<double>(limits.lines_per_second) * limits.burst_seconds),
      bytes_(static_cast<double>(limits.bytes_per_second) * limits.burst_seconds),
      last_(now) {}

bool LogRate::admit(std::size_t bytes, Time now) {
  const double seconds = std::max(0.0, std::chrono::duration<double>(now - last_).count());
  last_ = now;
  const auto refill = [&](double level, std::uint64_t rate) {
    const auto per_second = static_cast<double>(rate);
    return std::min(level + seconds * per_second, per_second * limits_.burst_seconds);
  };
  lines_ = refill(lines_, limits_.lines_per_second);
  bytes_ = refill(bytes_, limits_.bytes_per_second);
  if (lines_ < 1 || bytes_ < static_cast<double>(bytes)) {
    ++dropped_;
    return false;
  }
  lines_ -= 1;
  bytes_ -= static_cast<double>(bytes);
  return true;
}

std::uint64_t LogRate::take_dropped() { return std::exchange(dropped_, 0); }

}  // namespace proa::worker
