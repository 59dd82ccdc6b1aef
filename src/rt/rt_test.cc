// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "rt/loop.h"
#include "rt/pool.h"
#include "rt/real_loop.h"
#include "rt/sim/sim_loop.h"

namespace proa {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Async<int> add_slowly(Loop& loop, int a, int b) {
  co_await sleep_for(loop, seconds(5));
  co_return a + b;
}

Async<> store_sum(Loop& loop, int* out) { *out = co_await add_slowly(loop, 2, 3); }

TEST(Loop, VirtualTimeJumpsToTheTimerAndNoFurther) {
  sim::SimLoop loop;
  Scope scope;
  int sum = 0;
  scope.spawn(store_sum(loop, &sum));
  loop.run_for(milliseconds(4999));
  EXPECT_EQ(sum, 0);
  loop.run_for(milliseconds(1));
  EXPECT_EQ(sum, 5);
  EXPECT_TRUE(scope.empty());
}

struct Flag {
  bool* gone;
  ~Flag() { *gone = true; }
};

Async<> hold(Loop& loop, bool* gone) {
  const Flag flag{gone};
  co_await sleep_for(loop, seconds(1000));
}

TEST(Scope, CancellingDestroysTheFramesAndTheirTimers) {
  sim::SimLoop loop;
  bool gone = false;
  {
    Scope scope;
    scope.spawn(hold(loop, &gone));
    EXPECT_FALSE(gone);
  }
  EXPECT_TRUE(gone);
  EXPECT_FALSE(loop.step());  // No timer is left.
}

Async<> await_signal(Signal& signal, Time deadline, int* outcome) { *outcome = co_await signal.wait_until(deadline) ? 1 : 2; }

TEST(Signal, WakesAllWaitersOrTimesOut) {
  sim::SimLoop loop;
  Signal signal(loop);
  Scope scope;
  int first = 0;
  int second = 0;
  scope.spawn(await_signal(signal, loop.now() + seconds(10), &first));
  scope.spawn(await_signal(signal, loop.now() + seconds(1), &second));
  loop.run_for(seconds(2));
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 2);
  signal.notify();
  loop.run_for(seconds(0));
  EXPECT_EQ(first, 1);
  EXPECT_FALSE(signal.has_waiters());
}

TEST(Signal, AThousandTimedOutWaitersLeaveNothingBehind) {
  sim::SimLoop loop;
  Signal signal(loop);
  Scope scope;
  int outcome = 0;
  for (int i = 0; i < 1000; ++i) {
    scope.spawn(await_signal(signal, loop.now() + seconds(1), &outcome));
    loop.run_for(seconds(2));
  }
  EXPECT_FALSE(signal.has_waiters());
}

Async<> in_pool(Pool& pool, Loop& loop, RealLoop& real, std::string* out) {
  *out = co_await run_in(pool, loop, [] { return std::string("from the pool"); });
  real.stop();
}

TEST(Pool, BringsTheResultBackToTheLoop) {
  RealLoop loop;
  ThreadPool pool(2);
  Scope scope;
  std::string out;
  scope.spawn(in_pool(pool, loop, loop, &out));
  loop.run();
  EXPECT_EQ(out, "from the pool");
}

Async<> copy_pipe(RealLoop& loop, int from, std::string* out) {
  WatchedFd fd(loop, from);
  while (true) {
    auto read = co_await fd.read_some(100);
    if (!read.ok() || read->empty()) break;
    *out += *read;
  }
  loop.stop();
}

Async<> fill_pipe(RealLoop& loop, int to) {
  WatchedFd fd(loop, to);
  (void)co_await fd.write_all(std::string(300'000, 'x'));
}

TEST(WatchedFd, MovesMoreThanAPipeHolds) {
  RealLoop loop;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Scope scope;
  std::string out;
  scope.spawn(copy_pipe(loop, ends[0], &out));
  scope.spawn(fill_pipe(loop, ends[1]));
  loop.run();
  EXPECT_EQ(out.size(), 300'000U);
}

}  // namespace
}  // namespace proa
