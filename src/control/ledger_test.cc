// SPDX-License-Identifier: Apache-2.0
#include "control/ledger.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rt/sim/sim_loop.h"

namespace proa::control {
namespace {

using store::Table;

// A store whose commits are finished by hand, so that a test sees what is in each batch.
class HandStore final : public store::Store {
 public:
  void commit(store::Batch batch, std::function<void(Result<void>)> done) override {
    batches.push_back(std::move(batch));
    pending.push_back(std::move(done));
  }
  Async<Result<std::optional<Bytes>>> get(Table, Bytes) override { co_return std::optional<Bytes>(); }
  Async<Result<std::vector<store::Row>>> scan(Table, Bytes, Bytes, std::size_t) override {
    co_return std::vector<store::Row>();
  }
  Result<void> load(Table, const std::function<void(BytesView, BytesView)>&) override { return {}; }
  void finish(Result<void> with = {}) {
    auto done = std::move(pending.front());
    pending.erase(pending.begin());
    done(std::move(with));
  }

  std::vector<store::Batch> batches;
  std::vector<std::function<void(Result<void>)>> pending;
};

class LedgerTest : public testing::Test {
 protected:
  void settle_loop() {
    while (loop.step()) {
    }
  }
  void put(const std::string& key) { ledger.put_bytes(Table::kMeta, key, "value of " + key); }
  static Async<> note(Ledger* ledger, std::vector<std::string>* said, std::string what) {
    co_await ledger->durable();
    said->push_back(what);
  }

  sim::SimLoop loop;
  HandStore store;
  std::vector<Error> failures;
  Ledger ledger{loop, store, [this](Error error) { failures.push_back(std::move(error)); }};
};

TEST_F(LedgerTest, CommitsWhatOnePieceOfWorkWritesInOneBatch) {
  put("a");
  put("b");
  ledger.erase(Table::kMeta, "c");
  EXPECT_TRUE(store.batches.empty());
  settle_loop();
  ASSERT_EQ(store.batches.size(), 1U);
  ASSERT_EQ(store.batches[0].size(), 3U);
  EXPECT_EQ(store.batches[0][0].key, "a");
  EXPECT_EQ(store.batches[0][1].key, "b");
  EXPECT_EQ(store.batches[0][2].value, std::nullopt);
}

TEST_F(LedgerTest, GathersInTheNextBatchWhatIsWrittenWhileOneIsUnderWay) {
  put("a");
  settle_loop();
  put("b");
  settle_loop();
  put("c");
  settle_loop();
  EXPECT_EQ(store.batches.size(), 1U);
  store.finish();
  ASSERT_EQ(store.batches.size(), 2U);
  EXPECT_EQ(store.batches[1].size(), 2U);
  EXPECT_FALSE(ledger.settled());
  store.finish();
  EXPECT_TRUE(ledger.settled());
}

TEST_F(LedgerTest, WaitsForWhatWasWrittenBeforeAndForNoMore) {
  Scope scope;
  std::vector<std::string> said;
  put("a");
  scope.spawn(note(&ledger, &said, "after a"));
  settle_loop();
  put("b");
  scope.spawn(note(&ledger, &said, "after b"));
  settle_loop();
  EXPECT_TRUE(said.empty());
  store.finish();
  settle_loop();
  EXPECT_EQ(said, std::vector<std::string>{"after a"});
  store.finish();
  settle_loop();
  EXPECT_EQ(said, (std::vector<std::string>{"after a", "after b"}));
}

TEST_F(LedgerTest, IsDurableAtOnceWhenNothingIsOpen) {
  Scope scope;
  std::vector<std::string> said;
  scope.spawn(note(&ledger, &said, "now"));
  EXPECT_EQ(said.size(), 1U);
  bool called = false;
  ledger.when_durable([&] { called = true; });
  EXPECT_TRUE(called);
}

TEST_F(LedgerTest, CallsWaitersInTheOrderInWhichTheyCame) {
  std::vector<int> order;
  put("a");
  for (int i = 0; i < 3; ++i) ledger.when_durable([&order, i] { order.push_back(i); });
  settle_loop();
  store.finish();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

TEST_F(LedgerTest, TellsOfAFailedCommitAndWakesNobody) {
  bool woken = false;
  put("a");
  ledger.when_durable([&] { woken = true; });
  settle_loop();
  store.finish(resource_exhausted("the disk is full"));
  settle_loop();
  ASSERT_EQ(failures.size(), 1U);
  EXPECT_EQ(failures[0].code, Code::kResourceExhausted);
  EXPECT_FALSE(woken);
  EXPECT_FALSE(ledger.settled());
}

TEST(Ledger, ForgetsACommitThatEndsAfterIt) {
  sim::SimLoop loop;
  HandStore store;
  {
    Ledger ledger(loop, store, [](const Error&) { FAIL(); });
    ledger.put_bytes(Table::kMeta, "a", "1");
    while (loop.step()) {
    }
  }
  ASSERT_EQ(store.pending.size(), 1U);
  store.finish();
}

}  // namespace
}  // namespace proa::control
