// SPDX-License-Identifier: Apache-2.0
//
// What every Blobs must do: one suite for all implementations. A test program instantiates it with a factory.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/digest.h"
#include "blob/blob.h"
#include "rt/loop.h"
#include "rt/sim/sim_loop.h"

namespace proa::blob {

// Keeps what the blobs need, and them.
class BlobsUnderTest {
 public:
  virtual ~BlobsUnderTest() = default;
  virtual Blobs& blobs() = 0;
  virtual sim::SimLoop& loop() = 0;
};

using MakeBlobs = std::function<std::unique_ptr<BlobsUnderTest>()>;

class BlobSuite : public testing::TestWithParam<std::pair<const char*, MakeBlobs>> {
 protected:
  void SetUp() override { under_test_ = GetParam().second(); }

  Blobs& blobs() { return under_test_->blobs(); }
  BlobId next_id() { return BlobId::make(random_, from_micros(1)); }

  template <class T>
  T await(Async<T> work) {
    std::optional<T> result;
    Scope scope;
    scope.spawn(keep(std::move(work), &result));
    while (!result && under_test_->loop().step()) {
    }
    return std::move(result).value();
  }
  Result<Bytes> upload(Result<std::unique_ptr<Upload>> begun, BytesView bytes) {
    PROA_TRY(const auto to, std::move(begun));
    // In two pieces, so that order matters.
    PROA_TRY_VOID(await(to->write(Bytes(bytes.substr(0, bytes.size() / 2)))));
    PROA_TRY_VOID(await(to->write(Bytes(bytes.substr(bytes.size() / 2)))));
    return await(to->commit());
  }
  Result<Bytes> put(BlobId id, BytesView bytes) { return upload(await(blobs().put(id, bytes.size())), bytes); }
  Result<Bytes> put_part(BlobId id, std::uint32_t number, BytesView bytes) {
    return upload(await(blobs().put_part(id, number, bytes.size())), bytes);
  }
  Result<Bytes> get(BlobId id) { return await(read_bytes(blobs(), id, 1 << 20)); }
  static Part part(std::uint32_t number, BytesView bytes) { return {.number = number, .etag = to_hex(md5(bytes))}; }

 private:
  template <class T>
  static Async<> keep(Async<T> work, std::optional<T>* into) {
    into->emplace(co_await std::move(work));
  }

  SeededRandom random_{11};
  std::unique_ptr<BlobsUnderTest> under_test_;
};

TEST_P(BlobSuite, KeepsWhatIsPutAndAnswersItsMd5) {
  const BlobId id = next_id();
  EXPECT_EQ(put(id, "hello").value(), md5("hello"));
  EXPECT_EQ(get(id).value(), "hello");
  EXPECT_EQ(await(blobs().size(id)).value(), 5U);
  const BlobId empty = next_id();
  EXPECT_EQ(await(put_bytes(blobs(), empty, "")).value(), md5(""));
  EXPECT_EQ(get(empty).value(), "");
}

TEST_P(BlobSuite, NamesABlobThatIsNotThere) {
  const BlobId id = next_id();
  const Error error = await(blobs().size(id)).error();
  EXPECT_EQ(error.code, Code::kNotFound);
  EXPECT_NE(error.message.find(id.text()), std::string::npos);
  EXPECT_EQ(get(id).error().code, Code::kNotFound);
  EXPECT_TRUE(await(blobs().remove(id)).ok());
}

TEST_P(BlobSuite, ShowsNothingBeforeTheCommit) {
  const BlobId id = next_id();
  {
    const auto abandoned = await(blobs().put(id, 3)).value();
    EXPECT_TRUE(await(abandoned->write("abc")).ok());
    EXPECT_EQ(get(id).error().code, Code::kNotFound);
  }
  EXPECT_EQ(get(id).error().code, Code::kNotFound);
}

TEST_P(BlobSuite, HoldsAnUploadToItsLength) {
  const BlobId id = next_id();
  const auto upload = await(blobs().put(id, 3)).value();
  EXPECT_EQ(await(upload->write("abcd")).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(await(upload->write("ab")).ok());
  EXPECT_EQ(await(upload->commit()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get(id).error().code, Code::kNotFound);
}

TEST_P(BlobSuite, TakesTheSameBytesTwiceAndOthersNever) {
  const BlobId id = next_id();
  ASSERT_TRUE(put(id, "first").ok());
  EXPECT_EQ(put(id, "first").value(), md5("first"));
  EXPECT_EQ(put(id, "other").error().code, Code::kAlreadyExists);
  EXPECT_EQ(put(id, "longer").error().code, Code::kAlreadyExists);
  EXPECT_EQ(get(id).value(), "first");
}

TEST_P(BlobSuite, ReadsRangesAndStopsAtTheEnd) {
  const BlobId id = next_id();
  ASSERT_TRUE(put(id, "0123456789").ok());
  const auto download = await(blobs().open(id)).value();
  EXPECT_EQ(download->size_bytes(), 10U);
  EXPECT_EQ(await(download->read(3, 4)).value(), "3456");
  EXPECT_EQ(await(download->read(8, 100)).value(), "89");
  EXPECT_EQ(await(download->read(10, 1)).value(), "");
  EXPECT_EQ(await(read_bytes(blobs(), id, 9)).error().code, Code::kOutOfRange);
}

TEST_P(BlobSuite, GoesOnReadingABlobThatIsRemoved) {
  const BlobId id = next_id();
  ASSERT_TRUE(put(id, "gone soon").ok());
  const auto download = await(blobs().open(id)).value();
  ASSERT_TRUE(await(blobs().remove(id)).ok());
  EXPECT_EQ(await(download->read(0, 100)).value(), "gone soon");
  EXPECT_EQ(get(id).error().code, Code::kNotFound);
}

TEST_P(BlobSuite, MakesABlobOfPartsThatCameInAnyOrder) {
  const BlobId id = next_id();
  EXPECT_EQ(put_part(id, 2, "world").value(), md5("world"));
  ASSERT_TRUE(put_part(id, 1, "wrong ").ok());
  ASSERT_TRUE(put_part(id, 1, "hello ").ok());
  EXPECT_EQ(get(id).error().code, Code::kNotFound);
  const std::string expected = to_hex(md5(md5("hello ") + md5("world"))) + "-2";
  const std::vector<Part> parts{part(1, "hello "), part(2, "world")};
  EXPECT_EQ(await(blobs().complete(id, parts, 11)).value(), expected);
  EXPECT_EQ(get(id).value(), "hello world");
  // The answer was lost, and the client says it again.
  EXPECT_EQ(await(blobs().complete(id, parts, 11)).value(), expected);
}

TEST_P(BlobSuite, RefusesPartsThatAreNotThoseUploaded) {
  const BlobId id = next_id();
  ASSERT_TRUE(put_part(id, 1, "one").ok());
  ASSERT_TRUE(put_part(id, 2, "two").ok());
  const auto code = [&](std::vector<Part> parts, std::uint64_t length) {
    return await(blobs().complete(id, std::move(parts), length)).error().code;
  };
  EXPECT_EQ(code({}, 0), Code::kInvalidArgument);
  EXPECT_EQ(code({part(1, "one"), part(2, "TWO")}, 6), Code::kInvalidArgument);
  EXPECT_EQ(code({part(1, "one"), part(3, "two")}, 6), Code::kInvalidArgument);
  EXPECT_EQ(code({part(2, "two"), part(1, "one")}, 6), Code::kInvalidArgument);
  EXPECT_EQ(code({{.number = 1, .etag = "../../../../etc/passwd"}}, 3), Code::kInvalidArgument);
  EXPECT_EQ(code({part(1, "one"), part(2, "two")}, 7), Code::kFailedPrecondition);
  EXPECT_EQ(await(blobs().put_part(id, 0, 1)).error().code, Code::kInvalidArgument);
  EXPECT_EQ(await(blobs().put_part(id, 10'001, 1)).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(await(blobs().complete(id, {part(1, "one"), part(2, "two")}, 6)).ok());
}

TEST_P(BlobSuite, RemovesABlobWithTheParts) {
  const BlobId id = next_id();
  ASSERT_TRUE(put_part(id, 1, "one").ok());
  ASSERT_TRUE(await(blobs().remove(id)).ok());
  EXPECT_EQ(await(blobs().complete(id, {part(1, "one")}, 3)).error().code, Code::kInvalidArgument);
}

}  // namespace proa::blob
