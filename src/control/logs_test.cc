// SPDX-License-Identifier: Apache-2.0
#include "control/logs.h"

#include "control/rooms_testing.h"
#include "store/memory/memory_log_store.h"

namespace proa::control {
namespace {

class LogsTest : public testing::Test {
 protected:
  LogsTest() {
    start();
    app = apps->create({.environment = EnvironmentId(IdBits{1, 1}), .state = AppState::kEphemeral}).value();
    world.settle();
  }
  void start() {
    logs.reset();
    apps.reset();
    world.reopen();
    store = std::make_unique<store::MemoryLogStore>(disk);
    apps = std::make_unique<Apps>(world.loop, world.random, *world.ledger, world.log,
                                  Apps::Config{.heartbeat_expiry = std::chrono::hours(1000)});
    logs = std::make_unique<Logs>(world.loop, *world.ledger, *store, *apps, world.log, config);
    apps->listen(*logs);
    ASSERT_TRUE(apps->load(*world.store).ok());
    ASSERT_TRUE(logs->load(*world.store).ok());
  }
  LogEntry line(std::string text, TaskId task = TaskId(IdBits{7, 7})) {
    return {.task = task, .function = FunctionId(IdBits{8, 8}), .time = world.loop.now(), .text = std::move(text)};
  }
  void append(std::vector<LogEntry> lines) { ASSERT_TRUE(world.run(logs->append(app, std::move(lines))).ok()); }
  LogPage follow(std::uint64_t after, LogFilter filter = {}, Duration wait = Duration(0)) {
    return world.run(logs->follow(app, std::move(filter), after, world.loop.now() + wait)).value();
  }
  static std::vector<std::string> texts(const std::vector<LogEntry>& entries) {
    std::vector<std::string> all;
    for (const LogEntry& entry : entries) all.push_back(entry.text);
    return all;
  }

  World world;
  store::LogDisk disk;
  Logs::Config config;
  AppId app;
  std::unique_ptr<store::MemoryLogStore> store;
  std::unique_ptr<Apps> apps;
  std::unique_ptr<Logs> logs;
};

using Texts = std::vector<std::string>;

TEST_F(LogsTest, WhoFollowsSeesEachLineOnceInOrder) {
  append({line("a\n"), line("b\n")});
  LogPage page = follow(0);
  EXPECT_EQ(texts(page.entries), (Texts{"a\n", "b\n"}));
  EXPECT_TRUE(follow(page.position).entries.empty());
  append({line("c\n")});
  page = follow(page.position);
  EXPECT_EQ(texts(page.entries), (Texts{"c\n"}));
}

TEST_F(LogsTest, AFollowerWaitsForTheNextLineAndIsToldWhenTheAppIsDone) {
  world.loop.at(world.loop.now() + std::chrono::seconds(3),
                [this] { logs->note(app, TaskId(IdBits{7, 7}), FunctionId(IdBits{8, 8}), TaskPhase::kReady); });
  LogPage page = follow(0, {}, std::chrono::seconds(55));
  ASSERT_EQ(page.entries.size(), 1U);
  EXPECT_EQ(page.entries[0].phase, TaskPhase::kReady);
  ASSERT_TRUE(apps->stop(app, "x").ok());
  world.loop.at(world.loop.now() + std::chrono::seconds(3), [this] { apps->stopped(app); });
  page = follow(page.position, {}, std::chrono::seconds(55));
  EXPECT_TRUE(page.done);
}

TEST_F(LogsTest, ALineOnItsWayComesBeforeTheEnd) {
  ASSERT_TRUE(apps->stop(app, "x").ok());
  Scope scope;
  std::optional<Result<void>> kept;
  const auto keep = [](Async<Result<void>> work, std::optional<Result<void>>* out) -> Async<> {
    out->emplace(co_await std::move(work));
  };
  scope.spawn(keep(logs->append(app, {line("last\n")}), &kept));
  apps->stopped(app);
  LogPage page = follow(0, {}, std::chrono::seconds(1));
  EXPECT_EQ(texts(page.entries), (Texts{"last\n"}));
  EXPECT_FALSE(page.done);
  EXPECT_TRUE(follow(page.position).done);
}

TEST_F(LogsTest, PositionsGoOnAfterARestartAndOldLinesComeFromTheStore) {
  append({line("a\n"), line("b\n")});
  const std::uint64_t before = follow(0).position;
  world.settle();
  start();
  append({line("c\n")});
  EXPECT_EQ(texts(follow(0).entries), (Texts{"a\n", "b\n"}));
  LogPage page = follow(before);
  EXPECT_EQ(texts(page.entries), (Texts{"c\n"}));
  EXPECT_GT(page.position, before);
}

TEST_F(LogsTest, WhatDoesNotFitInMemoryIsReadFromTheStore) {
  config.tail_bytes_per_app = 1000;
  config.page_entries_max = 7;
  start();
  Texts expected;
  std::vector<LogEntry> lines;
  for (int i = 0; i < 100; ++i) {
    expected.push_back("line " + std::to_string(i) + "\n");
    lines.push_back(line(expected.back()));
  }
  append(std::move(lines));
  Texts seen;
  for (std::uint64_t position = 0; seen.size() < 100;) {
    const LogPage page = follow(position);
    ASSERT_FALSE(page.entries.empty());
    for (const LogEntry& entry : page.entries) seen.push_back(entry.text);
    position = page.position;
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(LogsTest, FiltersLeaveOutWhatDoesNotMatchAndGoOnAfterIt) {
  LogEntry err = line("err\n");
  err.stream = LogStream::kStderr;
  err.input = InputId{CallId(IdBits{5, 5}), 3};
  append({line("out\n"), err, line("other\n", TaskId(IdBits{9, 9}))});
  EXPECT_EQ(texts(follow(0, {.stream = LogStream::kStderr}).entries), (Texts{"err\n"}));
  EXPECT_EQ(texts(follow(0, {.task = TaskId(IdBits{9, 9})}).entries), (Texts{"other\n"}));
  EXPECT_EQ(texts(follow(0, {.call = CallId(IdBits{5, 5})}).entries), (Texts{"err\n"}));
  EXPECT_EQ(texts(follow(0, {.text = "ut"}).entries), (Texts{"out\n"}));
  const LogPage none = follow(0, {.function = [](FunctionId) { return false; }});
  EXPECT_TRUE(none.entries.empty());
  EXPECT_EQ(none.position, follow(0).position);
}

TEST_F(LogsTest, LooksBackByTime) {
  for (int i = 0; i < 10; ++i) {
    append({line("line " + std::to_string(i))});
    world.loop.run_for(std::chrono::seconds(60));
  }
  const Time end = world.loop.now();
  const auto fetch = [&](Time since, Time until, std::size_t limit) {
    return texts(world.run(logs->fetch(app, {}, since, until, limit)).value());
  };
  EXPECT_EQ(fetch(end - std::chrono::seconds(200), end, 100), (Texts{"line 7", "line 8", "line 9"}));
  EXPECT_EQ(fetch(end - std::chrono::hours(1), end - std::chrono::seconds(200), 2), (Texts{"line 5", "line 6"}));
  const auto counts =
      world.run(logs->count(app, {}, end - std::chrono::hours(1), end, std::chrono::seconds(300))).value();
  std::uint64_t total = 0;
  for (const LogCount& count : counts) {
    EXPECT_EQ(to_micros(count.start) % 300'000'000, 0);
    total += count.out;
  }
  EXPECT_EQ(total, 10U);
  EXPECT_LE(counts.size(), 3U);
  EXPECT_FALSE(world.run(logs->count(app, {}, Time(), end, Duration(1))).ok());
}

TEST_F(LogsTest, LinesOfAnUnknownAppAreRefusedAndLongOnesCut) {
  EXPECT_EQ(world.run(logs->append(AppId(IdBits{3, 3}), {line("x")})).error().code, Code::kNotFound);
  append({line(std::string(100'000, 'x'))});
  EXPECT_LT(follow(0).entries[0].text.size(), 70'000U);
}

TEST_F(LogsTest, AllTailsTogetherAreBounded) {
  config.tail_bytes = 20'000;
  start();
  const AppId other = apps->create({.environment = EnvironmentId(IdBits{1, 1}), .state = AppState::kEphemeral}).value();
  append({line(std::string(15'000, 'a'))});
  ASSERT_TRUE(world.run(logs->append(other, {line(std::string(15'000, 'b'))})).ok());
  EXPECT_EQ(follow(0).entries.size(), 1U);  // From the store.
}

}  // namespace
}  // namespace proa::control
