// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>

#include "rt/sim/sim_loop.h"
#include "store/logs_file.h"
#include "store/memory/memory_log_store.h"

namespace proa::store {
namespace {

class LogHarness {
 public:
  virtual ~LogHarness() = default;
  virtual std::unique_ptr<LogStore> open() = 0;
  sim::SimLoop loop;
};

class MemoryHarness final : public LogHarness {
 public:
  std::unique_ptr<LogStore> open() override { return std::make_unique<MemoryLogStore>(disk_); }

 private:
  LogDisk disk_;
};

class FileHarness final : public LogHarness {
 public:
  FileHarness() {
    std::string pattern = (std::filesystem::temp_directory_path() / "proa-logs-XXXXXX").string();
    directory = mkdtemp(pattern.data());
  }
  ~FileHarness() override { std::filesystem::remove_all(directory); }
  std::unique_ptr<LogStore> open() override {
    return FileLogStore::open(loop, pool_, directory, {.segment_bytes = 100, .app_bytes_max = 10'000}).value();
  }
  std::string directory;

 private:
  InlinePool pool_;
};

template <class T>
Async<> keep(Async<T> work, std::optional<T>* out) {
  out->emplace(co_await std::move(work));
}
template <class T>
T run(sim::SimLoop& loop, Async<T> work) {
  std::optional<T> out;
  Scope scope;
  scope.spawn(keep(std::move(work), &out));
  while (!out && loop.step()) {
  }
  return std::move(*out);
}

const AppId kApp(IdBits{1, 1});
const AppId kOther(IdBits{2, 2});

class LogStoreSuite : public testing::TestWithParam<std::function<std::unique_ptr<LogHarness>()>> {
 protected:
  void SetUp() override {
    harness_ = GetParam()();
    store_ = harness_->open();
  }
  void append(AppId app, std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t id = from; id < to; ++id) {
      ASSERT_TRUE(run(harness_->loop, store_->append({{app, {{id, "line " + std::to_string(id)}}}})).ok());
    }
  }
  std::vector<std::uint64_t> read(AppId app, std::uint64_t from, std::uint64_t to, LogOrder order,
                                  std::size_t bytes_max = 100'000) {
    std::vector<std::uint64_t> ids;
    for (const LogRecord& record : run(harness_->loop, store_->read(app, from, to, order, bytes_max)).value()) {
      EXPECT_EQ(record.bytes, "line " + std::to_string(record.id));
      ids.push_back(record.id);
    }
    return ids;
  }
  std::unique_ptr<LogHarness> harness_;
  std::unique_ptr<LogStore> store_;
};

TEST_P(LogStoreSuite, ReadsWhatWasAppendedInBothOrdersAlsoAfterOpeningAnew) {
  append(kApp, 1, 21);
  append(kOther, 5, 7);
  store_.reset();
  store_ = harness_->open();
  append(kApp, 21, 31);
  EXPECT_EQ(read(kApp, 18, 23, LogOrder::kOldestFirst), (std::vector<std::uint64_t>{18, 19, 20, 21, 22}));
  EXPECT_EQ(read(kApp, 18, 23, LogOrder::kNewestFirst), (std::vector<std::uint64_t>{22, 21, 20, 19, 18}));
  EXPECT_EQ(read(kApp, 0, UINT64_MAX, LogOrder::kOldestFirst).size(), 30U);
  EXPECT_EQ(read(kOther, 0, UINT64_MAX, LogOrder::kOldestFirst), (std::vector<std::uint64_t>{5, 6}));
  EXPECT_TRUE(read(AppId(IdBits{3, 3}), 0, UINT64_MAX, LogOrder::kOldestFirst).empty());
}

TEST_P(LogStoreSuite, AReadIsBoundedInBytesAndNeverEmptyWhenThereIsSomething) {
  append(kApp, 1, 10);
  EXPECT_EQ(read(kApp, 0, 100, LogOrder::kOldestFirst, 12), (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(read(kApp, 0, 100, LogOrder::kNewestFirst, 1), (std::vector<std::uint64_t>{9}));
}

TEST_P(LogStoreSuite, DropsAnApp) {
  append(kApp, 1, 10);
  append(kOther, 1, 2);
  ASSERT_TRUE(run(harness_->loop, store_->drop(kApp)).ok());
  ASSERT_TRUE(run(harness_->loop, store_->drop(kApp)).ok());
  EXPECT_TRUE(read(kApp, 0, 100, LogOrder::kOldestFirst).empty());
  EXPECT_EQ(read(kOther, 0, 100, LogOrder::kOldestFirst).size(), 1U);
  append(kApp, 10, 11);
  EXPECT_EQ(read(kApp, 0, 100, LogOrder::kOldestFirst), (std::vector<std::uint64_t>{10}));
}

INSTANTIATE_TEST_SUITE_P(File, LogStoreSuite, testing::Values([] { return std::make_unique<FileHarness>(); }));
INSTANTIATE_TEST_SUITE_P(Memory, LogStoreSuite, testing::Values([] { return std::make_unique<MemoryHarness>(); }));

TEST(FileLogStore, ATornEndHidesNothingOfWhatFollows) {
  FileHarness harness;
  auto store = harness.open();
  ASSERT_TRUE(run(harness.loop, store->append({{kApp, {{1, "one"}, {2, "two"}}}})).ok());
  store.reset();
  for (const auto& file : std::filesystem::recursive_directory_iterator(harness.directory)) {
    if (file.is_regular_file()) std::filesystem::resize_file(file.path(), file.file_size() - 1);
  }
  store = harness.open();
  ASSERT_TRUE(run(harness.loop, store->append({{kApp, {{3, "three"}}}})).ok());
  const auto records = run(harness.loop, store->read(kApp, 0, 100, LogOrder::kOldestFirst, 1000)).value();
  EXPECT_EQ(records, (std::vector<LogRecord>{{1, "one"}, {3, "three"}}));
}

TEST(FileLogStore, KeepsTheNewestOfAnAppThatPrintsTooMuch) {
  FileHarness harness;
  auto store = harness.open();
  for (std::uint64_t id = 1; id <= 100; ++id) {
    ASSERT_TRUE(run(harness.loop, store->append({{kApp, {{id, Bytes(500, 'x')}}}})).ok());
  }
  const auto records = run(harness.loop, store->read(kApp, 0, 1000, LogOrder::kOldestFirst, 1 << 20)).value();
  EXPECT_EQ(records.back().id, 100U);
  EXPECT_LE(records.size(), 20U);
  EXPECT_GE(records.size(), 18U);
}

}  // namespace
}  // namespace proa::store
