// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <gtest/gtest.h>

#include "base/fd.h"
#include "base/bytes.h"
#include "base/codec.h"
#include "base/digest.h"
#include "base/id.h"

namespace proa {
namespace {

TEST(Bytes, Base64RoundTripsEveryLength) {
  SeededRandom random(1);
  for (std::size_t size = 0; size < 40; ++size) {
    const Bytes bytes = random.bytes(size);
    EXPECT_EQ(from_base64(to_base64(bytes)).value(), bytes);
    EXPECT_EQ(from_base64url(to_base64url(bytes)).value(), bytes);
    EXPECT_EQ(from_hex(to_hex(bytes)).value(), bytes);
  }
  EXPECT_EQ(to_base64("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
}

TEST(Bytes, RefusesForeignCharacters) {
  EXPECT_FALSE(from_base64("a*==").ok());
  EXPECT_FALSE(from_base64("abc").ok());
  EXPECT_FALSE(from_hex("0g").ok());
  EXPECT_FALSE(from_hex("abc").ok());
}

TEST(Bytes, PercentEncodingKeepsCommasAndNewlinesOut) {
  EXPECT_EQ(percent_encode("a, b\n%"), "a%2C%20b%0A%25");
  EXPECT_EQ(percent_decode("a%2C%20b%0A%25").value(), "a, b\n%");
  EXPECT_FALSE(percent_decode("%4").ok());
}

TEST(Digest, MatchesThePublishedVectors) {
  EXPECT_EQ(sha256("abc").hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(md5("abc")), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(hmac_sha256("key", "The quick brown fox jumps over the lazy dog").hex(),
            "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
}

TEST(Id, TextHasThePrefixOneDashAndTheRightShape) {
  SeededRandom random(7);
  for (int i = 0; i < 2000; ++i) {
    const AppId app = AppId::make(random, from_micros(1'700'000'000'000'000));
    EXPECT_EQ(app.text().size(), 3U + 22U);
    EXPECT_EQ(AppId::parse(app.text()).value(), app);
    const TaskId task = TaskId::make(random, from_micros(1'700'000'000'000'000));
    EXPECT_EQ(task.text().size(), 3U + 26U);
    EXPECT_NE(task.text().back(), 'V');
    EXPECT_EQ(TaskId::parse(task.text()).value(), task);
  }
}

TEST(Id, UlidsOfLaterTimesSortLater) {
  SeededRandom random(7);
  const TaskId early = TaskId::make(random, from_micros(1'700'000'000'000'000));
  const TaskId late = TaskId::make(random, from_micros(1'700'000'001'000'000));
  EXPECT_LT(early.text(), late.text());
}

TEST(Id, RefusesOtherKindsAndOtherShapes) {
  SeededRandom random(7);
  const std::string app = AppId::make(random, Time()).text();
  EXPECT_FALSE(FunctionId::parse(app).ok());
  EXPECT_FALSE(AppId::parse("").ok());
  EXPECT_FALSE(AppId::parse("ap-").ok());
  EXPECT_FALSE(AppId::parse(app + "a").ok());
  EXPECT_FALSE(AppId::parse("ap-" + std::string(22, 'z')).ok());  // More than 128 bits.
  EXPECT_FALSE(AppId::parse("ap-" + std::string(21, 'a') + "-").ok());
}

TEST(InputId, RoundTripsSmallAndLargeIndices) {
  SeededRandom random(3);
  const CallId call = CallId::make(random, Time());
  for (const std::uint32_t index : {0U, 1U, 61U, 62U, 9'999U, 4'294'967'295U}) {
    const InputId id{call, index};
    EXPECT_EQ(InputId::parse(id.text()).value(), id);
  }
  EXPECT_FALSE(InputId::parse("in-0").ok());
}

struct Inner {
  std::string name;
  std::int32_t count = 0;
  static void fields(auto& visit, auto& self) { visit(1, self.name), visit(2, self.count); }
  friend bool operator==(const Inner&, const Inner&) = default;
};

struct Outer {
  std::vector<Inner> items;
  std::map<std::string, std::string> labels;
  std::optional<std::uint32_t> limit;
  AppId app;
  Time created;
  double ratio = 0;
  bool on = false;
  static void fields(auto& visit, auto& self) {
    visit(1, self.items), visit(2, self.labels), visit(3, self.limit), visit(4, self.app), visit(5, self.created);
    visit(6, self.ratio), visit(7, self.on);
  }
  friend bool operator==(const Outer&, const Outer&) = default;
};

struct OuterOfTomorrow : Outer {
  std::string added;
  static void fields(auto& visit, auto& self) {
    Outer::fields(visit, self);
    visit(100, self.added);
  }
};

Outer sample() {
  SeededRandom random(5);
  Outer outer;
  outer.items = {{"a", -3}, {"", 0}, {"c", 70000}};
  outer.labels = {{"k", "v"}, {"empty", ""}};
  outer.limit = 0;
  outer.app = AppId::make(random, Time());
  outer.created = from_micros(1'700'000'000'123'456);
  outer.ratio = 0.1;
  outer.on = true;
  return outer;
}

TEST(Codec, RecordsComeBackAsTheyWere) { EXPECT_EQ(decode<Outer>(encode(sample())).value(), sample()); }

TEST(Codec, AnOldProgramReadsWhatANewOneWroteAndTheOtherWayRound) {
  OuterOfTomorrow tomorrow;
  static_cast<Outer&>(tomorrow) = sample();
  tomorrow.added = "new";
  EXPECT_EQ(decode<Outer>(encode(tomorrow)).value(), sample());
  EXPECT_EQ(decode<OuterOfTomorrow>(encode(sample())).value().added, "");
}

TEST(Codec, ATornRecordIsDataLossAndNeverACrash) {
  const Bytes whole = encode(sample());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto read = decode<Outer>(BytesView(whole).substr(0, size));
    if (!read.ok()) EXPECT_EQ(read.error().code, Code::kDataLoss);
  }
  SeededRandom random(11);
  for (int i = 0; i < 2000; ++i) {
    Bytes damaged = whole;
    damaged[random.below(damaged.size())] = static_cast<char>(random.next());
    (void)decode<Outer>(damaged).ok();
  }
}

TEST(File, IsReplacedWhole) {
  const std::string path = testing::TempDir() + "/proa-replaced";
  ASSERT_TRUE(replace_file(path, "first", 0644).ok());
  // What a process left that died in the middle is no obstacle.
  ASSERT_TRUE(replace_file(path + ".new", "torn", 0400).ok());
  ASSERT_TRUE(replace_file(path, "second", 0600).ok());
  const OwnedFd fd = open_file(AT_FDCWD, path, O_RDONLY).value();
  EXPECT_EQ(read_all(fd.get(), 100, path).value(), "second");
  struct stat status{};
  ASSERT_EQ(::fstat(fd.get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  EXPECT_FALSE(replace_file("/proc/nowhere/file", "x", 0600).ok());
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace proa
