// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "blob/blob_suite.h"
#include "blob/fs_blobs.h"
#include "blob/memory_blobs.h"
#include "blob/signed_url.h"

namespace proa::blob {
namespace {

namespace fs = std::filesystem;

class MemoryUnderTest final : public BlobsUnderTest {
 public:
  Blobs& blobs() override { return blobs_; }
  sim::SimLoop& loop() override { return loop_; }

 private:
  sim::SimLoop loop_;
  MemoryBlobs blobs_;
};

class FsUnderTest final : public BlobsUnderTest {
 public:
  FsUnderTest() {
    std::string name = (fs::temp_directory_path() / "proa-blob-XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    blobs_ = FsBlobs::open_directory(loop_, pool_, directory_ + "/blobs").value();
  }
  ~FsUnderTest() override {
    blobs_.reset();
    // Whatever a test did, nothing that was abandoned is left.
    EXPECT_TRUE(fs::is_empty(directory_ + "/blobs/tmp"));
    fs::remove_all(directory_);
  }
  Blobs& blobs() override { return *blobs_; }
  sim::SimLoop& loop() override { return loop_; }

 private:
  sim::SimLoop loop_;
  InlinePool pool_;
  std::string directory_;
  std::unique_ptr<FsBlobs> blobs_;
};

INSTANTIATE_TEST_SUITE_P(
    All, BlobSuite,
    testing::Values(std::pair<const char*, MakeBlobs>{"Memory", [] { return std::make_unique<MemoryUnderTest>(); }},
                    std::pair<const char*, MakeBlobs>{"Fs", [] { return std::make_unique<FsUnderTest>(); }}),
    [](const auto& info) { return std::string(info.param.first); });

Async<> put_durable(Blobs& blobs, BlobId id) { EXPECT_TRUE((co_await put_bytes(blobs, id, "durable")).ok()); }

TEST(FsBlobs, KeepsBlobsAndPartsOverARestartAndForgetsWhatWasTorn) {
  std::string directory = (fs::temp_directory_path() / "proa-blob-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  sim::SimLoop loop;
  InlinePool pool;
  const BlobId id(IdBits{.high = 1, .low = 2});
  {
    const auto blobs = FsBlobs::open_directory(loop, pool, directory).value();
    Scope scope;
    scope.spawn(put_durable(*blobs, id));
    while (loop.step()) {
    }
  }
  std::ofstream(directory + "/tmp/torn") << "half";
  const auto blobs = FsBlobs::open_directory(loop, pool, directory).value();
  EXPECT_TRUE(fs::is_empty(directory + "/tmp"));
  EXPECT_TRUE(fs::exists(directory + "/00/00000000000000010000000000000002"));
  EXPECT_EQ(read_all(blobs->open_file_of(id).value().get(), 100, "blob").value(), "durable");
  fs::remove_all(directory);
}

TEST(FsBlobs, TellsWhatIsOlderThanATime) {
  std::string directory = (fs::temp_directory_path() / "proa-blob-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  sim::SimLoop loop;
  InlinePool pool;
  const BlobId id(IdBits{.high = 0xff00000000000001, .low = 2});
  const auto blobs = FsBlobs::open_directory(loop, pool, directory).value();
  Scope scope;
  scope.spawn(put_durable(*blobs, id));
  while (loop.step()) {
  }
  // The files' times are the machine's.
  const Time now = SystemClock().now();
  EXPECT_EQ(blobs->older_than(now + std::chrono::minutes(1)).value(), std::vector{id});
  EXPECT_TRUE(blobs->older_than(now - std::chrono::minutes(1)).value().empty());
  fs::remove_all(directory);
}

class SignedUrl : public testing::Test {
 protected:
  static UrlGrant grant() {
    return {.method = UrlMethod::kPut, .path = "/blob/bl-1", .part = 3, .length = 10, .expires = at(2000)};
  }
  static Time at(int seconds) { return Time(std::chrono::seconds(seconds)); }

  Bytes key_ = Bytes(32, 'k');
  UrlSigner signer_{{key_}};
};

TEST_F(SignedUrl, OpensWhatItWasSignedForUntilItExpires) {
  const std::string target = signer_.sign(grant());
  EXPECT_EQ(signer_.verify("PUT", target, at(1000)).value(), grant());
  EXPECT_EQ(signer_.verify("PUT", target, at(2000)).value(), grant());
  EXPECT_EQ(signer_.verify("PUT", target, at(2001)).error().code, Code::kPermissionDenied);
}

TEST_F(SignedUrl, OfAGetNeverOpensAPut) {
  UrlGrant reading = grant();
  reading.method = UrlMethod::kGet;
  const std::string target = signer_.sign(reading);
  EXPECT_TRUE(signer_.verify("GET", target, at(1)).ok());
  EXPECT_TRUE(signer_.verify("HEAD", target, at(1)).ok());
  for (const char* method : {"PUT", "POST", "DELETE", "get", ""}) {
    EXPECT_EQ(signer_.verify(method, target, at(1)).error().code, Code::kPermissionDenied) << method;
  }
}

TEST_F(SignedUrl, IsSpoiltByEveryChange) {
  const std::string target = signer_.sign(grant());
  for (std::size_t i = 0; i < target.size(); ++i) {
    for (const char other : {'0', '1', 'A', '&', '/'}) {
      std::string changed = target;
      if (changed[i] == other) continue;
      changed[i] = other;
      EXPECT_FALSE(signer_.verify("PUT", changed, at(1)).ok()) << changed;
    }
    EXPECT_FALSE(signer_.verify("PUT", target.substr(0, i), at(1)).ok());
  }
  EXPECT_FALSE(signer_.verify("PUT", target + "&length=11", at(1)).ok());
  EXPECT_FALSE(signer_.verify("PUT", target + "&more=1", at(1)).ok());
  EXPECT_FALSE(signer_.verify("PUT", "", at(1)).ok());
  EXPECT_FALSE(signer_.verify("PUT", std::string(5000, '/') + "?a=b", at(1)).ok());
}

TEST_F(SignedUrl, OutlivesTheRotationOfKeys) {
  const std::string target = signer_.sign(grant());
  const UrlSigner rotated({Bytes(32, 'n'), key_});
  EXPECT_TRUE(rotated.verify("PUT", target, at(1)).ok());
  EXPECT_FALSE(signer_.verify("PUT", rotated.sign(grant()), at(1)).ok());
}

}  // namespace
}  // namespace proa::blob
