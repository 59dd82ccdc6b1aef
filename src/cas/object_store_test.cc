// SPDX-License-Identifier: Apache-2.0
#include "cas/object_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

namespace proa::cas {
namespace {

namespace fs = std::filesystem;

class ObjectStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "proa-cas-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    store_ = ObjectStore::open(directory_ + "/objects").value();
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string path_of(const Digest& digest) const { return store_->directory() + "/" + ObjectStore::name_of(digest); }
  std::size_t temporaries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(store_->directory() + "/tmp"), fs::directory_iterator()));
  }
  void damage(const Digest& digest, const std::string& bytes) const {
    fs::permissions(path_of(digest), fs::perms::owner_all);
    std::ofstream(path_of(digest), std::ios::trunc) << bytes;
  }

  std::string directory_;
  std::unique_ptr<ObjectStore> store_;
};

TEST_F(ObjectStoreTest, KeepsBytesUnderTheirHash) {
  const Digest digest = store_->put_bytes("hello").value();
  EXPECT_EQ(digest, sha256("hello"));
  EXPECT_EQ(store_->read(digest, 100).value(), "hello");
  EXPECT_EQ(store_->size(digest).value(), 5U);
  EXPECT_TRUE(store_->has(digest).value());
  struct stat status{};
  ASSERT_EQ(::stat(path_of(digest).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0444U);
}

TEST_F(ObjectStoreTest, NamesWhatIsMissing) {
  const Digest digest = sha256("nothing");
  EXPECT_FALSE(store_->has(digest).value());
  EXPECT_EQ(store_->read(digest, 1).error().code, Code::kNotFound);
  EXPECT_NE(store_->open_object(digest).error().message.find(digest.hex()), std::string::npos);
}

TEST_F(ObjectStoreTest, LeavesAnObjectThatIsThereAlone) {
  const Digest digest = store_->put_bytes("once").value();
  const auto before = fs::last_write_time(path_of(digest));
  struct stat first{};
  struct stat second{};
  ASSERT_EQ(::stat(path_of(digest).c_str(), &first), 0);
  EXPECT_EQ(store_->put_bytes("once").value(), digest);
  ASSERT_EQ(::stat(path_of(digest).c_str(), &second), 0);
  EXPECT_EQ(first.st_ino, second.st_ino);
  EXPECT_EQ(before, fs::last_write_time(path_of(digest)));
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ObjectStoreTest, MakesAnOldObjectYoungWhenItIsPutAgain) {
  const Digest digest = store_->put_bytes("old").value();
  fs::last_write_time(path_of(digest), fs::file_time_type::clock::now() - std::chrono::hours(48));
  ASSERT_TRUE(store_->put_bytes("old").ok());
  EXPECT_GT(fs::last_write_time(path_of(digest)), fs::file_time_type::clock::now() - std::chrono::hours(1));
}

TEST_F(ObjectStoreTest, StreamsAndRefusesBytesThatAreNotThosePromised) {
  auto writer = store_->write().value();
  ASSERT_TRUE(writer->write("ab").ok());
  ASSERT_TRUE(writer->write("c").ok());
  EXPECT_EQ(writer->finish().value(), sha256("abc"));

  auto liar = store_->write().value();
  ASSERT_TRUE(liar->write("abd").ok());
  EXPECT_EQ(liar->finish_as(sha256("abe")).error().code, Code::kDataLoss);
  liar.reset();
  EXPECT_FALSE(store_->has(sha256("abd")).value());
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ObjectStoreTest, ShowsABatchOnlyOnceItIsCommitted) {
  {
    Batch dropped(*store_);
    ASSERT_TRUE(dropped.put_bytes("dropped").ok());
    EXPECT_FALSE(store_->has(sha256("dropped")).value());
  }
  EXPECT_EQ(temporaries(), 0U);
  std::vector<std::string> contents;
  for (int i = 0; i < 50; ++i) contents.push_back("content " + std::to_string(i % 40));
  const auto digests = store_->put_many({contents.begin(), contents.end()}).value();
  for (std::size_t i = 0; i < contents.size(); ++i) EXPECT_EQ(store_->read(digests[i], 100).value(), contents[i]);
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ObjectStoreTest, SaysThatADamagedObjectIsDamagedAndHealsItWhenItIsPutAgain) {
  const Digest digest = store_->put_bytes("precious").value();
  damage(digest, "previous");
  EXPECT_EQ(store_->read(digest, 100).error().code, Code::kDataLoss);
  EXPECT_EQ(store_->verify(digest).error().code, Code::kDataLoss);
  damage(digest, "prec");
  ASSERT_TRUE(store_->put_bytes("precious").ok());
  EXPECT_EQ(store_->read(digest, 100).value(), "precious");
}

TEST_F(ObjectStoreTest, PutsLargeFilesWithoutHoldingThemInMemory) {
  const std::string path = directory_ + "/large";
  std::string bytes(3 << 20, 'l');
  std::ofstream(path) << bytes;
  const Stored stored = store_->put_file(path).value();
  EXPECT_EQ(stored.size_bytes, bytes.size());
  EXPECT_EQ(stored.digest, sha256(bytes));
  EXPECT_EQ(store_->read_range(stored.digest, bytes.size() - 3, 10).value(), "lll");
  EXPECT_EQ(store_->read(stored.digest, 1000).error().code, Code::kOutOfRange);
}

TEST_F(ObjectStoreTest, TakesTheSameBytesFromManyThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int j = 0; j < 20; ++j) EXPECT_TRUE(store_->put_bytes("shared " + std::to_string(j)).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  int count = 0;
  const auto counted = store_->for_each([&](const ObjectInfo& info) {
    EXPECT_GT(info.size_bytes, 0U);
    ++count;
    return true;
  });
  ASSERT_TRUE(counted.ok());
  EXPECT_EQ(count, 20);
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ObjectStoreTest, ForgetsWhatWritersThatDiedLeft) {
  const std::string torn = store_->directory() + "/tmp/torn";
  const std::string fresh = store_->directory() + "/tmp/fresh";
  std::ofstream(torn) << "half";
  std::ofstream(fresh) << "half";
  fs::last_write_time(torn, fs::file_time_type::clock::now() - std::chrono::hours(25));
  ASSERT_TRUE(ObjectStore::open(store_->directory()).ok());
  EXPECT_FALSE(fs::exists(torn));
  EXPECT_TRUE(fs::exists(fresh));
}

// A full disk looks like this to a writer: write() stops short. The limit on a file's size gives the same path
// without needing root; cas_disk_test has the real thing.
TEST_F(ObjectStoreTest, LeavesNothingTornWhenTheDiskRefuses) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string bytes(10'000, 'b');
  EXPECT_FALSE(store_->put_bytes(bytes).ok());
  {
    auto writer = store_->write().value();
    EXPECT_FALSE(writer->write(bytes).ok());
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(store_->has(sha256(bytes)).value());
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ObjectStoreTest, ChecksTreesWhenItReadsThem) {
  const Tree tree = make_tree({{.path = "a", .mode = 0644, .size_bytes = 1, .content = sha256("x")}}).value();
  const Digest digest = store_->put_tree(tree).value();
  EXPECT_EQ(store_->get_tree(digest).value(), tree);
  const Digest other = store_->put_bytes("no tree").value();
  EXPECT_EQ(store_->get_tree(other).error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace proa::cas
