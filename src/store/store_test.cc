// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "rt/real_loop.h"
#include "rt/sim/sim_loop.h"
#include "store/memory/memory_store.h"
#include "store/sqlite/sqlite_store.h"
#include "store/store_suite.h"

namespace proa::store {
namespace {

class MemoryHarness final : public StoreHarness {
 public:
  std::unique_ptr<Store> open() override { return std::make_unique<MemoryStore>(loop_, disk_, std::chrono::milliseconds(1)); }
  Loop& loop() override { return loop_; }
  void run_until(const std::function<bool()>& happened) override {
    while (!happened() && loop_.step()) {
    }
  }

 private:
  sim::SimLoop loop_;
  Disk disk_;
};

class SqliteHarness final : public StoreHarness {
 public:
  SqliteHarness() {
    std::string pattern = (std::filesystem::temp_directory_path() / "proa-store-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~SqliteHarness() override { std::filesystem::remove_all(directory_); }
  std::unique_ptr<Store> open() override { return std::move(open_sqlite(loop_, directory_ + "/state.db")).value(); }
  Loop& loop() override { return loop_; }
  void run_until(const std::function<bool()>& happened) override {
    while (!happened()) loop_.run_one();
  }
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
  RealLoop loop_;
};

TEST(SqliteStore, RefusesWhatANewerProgramWrote) {
  SqliteHarness harness;
  harness.open().reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((harness.directory() + "/state.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const auto opened = open_sqlite(harness.loop(), harness.directory() + "/state.db");
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, Code::kFailedPrecondition);
}

TEST(SqliteStore, RefusesAFileThatIsNoStore) {
  SqliteHarness harness;
  std::ofstream(harness.directory() + "/state.db") << std::string(8192, 'x');
  const auto opened = open_sqlite(harness.loop(), harness.directory() + "/state.db");
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code, Code::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(Sqlite, StoreSuite, testing::Values([] { return std::make_unique<SqliteHarness>(); }));
INSTANTIATE_TEST_SUITE_P(Memory, StoreSuite, testing::Values([] { return std::make_unique<MemoryHarness>(); }));

}  // namespace
}  // namespace proa::store
