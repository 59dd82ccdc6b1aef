// SPDX-License-Identifier: Apache-2.0
#include "worker/step_host.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "rt/sim/sim_loop.h"
#include "worker/fake_world.h"

namespace proa::worker {
namespace {

class FakeServer final : public sched::StepCalls {
 public:
  sched::StepOrder order;
  std::string said;
  std::optional<sched::StepResult> result;
  int away = 0;  // So many calls fail first.

  Async<Result<sched::StepOrder>> fetch_step(sched::StepId) override {
    if (away-- > 0) co_return unavailable("away");
    co_return order;
  }
  Async<Result<void>> put_step_output(sched::StepOutput output) override {
    if (away-- > 0) co_return unavailable("away");
    EXPECT_EQ(output.step, order.step);
    said += output.text;
    co_return Result<void>();
  }
  Async<Result<void>> finish_step(sched::StepResult ended) override {
    if (away-- > 0) co_return unavailable("away");
    result = std::move(ended);
    co_return Result<void>();
  }
};

class StepHostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "proa-steps-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    objects = cas::ObjectStore::open(directory + "/objects").value();
    server.order.step = "step";
    server.order.argv = {"make"};
    server.order.keeps_files = false;
    server.order.timeout = std::chrono::minutes(10);
  }
  void TearDown() override {
    host.reset();
    std::filesystem::remove_all(directory);
  }
  // Until the container runs.
  container::SlotId start(StepLimits limits) {
    host = std::make_unique<StepHost>(loop, pool, runtime, pipes, *objects, server, limits);
    host->run("step");
    while (runtime.running() == 0 && !server.result && loop.step()) {
    }
    return runtime.running();
  }
  void end(container::SlotId slot, container::Exit how) {
    pipes.close(0);
    pipes.close(1);
    runtime.exit(slot, how);
    settle();
  }
  void settle() {
    while (!server.result && loop.step()) {
    }
  }

  sim::SimLoop loop;
  InlinePool pool;
  FakeRuntime runtime{loop};
  FakePipes pipes{loop};
  FakeServer server;
  std::string directory;
  std::unique_ptr<cas::ObjectStore> objects;
  std::unique_ptr<StepHost> host;
};

TEST_F(StepHostTest, AStepRunsWithinTheLimitsOfThisMachine) {
  const container::SlotId slot = start({.memory_bytes_max = 3LL << 30, .pids_max = 99});
  EXPECT_EQ(runtime.slots.at(slot).kind.limits.memory_bytes_max, 3LL << 30);
  EXPECT_EQ(runtime.slots.at(slot).kind.limits.pids_max, 99);
  pipes.write(0, "all is well\n");
  end(slot, {.code = 0});
  ASSERT_TRUE(server.result);
  EXPECT_EQ(server.result->code, 0);
  EXPECT_EQ(server.said, "all is well\n");
}

TEST_F(StepHostTest, AStepThatRanOutOfMemorySaysSoAfterItsOwnWords) {
  server.away = 3;
  const container::SlotId slot = start({.memory_bytes_max = 2LL << 30});
  pipes.write(1, "compiling\n");
  end(slot, {.code = 137, .oom = true});
  ASSERT_TRUE(server.result);
  EXPECT_TRUE(server.result->oom);
  EXPECT_EQ(server.result->code, 137);
  EXPECT_LT(server.said.find("compiling"), server.said.find("may use 2048 MiB of memory")) << server.said;
}

TEST_F(StepHostTest, AStepThatTakesTooLongIsStoppedAndSaysSo) {
  const container::SlotId slot = start({});
  const Time begun = loop.now();
  pipes.close(0);
  pipes.close(1);
  settle();
  ASSERT_TRUE(server.result);
  EXPECT_TRUE(server.result->timed_out);
  EXPECT_GE(loop.now() - begun, std::chrono::minutes(10));
  EXPECT_TRUE(runtime.slots.at(slot).exit);
  EXPECT_NE(server.said.find("may take 600 s"), std::string::npos) << server.said;
}

TEST_F(StepHostTest, AnOrderWithoutATimeGetsTheLongest) {
  server.order.timeout = Duration(0);
  start({.time_max = std::chrono::minutes(5)});
  pipes.close(0);
  pipes.close(1);
  settle();
  ASSERT_TRUE(server.result);
  EXPECT_TRUE(server.result->timed_out);
}

TEST(StepLimits, AreHalfOfTheMachineWithinBounds) {
  EXPECT_EQ(step_limits_for(16LL << 30).memory_bytes_max, 8LL << 30);
  EXPECT_EQ(step_limits_for(1LL << 30).memory_bytes_max, 1LL << 30);
  EXPECT_EQ(step_limits_for(1LL << 40).memory_bytes_max, 64LL << 30);
  EXPECT_GT(step_limits_of_this_machine().memory_bytes_max, 0);
}

}  // namespace
}  // namespace proa::worker
