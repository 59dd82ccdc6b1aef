// SPDX-License-Identifier: Apache-2.0
#include "sched/placement.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace proa::sched {
namespace {

WorkerId worker_id(std::uint64_t number) { return WorkerId(IdBits{1, number}); }
control::Resources gib(std::int64_t memory, std::int64_t cores = 1) {
  return {.cpu_milli = cores * 1000, .memory_bytes = memory << 30};
}
WorkerView worker(std::uint64_t number, std::int64_t total, std::int64_t free) {
  WorkerView view;
  view.id = worker_id(number);
  view.total = gib(total, 8);
  view.free = gib(free, 8);
  view.cores = 2;
  return view;
}

TEST(Placement, PrefersTheFullerOfEqualWorkers) {
  EXPECT_EQ(place({gib(2)}, std::vector{worker(1, 16, 16), worker(2, 16, 4)}).value(), worker_id(2));
}

TEST(Placement, PrefersTheWorkerThatStartsFewest) {
  auto busy = worker(1, 16, 4);
  busy.starting = 1;
  EXPECT_EQ(place({gib(2)}, std::vector{busy, worker(2, 16, 16)}).value(), worker_id(2));
}

TEST(Placement, DoesNotDependOnTheOrderOfWorkers) {
  std::vector fleet{worker(1, 16, 8), worker(2, 16, 8), worker(3, 16, 3)};
  const WorkerId chosen = place({gib(2)}, fleet).value();
  std::reverse(fleet.begin(), fleet.end());
  EXPECT_EQ(place({gib(2)}, fleet).value(), chosen);
}

TEST(Placement, TellsNotNowFromNeverFromNobody) {
  const std::vector fleet{worker(1, 16, 1)};
  EXPECT_EQ(place({gib(2)}, fleet).error().code, Code::kResourceExhausted);
  EXPECT_EQ(place({gib(99)}, fleet).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(place({gib(2)}, {}).error().code, Code::kUnavailable);
}

TEST(Placement, NeedsRoomInEveryResource) {
  auto demand = gib(1);
  demand.gpus = 1;
  EXPECT_EQ(place({demand}, std::vector{worker(1, 16, 16)}).error().code, Code::kFailedPrecondition);
}

TEST(Placement, StartsNoMoreAtATimeThanAWorkerHasCores) {
  auto starting = worker(1, 16, 16);
  starting.starting = 2;
  EXPECT_EQ(place({gib(2)}, std::vector{starting}).error().code, Code::kResourceExhausted);
  starting.starting = 1;
  EXPECT_TRUE(place({gib(2)}, std::vector{starting}).ok());
}

TEST(Placement, AddsToAFunctionOnlyWhereThereIsCpuToSpare) {
  auto hot = worker(1, 16, 16);
  hot.cpu_busy = 0.99;
  hot.of_function = hot.cores - 1;
  EXPECT_TRUE(place({gib(2)}, std::vector{hot}).ok()) << "its share does not wait for others to be idle";
  hot.of_function = hot.cores;
  EXPECT_EQ(place({gib(2)}, std::vector{hot}).error().code, Code::kResourceExhausted);
  hot.cpu_busy = 0.5;
  EXPECT_TRUE(place({gib(2)}, std::vector{hot}).ok());
}

TEST(Placement, SharesCpuWithAFunctionThatHasNothingYetButNeverMemory) {
  auto taken = worker(1, 16, 4);
  taken.free.cpu_milli = 0;
  EXPECT_FALSE(has_room(gib(2), std::vector{taken}));
  EXPECT_EQ(place({gib(2)}, std::vector{taken}).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(place({gib(2), true}, std::vector{taken}).ok());
  EXPECT_EQ(place({gib(8), true}, std::vector{taken}).error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace proa::sched
