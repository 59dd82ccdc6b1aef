// SPDX-License-Identifier: Apache-2.0
//
// The suite that every Store passes. A Harness makes stores on one disk, again and again, and drives the
// loop until something has happened.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "store/store.h"

namespace proa::store {

class StoreHarness {
 public:
  virtual ~StoreHarness() = default;
  virtual std::unique_ptr<Store> open() = 0;  // On the same disk each time.
  virtual Loop& loop() = 0;
  virtual void run_until(const std::function<bool()>& happened) = 0;
};

class StoreSuite : public testing::TestWithParam<std::function<std::unique_ptr<StoreHarness>()>> {
 protected:
  void SetUp() override {
    harness_ = GetParam()();
    store_ = harness_->open();
  }
  void reopen() {
    store_.reset();
    store_ = harness_->open();
  }
  Result<void> commit(Batch batch) {
    std::optional<Result<void>> result;
    store_->commit(std::move(batch), [&](Result<void> done) { result = done; });
    harness_->run_until([&] { return result.has_value(); });
    return *result;
  }
  template <class T>
  T run(Async<T> work) {
    std::optional<T> out;
    Scope scope;
    scope.spawn(keep(std::move(work), &out));
    harness_->run_until([&] { return out.has_value(); });
    return std::move(*out);
  }
  template <class T>
  static Async<> keep(Async<T> work, std::optional<T>* out) {
    out->emplace(co_await std::move(work));
  }
  std::optional<Bytes> get(Table table, Bytes key) { return run(store_->get(table, std::move(key))).value(); }

  std::unique_ptr<StoreHarness> harness_;
  std::unique_ptr<Store> store_;
};

TEST_P(StoreSuite, WhatIsCommittedIsThereAfterOpeningAnew) {
  ASSERT_TRUE(commit({{Table::kApp, "a", "1"}, {Table::kApp, "b", Bytes("\0x", 2)}, {Table::kCall, "a", ""}}).ok());
  reopen();
  EXPECT_EQ(get(Table::kApp, "a"), "1");
  EXPECT_EQ(get(Table::kApp, "b"), Bytes("\0x", 2));
  EXPECT_EQ(get(Table::kCall, "a"), "");
  EXPECT_EQ(get(Table::kCall, "b"), std::nullopt);
}

TEST_P(StoreSuite, LaterWritesOfABatchWinAndDeletesDelete) {
  ASSERT_TRUE(commit({{Table::kApp, "a", "1"}, {Table::kApp, "a", "2"}, {Table::kApp, "b", "1"}, {Table::kApp, "b", std::nullopt}}).ok());
  EXPECT_EQ(get(Table::kApp, "a"), "2");
  EXPECT_EQ(get(Table::kApp, "b"), std::nullopt);
  ASSERT_TRUE(commit({{Table::kApp, "a", std::nullopt}, {Table::kApp, "never there", std::nullopt}}).ok());
  EXPECT_EQ(get(Table::kApp, "a"), std::nullopt);
}

TEST_P(StoreSuite, ScansAreInKeyOrderHalfOpenAndBounded) {
  Batch batch;
  for (const char* key : {"c", "a", "b", "d"}) batch.push_back({Table::kInput, key, key});
  batch.push_back({Table::kInput, Bytes("\xff\x01", 2), "last"});
  ASSERT_TRUE(commit(batch).ok());
  const auto keys = [&](Bytes from, Bytes to, std::size_t rows_max) {
    Bytes out;
    for (const Row& row : run(store_->scan(Table::kInput, std::move(from), std::move(to), rows_max)).value()) out += row.first[0];
    return out;
  };
  EXPECT_EQ(keys("", "", 10), "abcd\xff");
  EXPECT_EQ(keys("b", "d", 10), "bc");
  EXPECT_EQ(keys("a", "", 2), "ab");
  Bytes loaded;
  ASSERT_TRUE(store_->load(Table::kInput, [&](BytesView key, BytesView) { loaded += key[0]; }).ok());
  EXPECT_EQ(loaded, "abcd\xff");
}

TEST_P(StoreSuite, CommitsAreAcknowledgedInOrder) {
  std::vector<int> order;
  for (int i = 0; i < 200; ++i) {
    store_->commit({{Table::kApp, "k" + std::to_string(i), "v"}, {Table::kApp, "last", std::to_string(i)}},
                   [&order, i](const Result<void>& done) {
                     ASSERT_TRUE(done.ok());
                     order.push_back(i);
                   });
  }
  harness_->run_until([&] { return order.size() == 200; });
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(get(Table::kApp, "last"), "199");
}

TEST_P(StoreSuite, ALargeValueComesBackWhole) {
  const Bytes large(5 << 20, 'x');
  ASSERT_TRUE(commit({{Table::kOutput, "big", large}}).ok());
  EXPECT_EQ(get(Table::kOutput, "big"), large);
}

}  // namespace proa::store
