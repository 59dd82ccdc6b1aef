// SPDX-License-Identifier: Apache-2.0
#include "worker/log_lines.h"

#include <gtest/gtest.h>

#include "worker/load_probe.h"

namespace proa::worker {
namespace {

TEST(LineSplitter, KeepsWhatIsNotAWholeLine) {
  LineSplitter splitter;
  EXPECT_EQ(splitter.feed("one\ntw"), std::vector<std::string>{"one\n"});
  EXPECT_EQ(splitter.feed("o\n\nthree"), (std::vector<std::string>{"two\n", "\n"}));
  EXPECT_TRUE(splitter.has_partial());
  EXPECT_EQ(splitter.flush(), "three");
  EXPECT_EQ(splitter.finish(), "");
}

TEST(LineSplitter, CutsLongLinesBetweenCharacters) {
  LineSplitter splitter;
  const std::string euro = "\xE2\x82\xAC";
  std::string line = "x";
  while (line.size() < LineSplitter::kLineBytesMax + 10) line += euro;
  const auto pieces = splitter.feed(line);
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_LE(pieces[0].size(), LineSplitter::kLineBytesMax);
  EXPECT_EQ(pieces[0] + splitter.finish(), line);
}

TEST(LineSplitter, FlushWaitsForTheRestOfACharacter) {
  LineSplitter splitter;
  EXPECT_TRUE(splitter.feed("50 \xE2\x82").empty());
  EXPECT_EQ(splitter.flush(), "50 ");
  EXPECT_EQ(splitter.flush(), "");
  EXPECT_TRUE(splitter.feed("\xAC").empty());
  EXPECT_EQ(splitter.flush(), "\xE2\x82\xAC");
}

TEST(Utf8, ReplacesWhatIsNotUtf8) {
  EXPECT_EQ(to_valid_utf8("a\xFF"
                          "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(to_valid_utf8("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");                  // Overlong.
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // A surrogate.
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x98\x80"), "\xF0\x9F\x98\x80");
  EXPECT_EQ(to_valid_utf8("\xE2\x82"), "\xEF\xBF\xBD");
}

TEST(LogRate, RefillsWithTime) {
  Time now(Duration(0));
  LogRate rate({.lines_per_second = 10, .bytes_per_second = 1000, .burst_seconds = 1}, now);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(rate.admit(1, now));
  EXPECT_FALSE(rate.admit(1, now));
  now += std::chrono::milliseconds(500);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(rate.admit(1, now));
  EXPECT_FALSE(rate.admit(1, now));
  EXPECT_EQ(rate.take_dropped(), 2U);
  EXPECT_EQ(rate.take_dropped(), 0U);
}

TEST(LoadProbe, ReadsWhatTheKernelWrites) {
  const auto ticks = parse_cpu_ticks("cpu  100 0 50 800 40 0 10 0 0 0\ncpu0 1 2 3\n");
  ASSERT_TRUE(ticks.has_value());
  EXPECT_EQ(ticks->busy, 160U);
  EXPECT_EQ(ticks->total, 1000U);
  EXPECT_FALSE(parse_cpu_ticks("intr 5").has_value());
  EXPECT_EQ(parse_memory_available("MemTotal: 5 kB\nMemAvailable:     10 kB\n"), 10'240);
  EXPECT_FALSE(parse_memory_available("MemTotal: 5 kB\n").has_value());
}

}  // namespace
}  // namespace proa::worker
