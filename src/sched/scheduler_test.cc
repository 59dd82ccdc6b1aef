// SPDX-License-Identifier: Apache-2.0
#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "rt/sim/sim_loop.h"
#include "store/memory/memory_store.h"

namespace proa::sched {
namespace {

using control::Autoscaling;
using control::FunctionSpec;
using control::FunctionView;
using control::InputState;
using control::Outcome;
using control::Status;
using std::chrono::milliseconds;
using std::chrono::seconds;

class Book final : public control::FunctionBook {
 public:
  explicit Book(Random& random) {
    for (std::size_t i = 0; i < 2; ++i) {
      FunctionView view;
      view.id = FunctionId::make(random, Time());
      view.app = AppId::make(random, Time());
      view.definition = DefinitionId::make(random, Time());
      specs[i].name = "f" + std::to_string(i);
      view.spec = &specs[i];
      views[i] = view;
    }
  }
  std::optional<FunctionView> view(FunctionId function) const override {
    for (std::size_t i = 0; i < 2; ++i) {
      if (views[i].id == function && there[i]) return views[i];
    }
    return std::nullopt;
  }
  std::array<FunctionSpec, 2> specs;
  std::array<FunctionView, 2> views;
  std::array<bool, 2> there{true, true};
};

class Planner final : public TaskPlanner {
 public:
  Async<Result<TaskOrder>> plan(TaskId task, FunctionId function) override {
    TaskOrder order;
    order.task = task;
    order.function = function;
    co_return order;
  }
};

// A worker's end, by hand: what it was told is there to be looked at.
class Peer final : public WorkerLink {
 public:
  Peer(Random& random, std::uint32_t cores) {
    hello.worker = WorkerId::make(random, Time());
    hello.incarnation = "first";
    hello.cores = cores;
    hello.total = {.cpu_milli = cores * 1000LL, .memory_bytes = 8LL << 30};
  }
  void send(std::vector<Command> commands) override {
    for (Command& command : commands) {
      if (command.start) started.push_back(command.start->task);
      if (command.stop) stops.push_back(*command.stop);
      for (Lease& lease : command.lease) leases.push_back(std::move(lease));
      revokes.insert(revokes.end(), command.revoke.begin(), command.revoke.end());
      cancels.insert(cancels.end(), command.cancel.begin(), command.cancel.end());
    }
  }
  void close(std::string) override { closed = true; }
  void forget() {
    started.clear(), stops.clear(), leases.clear(), revokes.clear(), cancels.clear();
  }

  Hello hello;
  std::vector<TaskId> started;
  std::vector<StopTask> stops;
  std::vector<Lease> leases;
  std::vector<LeaseId> revokes;
  std::vector<LeaseId> cancels;
  bool closed = false;
};

// One life of the server.
struct Life {
  Life(sim::SimLoop& loop, Random& random, store::Disk& disk, Book& book, Logger& log)
      : store(loop, disk, milliseconds(1)),
        ledger(loop, store, [](const Error& error) { FAIL() << error.message; }),
        calls(loop, random, ledger, store, book, log, {}),
        scheduler(loop, random, ledger, book, calls, planner, log, {}) {
    calls.set_dispatch(scheduler);
  }
  store::MemoryStore store;
  control::Ledger ledger;
  Planner planner;
  control::Calls calls;
  Scheduler scheduler;
};

class SchedulerTest : public testing::Test {
 protected:
  SchedulerTest() { begin(); }

  void begin() { life = std::make_unique<Life>(loop, random, disk, book, log); }
  void restart() {
    settle();
    life.reset();
    loop.clear();
    begin();
    ASSERT_TRUE(calls().load().ok());
    scheduler().expect_workers({peer.hello.worker});
    calls().resume();
    peer.forget();
  }
  control::Calls& calls() { return life->calls; }
  Scheduler& scheduler() { return life->scheduler; }
  void settle() { loop.run_for(milliseconds(20)); }
  void join(Peer& who) {
    Report report;
    report.hello = who.hello;
    scheduler().report(who, report);
    settle();
  }
  void join() { join(peer); }
  std::vector<InputId> put(std::uint32_t count, std::size_t function = 0) {
    control::NewCall about;
    about.function = book.views[function].id;
    about.kind = control::CallKind::kMap;
    const CallId call = calls().create(about).value();
    std::vector<control::NewInput> inputs(count);
    for (std::uint32_t i = 0; i < count; ++i) inputs[i].index = i;
    auto ids = calls().put_inputs(call, std::move(inputs)).value();
    settle();
    return ids;
  }
  void say(TaskId task, TaskState state, EndReason reason = EndReason::kNone, std::size_t function = 0) {
    Report report;
    report.task = TaskReport{.task = task, .function = book.views[function].id, .state = state, .reason = reason, .message = "as the test says"};
    scheduler().report(peer, report);
    settle();
  }
  void ready(TaskId task) { say(task, TaskState::kReady); }
  void bind(const LeaseId& lease, TaskId task) {
    Report report;
    report.bound.push_back({lease, task});
    scheduler().report(peer, report);
    settle();
  }
  Code output(const LeaseId& lease, TaskId task, Status status = Status::kSuccess) {
    Output output;
    output.lease = lease;
    output.task = task;
    output.outcome.status = status;
    std::optional<Result<void>> out;
    Scope scope;
    scope.spawn(keep(scheduler().put_outputs(peer.hello.worker, {output}), &out));
    while (!out && loop.step()) {
    }
    settle();
    return out->ok() ? Code::kOk : out->error().code;
  }
  static Async<> keep(Async<Result<void>> work, std::optional<Result<void>>* out) {
    out->emplace(co_await std::move(work));
  }
  // One container that runs, with nothing to do.
  TaskId warm() {
    join();
    const InputId input = put(1)[0];
    const TaskId task = peer.started.at(0);
    ready(task);
    const LeaseId lease = peer.leases.at(0).id;
    bind(lease, task);
    EXPECT_EQ(output(lease, task), Code::kOk);
    EXPECT_EQ(calls().state(input), InputState::kDone);
    peer.forget();
    return task;
  }
  Outcome outcome(InputId input) {
    control::OutputQuery query;
    query.call = input.call;
    query.range = std::pair(input.index, input.index);
    std::optional<Result<control::OutputAnswer>> out;
    Scope scope;
    scope.spawn(keep_outputs(calls().outputs(query), &out));
    while (!out && loop.step()) {
    }
    return out->ok() && !(*out)->outputs.empty() ? (*out)->outputs[0].outcome : Outcome();
  }
  static Async<> keep_outputs(Async<Result<control::OutputAnswer>> work, std::optional<Result<control::OutputAnswer>>* out) {
    out->emplace(co_await std::move(work));
  }
  Autoscaling& autoscaling() { return book.views[0].autoscaling; }
  FunctionId function() const { return book.views[0].id; }
  AppId app() const { return book.views[0].app; }

  sim::SimLoop loop;
  SeededRandom random{11};
  store::Disk disk;
  Book book{random};
  NullLogger log;
  Peer peer{random, 4};
  std::unique_ptr<Life> life;
};

TEST_F(SchedulerTest, StartsAContainerForTheFirstInputAndLeasesItThere) {
  join();
  EXPECT_TRUE(peer.started.empty());
  const InputId input = put(1)[0];
  EXPECT_EQ(peer.started.size(), 1U);
  ASSERT_EQ(peer.leases.size(), 1U);
  EXPECT_EQ(peer.leases[0].id.input, input);
  EXPECT_TRUE(peer.leases[0].arguments.has_value()) << "what is small goes with the lease";
}

TEST_F(SchedulerTest, SaysWhyAnInputWaits) {
  put(1);
  EXPECT_NE(scheduler().why_waiting(function()).find("no worker"), std::string::npos);
  join();
  EXPECT_EQ(scheduler().why_waiting(function()), "");
}

TEST_F(SchedulerTest, TellsWorkersNothingBeforeItIsDurable) {
  join();
  control::NewCall about;
  about.function = function();
  const CallId call = calls().create(about).value();
  ASSERT_TRUE(calls().put_inputs(call, {control::NewInput{}}).ok());
  loop.run_for(Duration(500));  // The store takes 1 ms.
  EXPECT_TRUE(peer.started.empty());
  settle();
  EXPECT_FALSE(peer.started.empty());
}

TEST_F(SchedulerTest, StartsOnlyAsManyAtATimeAsThereAreCores) {
  join();
  put(20);
  EXPECT_EQ(peer.started.size(), 4U);
  ready(peer.started[0]);
  EXPECT_EQ(peer.started.size(), 5U);
}

TEST_F(SchedulerTest, StaysBelowTheMostContainersAFunctionMayHave) {
  autoscaling().containers_max = 2;
  join();
  put(20);
  EXPECT_EQ(peer.started.size(), 2U);
  EXPECT_EQ(peer.leases.size(), 4U) << "one for each, and two more";
}

TEST_F(SchedulerTest, KeepsTheFewestContainersWithoutAnyInput) {
  autoscaling().containers_min = 2;
  join();
  scheduler().function_changed(function());
  settle();
  ASSERT_EQ(peer.started.size(), 2U);
  for (const TaskId task : peer.started) ready(task);
  loop.run_for(std::chrono::minutes(5));
  EXPECT_TRUE(peer.stops.empty());
}

TEST_F(SchedulerTest, KeepsBufferContainersWhileThereIsWork) {
  autoscaling().containers_buffer = 2;
  join();
  put(1);
  EXPECT_EQ(peer.started.size(), 3U);
}

TEST_F(SchedulerTest, CountsTheInputsThatAContainerTakesAtATime) {
  book.specs[0].concurrent_inputs_max = 10;
  book.specs[0].concurrent_inputs_target = 5;
  join();
  put(10);
  EXPECT_EQ(peer.started.size(), 2U);
  EXPECT_EQ(peer.leases.size(), 10U);
}

TEST_F(SchedulerTest, ScalesToZeroAfterTheWindow) {
  autoscaling().scaledown_window_seconds = 7;
  const TaskId task = warm();
  loop.run_for(seconds(5));
  EXPECT_TRUE(peer.stops.empty());
  loop.run_for(seconds(4));
  ASSERT_EQ(peer.stops.size(), 1U);
  EXPECT_EQ(peer.stops[0].how, StopHow::kDrain);
  say(task, TaskState::kEnded, EndReason::kFinished);
  EXPECT_TRUE(scheduler().tasks({}).empty());
  EXPECT_EQ(scheduler().task(task)->reason, EndReason::kFinished) << "ended ones are known for a while";
}

TEST_F(SchedulerTest, DoesNotStopAContainerThatRunsAnInput) {
  autoscaling().scaledown_window_seconds = 2;
  const TaskId task = warm();
  put(1);
  bind(peer.leases.at(0).id, task);
  loop.run_for(std::chrono::minutes(2));
  EXPECT_TRUE(peer.stops.empty());
  EXPECT_EQ(scheduler().stats(function()).running, 1U);
}

TEST_F(SchedulerTest, FailsTheInputsOfAnEphemeralFunctionThatCannotBegin) {
  join();
  const auto inputs = put(2);
  Report report;
  report.task = TaskReport{.task = peer.started[0], .function = function(), .state = TaskState::kEnded, .reason = EndReason::kInitFailure};
  report.task->outcome = Outcome{.status = Status::kInitFailure, .error = "ImportError: no module named 'torch'"};
  scheduler().report(peer, report);
  settle();
  for (const InputId input : inputs) {
    EXPECT_EQ(outcome(input).status, Status::kInitFailure);
    EXPECT_EQ(outcome(input).error, "ImportError: no module named 'torch'");
  }
  EXPECT_EQ(peer.cancels.size(), 2U) << "the worker drops what it was leased";
}

TEST_F(SchedulerTest, TriesADeployedFunctionAgainBeforeItFailsItsInputs) {
  book.views[0].deployed = true;
  autoscaling().containers_max = 1;
  join();
  const InputId input = put(1)[0];
  for (std::size_t failures = 1; failures <= 3; ++failures) {
    ASSERT_EQ(peer.started.size(), failures);
    EXPECT_NE(calls().state(input), InputState::kDone);
    const Time before = loop.now();
    say(peer.started.back(), TaskState::kEnded, EndReason::kStartFailed);
    while (failures < 3 && peer.started.size() == failures && loop.now() < before + seconds(10)) loop.run_for(milliseconds(100));
    if (failures < 3) EXPECT_GT(loop.now() - before, milliseconds(400)) << "not at once";
  }
  EXPECT_EQ(outcome(input).status, Status::kFailure);
  EXPECT_EQ(outcome(input).error, "as the test says");
}

TEST_F(SchedulerTest, CountsFailedStartsInARowOnly) {
  book.views[0].deployed = true;
  autoscaling().containers_max = 1;
  join();
  const InputId input = put(1)[0];
  for (int i = 0; i < 6; ++i) {
    if (i == 2 || i == 4) {
      ready(peer.started.back());
      say(peer.started.back(), TaskState::kEnded, EndReason::kFinished);
    } else {
      say(peer.started.back(), TaskState::kEnded, EndReason::kStartFailed);
    }
    loop.run_for(seconds(5));
  }
  EXPECT_NE(calls().state(input), InputState::kDone);
}

TEST_F(SchedulerTest, FailsWhatNoWorkerCouldEverHold) {
  book.specs[0].request = {.cpu_milli = 1000, .memory_bytes = 1LL << 40};
  join();
  const InputId input = put(1)[0];
  EXPECT_EQ(outcome(input).status, Status::kFailure);
  EXPECT_NE(outcome(input).error.find("cannot be placed"), std::string::npos);
}

TEST_F(SchedulerTest, MakesACrashTheFailureOfWhatRanInside) {
  join();
  const auto inputs = put(2);
  const TaskId task = peer.started[0];
  ready(task);
  bind(peer.leases[0].id, task);
  say(task, TaskState::kEnded, EndReason::kCrashed);
  EXPECT_EQ(outcome(inputs[0]).status, Status::kFailure);
  EXPECT_EQ(outcome(inputs[0]).error, "as the test says");
  EXPECT_NE(calls().state(inputs[1]), InputState::kDone);
}

TEST_F(SchedulerTest, DrainsContainersOfAnOlderDefinition) {
  const TaskId old = warm();
  book.views[0].definition = DefinitionId::make(random, loop.now());
  scheduler().function_changed(function());
  settle();
  ASSERT_EQ(peer.stops.size(), 1U);
  EXPECT_EQ(peer.stops[0].task, old);
  EXPECT_EQ(peer.stops[0].how, StopHow::kDrain);
  put(1);
  ASSERT_EQ(peer.started.size(), 1U);
  EXPECT_NE(peer.started[0], old);
}

TEST_F(SchedulerTest, AnIdleContainerMakesRoomForAnotherFunction) {
  for (auto& spec : book.specs) spec.request = {.cpu_milli = 4000, .memory_bytes = 1};
  const TaskId idle = warm();
  put(1, 1);
  ASSERT_EQ(peer.stops.size(), 1U);
  EXPECT_EQ(peer.stops[0].task, idle);
  EXPECT_TRUE(peer.started.empty());
  say(idle, TaskState::kEnded, EndReason::kFinished);
  settle();
  EXPECT_EQ(peer.started.size(), 1U);
}

TEST_F(SchedulerTest, WhatNoWorkerCouldEverHoldTakesNobodysPlace) {
  (void)warm();
  book.specs[1].request = {.cpu_milli = 1000, .memory_bytes = 1LL << 50};
  put(1, 1);
  EXPECT_TRUE(peer.stops.empty());
}

TEST_F(SchedulerTest, AFunctionWithoutAContainerSharesTheCpuOfBusyOnes) {
  for (auto& spec : book.specs) spec.request = {.cpu_milli = 4000, .memory_bytes = 1};
  const TaskId busy = warm();
  put(1);
  bind(peer.leases.at(0).id, busy);
  peer.forget();
  put(2, 1);
  EXPECT_TRUE(peer.stops.empty()) << "what works is left alone";
  EXPECT_EQ(peer.started.size(), 1U) << "one, which the busy one may be waiting for, and no more";
}

TEST_F(SchedulerTest, SaysWhyAFunctionWaitsOnceThatTakesAWhile) {
  std::vector<std::string> told;
  scheduler().on_waiting([&](AppId, FunctionId, std::string why) { told.push_back(std::move(why)); });
  put(1);
  loop.run_for(std::chrono::seconds(4));
  EXPECT_TRUE(told.empty());
  loop.run_for(std::chrono::seconds(20));
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0], "no worker is connected");
  join();
  loop.run_for(std::chrono::seconds(120));
  EXPECT_EQ(told.size(), 1U) << "a container is on its way";
}

TEST_F(SchedulerTest, AsksBackLeasesThatNoContainerIsLeftFor) {
  const TaskId task = warm();
  const auto inputs = put(2);
  ASSERT_EQ(peer.leases.size(), 2U);
  const LeaseId unbound = peer.leases[1].id;
  bind(peer.leases[0].id, task);
  for (const TaskId id : peer.started) say(id, TaskState::kEnded, EndReason::kFinished);
  book.specs[0].request = {.cpu_milli = 4000, .memory_bytes = 1};  // No further one fits beside it.
  for (const TaskView& view : scheduler().tasks({})) {
    if (view.id != task) say(view.id, TaskState::kEnded, EndReason::kFinished);
  }
  Report retiring;
  retiring.retiring = task;
  scheduler().report(peer, retiring);
  settle();
  EXPECT_EQ(peer.revokes, std::vector<LeaseId>{unbound}) << "and not what runs";
}

TEST_F(SchedulerTest, QueuesWhatWasRevokedAgain) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  const LeaseId lease = peer.leases.at(0).id;
  Report report;
  report.revoked.push_back({input, lease.epoch + 1});
  scheduler().report(peer, report);
  EXPECT_EQ(calls().state(input), InputState::kLeased) << "another lease's";
  report.revoked[0] = lease;
  scheduler().report(peer, report);
  EXPECT_EQ(calls().state(input), InputState::kQueued);
  settle();
  EXPECT_EQ(peer.leases.size(), 2U);
  EXPECT_NE(peer.leases[1].id.epoch, lease.epoch);
  EXPECT_EQ(scheduler().tasks({}).at(0).id, task);
}

TEST_F(SchedulerTest, CancelsWhatRunsWhenItsCallIsCancelled) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  const LeaseId lease = peer.leases.at(0).id;
  bind(lease, task);
  EXPECT_EQ(scheduler().tasks_running(input.call), std::vector<TaskId>{task});
  ASSERT_TRUE(calls().cancel(input.call, "enough").ok());
  settle();
  EXPECT_EQ(peer.cancels, std::vector<LeaseId>{lease});
  EXPECT_TRUE(scheduler().tasks_running(input.call).empty());
  EXPECT_EQ(output(lease, task), Code::kOk) << "an output that was under way is acknowledged and does not count";
  EXPECT_EQ(outcome(input).status, Status::kTerminated);
}

TEST_F(SchedulerTest, TakesALateResultAndCancelsTheRunThatIsNotNeeded) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  const LeaseId first = peer.leases.at(0).id;
  Report report;
  report.revoked.push_back(first);
  scheduler().report(peer, report);
  settle();
  const LeaseId second = peer.leases.at(1).id;
  EXPECT_EQ(output(first, task, Status::kFailure), Code::kOk);
  EXPECT_EQ(calls().state(input), InputState::kLeased) << "a late failure is not the present holder's";
  EXPECT_EQ(output(first, task, Status::kSuccess), Code::kOk);
  EXPECT_EQ(outcome(input).status, Status::kSuccess);
  EXPECT_EQ(peer.cancels, std::vector<LeaseId>{second});
}

TEST_F(SchedulerTest, GivesUpAWorkerThatStaysAway) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  bind(peer.leases.at(0).id, task);
  scheduler().disconnected(peer);
  loop.run_for(seconds(8));
  EXPECT_EQ(calls().state(input), InputState::kLeased) << "it may come back";
  Peer other(random, 2);
  join(other);
  EXPECT_TRUE(other.leases.empty());
  loop.run_for(seconds(4));
  EXPECT_EQ(scheduler().task(task)->reason, EndReason::kLost);
  ASSERT_EQ(other.leases.size(), 1U);
  EXPECT_EQ(other.leases[0].id.input, input);
}

TEST_F(SchedulerTest, GoesOnWithAWorkerThatConnectsAgain) {
  const TaskId task = warm();
  const auto inputs = put(2);
  const LeaseId running = peer.leases.at(0).id;
  const LeaseId lost = peer.leases.at(1).id;
  bind(running, task);
  scheduler().disconnected(peer);
  peer.forget();
  peer.hello.tasks = {TaskReport{.task = task, .function = function(), .state = TaskState::kReady, .definition = book.views[0].definition}};
  peer.hello.bound = {{running, task}};
  join();
  EXPECT_EQ(calls().state(inputs[0]), InputState::kLeased);
  ASSERT_EQ(peer.leases.size(), 1U) << "the lease that was lost on the way is given anew";
  EXPECT_EQ(peer.leases[0].id.input, inputs[1]);
  EXPECT_NE(peer.leases[0].id.epoch, lost.epoch);
  EXPECT_TRUE(peer.cancels.empty());
  EXPECT_EQ(output(running, task), Code::kOk);
  EXPECT_EQ(calls().state(inputs[0]), InputState::kDone);
}

TEST_F(SchedulerTest, DrainsContainersOfAnOlderDefinitionThatItHearsOfAnew) {
  const TaskId old = warm();
  const DefinitionId then = book.views[0].definition;
  restart();
  book.views[0].definition = DefinitionId::make(random, loop.now());
  peer.hello.tasks = {TaskReport{.task = old, .function = function(), .state = TaskState::kReady, .definition = then}};
  join();
  ASSERT_EQ(peer.stops.size(), 1U);
  EXPECT_EQ(peer.stops[0].task, old);
  EXPECT_EQ(peer.stops[0].how, StopHow::kDrain);
}

TEST_F(SchedulerTest, RepeatsOrdersThatWereLostWithTheStream) {
  join();
  put(1);
  const TaskId task = peer.started.at(0);
  ASSERT_TRUE(scheduler().stop_task(task, StopHow::kInterrupt).ok());
  scheduler().disconnected(peer);
  peer.forget();
  join();
  EXPECT_EQ(peer.started.at(0), task);
  ASSERT_FALSE(peer.stops.empty());
  EXPECT_EQ(peer.stops[0].how, StopHow::kInterrupt) << "as hard as it was first";
}

TEST_F(SchedulerTest, ForgetsWhatAProcessHeldThatIsAnotherOneNow) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  bind(peer.leases.at(0).id, task);
  scheduler().disconnected(peer);
  peer.forget();
  peer.hello.incarnation = "second";
  join();
  EXPECT_EQ(scheduler().task(task)->state, TaskState::kEnded);
  ASSERT_EQ(peer.leases.size(), 1U);
  EXPECT_EQ(peer.leases[0].id.input, input);
}

TEST_F(SchedulerTest, TakesOverWhatRunsWhenTheServerStartsAnew) {
  const TaskId task = warm();
  const auto inputs = put(2);
  const LeaseId running = peer.leases.at(0).id;
  bind(running, task);
  restart();
  loop.run_for(seconds(1));
  EXPECT_TRUE(peer.leases.empty()) << "it waits for its workers first";
  EXPECT_NE(scheduler().why_waiting(function()), "");
  EXPECT_EQ(output(running, task), Code::kUnavailable) << "not before the worker's hello";
  peer.hello.tasks = {TaskReport{.task = task, .function = function(), .state = TaskState::kReady, .definition = book.views[0].definition}};
  peer.hello.bound = {{running, task}};
  join();
  EXPECT_EQ(calls().state(inputs[0]), InputState::kLeased);
  ASSERT_EQ(peer.leases.size(), 1U);
  EXPECT_EQ(peer.leases[0].id.input, inputs[1]);
  EXPECT_EQ(output(running, task), Code::kOk);
  EXPECT_EQ(calls().state(inputs[0]), InputState::kDone);
}

TEST_F(SchedulerTest, DoesNotWaitForEverForWorkersAfterARestart) {
  const InputId input = put(1)[0];
  restart();
  Peer other(random, 2);
  join(other);
  EXPECT_TRUE(other.leases.empty());
  loop.run_for(seconds(4));
  ASSERT_EQ(other.leases.size(), 1U);
  EXPECT_EQ(other.leases[0].id.input, input);
}

TEST_F(SchedulerTest, CancelsLeasesOfInputsThatAreOver) {
  const TaskId task = warm();
  const InputId input = put(1)[0];
  const LeaseId lease = peer.leases.at(0).id;
  scheduler().disconnected(peer);
  ASSERT_TRUE(calls().cancel(input.call, "enough").ok());
  peer.forget();
  peer.hello.tasks = {TaskReport{.task = task, .function = function(), .state = TaskState::kReady, .definition = book.views[0].definition}};
  peer.hello.unbound = {lease};
  join();
  EXPECT_EQ(peer.cancels, std::vector<LeaseId>{lease});
}

TEST_F(SchedulerTest, EndsAConnectionThatDoesNotSayHelloFirst) {
  Report report;
  report.load = Load{};
  scheduler().report(peer, report);
  EXPECT_TRUE(peer.closed);
}

TEST_F(SchedulerTest, StopsAnAppWithAllItsContainersAndInputs) {
  std::vector<AppId> stopped;
  scheduler().on_app_stopped([&](AppId which) { stopped.push_back(which); });
  const TaskId task = warm();
  const InputId input = put(1)[0];
  bind(peer.leases.at(0).id, task);
  book.there[0] = false;
  scheduler().app_stopping(app());
  settle();
  EXPECT_EQ(outcome(input).status, Status::kTerminated);
  ASSERT_FALSE(peer.stops.empty());
  EXPECT_EQ(peer.stops[0].how, StopHow::kInterrupt);
  EXPECT_TRUE(stopped.empty());
  say(task, TaskState::kEnded, EndReason::kFinished);
  EXPECT_EQ(stopped, std::vector<AppId>{app()});
}

TEST_F(SchedulerTest, StopsAnAppWithoutContainersAtOnce) {
  std::vector<AppId> stopped;
  scheduler().on_app_stopped([&](AppId which) { stopped.push_back(which); });
  scheduler().app_stopping(app());
  settle();
  EXPECT_EQ(stopped.size(), 1U);
}

TEST_F(SchedulerTest, TerminatesInputsOfAFunctionThatIsGone) {
  const InputId input = put(1)[0];
  book.there[0] = false;
  join();
  EXPECT_EQ(outcome(input).status, Status::kTerminated);
}

TEST_F(SchedulerTest, StopsContainersOfAFunctionNobodyKnows) {
  const TaskId foreign = TaskId::make(random, loop.now());
  peer.hello.tasks = {TaskReport{.task = foreign, .function = FunctionId::make(random, loop.now()), .state = TaskState::kReady, .definition = book.views[0].definition}};
  join();
  ASSERT_EQ(peer.stops.size(), 1U);
  EXPECT_EQ(peer.stops[0].task, foreign);
}

TEST_F(SchedulerTest, StopsATaskOnlyIfItRuns) {
  EXPECT_EQ(scheduler().stop_task(TaskId::make(random, loop.now()), StopHow::kKill).error().code, Code::kNotFound);
  const TaskId task = warm();
  EXPECT_TRUE(scheduler().stop_task(task, StopHow::kKill).ok());
  settle();
  EXPECT_EQ(peer.stops.at(0).how, StopHow::kKill);
  EXPECT_TRUE(scheduler().task(task)->draining);
}

TEST_F(SchedulerTest, TasksThatEndedAreListedForTheirAppNewestFirst) {
  const TaskId first = warm();
  say(first, TaskState::kEnded, EndReason::kFinished);
  put(1);
  const TaskId second = peer.started.at(0);
  say(second, TaskState::kEnded, EndReason::kCrashed);
  const std::vector<TaskView> ended = scheduler().ended_tasks(app(), 10);
  ASSERT_EQ(ended.size(), 2U);
  EXPECT_EQ(ended[0].id, second);
  EXPECT_EQ(ended[0].reason, EndReason::kCrashed);
  EXPECT_EQ(ended[1].id, first);
  EXPECT_EQ(scheduler().ended_tasks(app(), 1).size(), 1U);
  EXPECT_TRUE(scheduler().ended_tasks(book.views[1].app, 10).empty());
}

}  // namespace
}  // namespace proa::sched
