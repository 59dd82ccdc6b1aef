// SPDX-License-Identifier: Apache-2.0
#include "worker/agent.h"

#include <gtest/gtest.h>

#include <set>

#include "rt/sim/sim_loop.h"
#include "worker/fake_world.h"

namespace proa::worker {
namespace {

using sched::EndReason;
using sched::StopHow;
using sched::TaskState;
using std::chrono::milliseconds;
using std::chrono::seconds;

class AgentTest : public testing::Test {
 protected:
  AgentTest() { make_agent(); }

  void make_agent() {
    AgentOptions options;
    options.worker = WorkerId::make(random, loop.now());
    options.name = "worker-1";
    options.prepared_slots = prepared_slots;
    agent.emplace(Agent::Seams{.loop = loop,
                               .random = random,
                               .log = log,
                               .runtime = runtime,
                               .link = link,
                               .face = face,
                               .pipes = pipes,
                               .load = load},
                  options);
    agent->start();
    link.connect();
  }

  sched::TaskOrder order(FunctionId of) {
    sched::TaskOrder made;
    made.task = TaskId::make(random, loop.now());
    made.function = of;
    made.argv = {"python"};
    made.timeout = seconds(300);
    return made;
  }
  TaskId start(sched::TaskOrder made) {
    link.orders[made.task] = made;
    link.command({.start = sched::StartTask{.task = made.task, .function = made.function}});
    settle();
    return made.task;
  }
  sched::Lease lease(std::uint32_t index, std::string method = "") {
    sched::Lease made;
    made.id = {.input = {.call = call, .index = index}, .epoch = 1};
    made.function = function;
    made.method = std::move(method);
    made.arguments = control::Arguments{.payload = {.bytes = "args " + std::to_string(index)}};
    return made;
  }
  void give(std::vector<sched::Lease> leases) {
    link.command({.lease = std::move(leases)});
    settle();
  }
  void settle() { loop.run_for(milliseconds(0)); }

  struct Poll {
    std::optional<Result<NextInputs>> answer;
    Scope scope;  // Destroying it is the container's resetting the call.
  };
  Async<> do_poll(std::shared_ptr<Task> task, std::size_t max, Poll* poll) {
    poll->answer = co_await Task::next_inputs(task, max);
  }
  std::unique_ptr<Poll> poll(TaskId task, std::size_t max = 1) {
    auto made = std::make_unique<Poll>();
    made->scope.spawn(do_poll(agent->find(task), max, made.get()));
    settle();
    return made;
  }
  Async<> do_put(std::shared_ptr<Task> task, std::vector<TaskOutput> outputs, bool* finished) {
    co_await Task::put_outputs(task, std::move(outputs));
    *finished = true;
  }
  // True if the outputs were acknowledged at once.
  bool put(TaskId task, std::uint32_t index, std::uint32_t retry_count = 0) {
    done = false;
    TaskOutput output{.input = {.call = call, .index = index},
                      .retry_count = retry_count,
                      .outcome = {.status = control::Status::kSuccess, .value = {.bytes = "result"}}};
    scope.spawn(do_put(agent->find(task), {output}, &done));
    settle();
    return done;
  }
  Async<> do_heartbeat(std::shared_ptr<Task> task, Duration hold, std::optional<std::vector<InputId>>* out) {
    *out = co_await Task::heartbeat(task, hold);
  }
  sched::LeaseId id(std::uint32_t index) { return lease(index).id; }

  sim::SimLoop loop;
  SeededRandom random{7};
  NullLogger log;
  FakeRuntime runtime{loop};
  FakeLink link{loop};
  FakeFace face;
  FakePipes pipes{loop};
  FakeLoad load;
  std::size_t prepared_slots = 0;
  FunctionId function = FunctionId::make(random, loop.now());
  CallId call = CallId::make(random, loop.now());
  bool done = false;
  std::optional<Agent> agent;
  Scope scope;
};

TEST_F(AgentTest, SaysHelloFirst) {
  ASSERT_FALSE(link.reports.empty());
  ASSERT_TRUE(link.reports[0].hello.has_value());
  EXPECT_EQ(link.reports[0].hello->name, "worker-1");
  EXPECT_EQ(link.reports[0].hello->incarnation.size(), 16U);
}

TEST_F(AgentTest, TellsEachStateOfATaskOnItsWayToReady) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  std::vector<TaskState> states;
  for (const auto& report : link.task_reports(task)) states.push_back(report.state);
  EXPECT_EQ(states, (std::vector{TaskState::kAssigned, TaskState::kLoading, TaskState::kStarting, TaskState::kReady}));
  EXPECT_FALSE(waiting->answer.has_value());
  EXPECT_EQ(face.opened, 1);
}

TEST_F(AgentTest, HandsALeasedInputToTheContainerThatAsksAndTellsTheBinding) {
  const TaskId task = start(order(function));
  give({lease(0)});
  EXPECT_TRUE(link.bindings().empty());  // Bound on asking only.
  const auto asked = poll(task);
  ASSERT_TRUE(asked->answer.has_value());
  ASSERT_EQ(asked->answer->value().inputs.size(), 1U);
  EXPECT_EQ(asked->answer->value().inputs[0].arguments.payload.bytes, "args 0");
  loop.run_for(milliseconds(50));
  EXPECT_EQ(link.bindings(), (std::vector<sched::Binding>{{.lease = id(0), .task = task}}));
  EXPECT_TRUE(put(task, 0));
  ASSERT_EQ(link.outputs().size(), 1U);
  EXPECT_EQ(link.outputs()[0].lease, id(0));
}

TEST_F(AgentTest, AWaitingContainerGetsAnInputAsSoonAsItIsLeased) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  give({lease(0)});
  ASSERT_TRUE(waiting->answer.has_value());
}

TEST_F(AgentTest, InputsSpreadOverContainersThatWait) {
  sched::TaskOrder both = order(function);
  both.concurrent_inputs_max = 5;
  const TaskId first = start(both);
  both.task = TaskId::make(random, loop.now());
  const TaskId second = start(both);
  const auto a = poll(first);
  give({lease(0)});
  const auto b = poll(first);
  const auto c = poll(second);
  give({lease(1)});
  EXPECT_FALSE(b->answer.has_value());
  EXPECT_TRUE(c->answer.has_value());
  give({lease(2), lease(3)});
  EXPECT_TRUE(b->answer.has_value());
}

TEST_F(AgentTest, DoesNotExceedTheConcurrencyOfAContainer) {
  const TaskId task = start(order(function));
  give({lease(0), lease(1)});
  const auto first = poll(task);
  const auto second = poll(task);
  EXPECT_TRUE(first->answer.has_value());
  EXPECT_FALSE(second->answer.has_value());
  put(task, 0);
  EXPECT_TRUE(second->answer.has_value());
}

TEST_F(AgentTest, AnInputWhoseCallWasResetGoesToTheNextThatAsks) {
  const TaskId task = start(order(function));
  sched::Lease big = lease(0);
  big.arguments.reset();
  link.calls_fail = unavailable("away");  // The arguments cannot be fetched yet.
  give({big});
  auto reset = poll(task);
  EXPECT_FALSE(reset->answer.has_value());
  EXPECT_TRUE(agent->find(task)->holds(big.id));
  reset.reset();
  EXPECT_FALSE(agent->find(task)->holds(big.id));
  link.calls_fail.reset();
  link.arguments[big.id] = {.payload = {.bytes = "big"}};
  const auto asked = poll(task);
  ASSERT_TRUE(asked->answer.has_value());
  EXPECT_EQ(asked->answer->value().inputs[0].arguments.payload.bytes, "big");
}

TEST_F(AgentTest, AnInputThatIsOverWhenItsArgumentsAreFetchedIsPassedOver) {
  const TaskId task = start(order(function));
  sched::Lease gone = lease(0);
  gone.arguments.reset();
  give({gone, lease(1)});
  const auto asked = poll(task);
  ASSERT_TRUE(asked->answer.has_value());
  EXPECT_EQ(asked->answer->value().inputs[0].lease.id, id(1));
}

TEST_F(AgentTest, BatchesInputsOfOneMethodUntilTheLingerIsOver) {
  sched::TaskOrder batched = order(function);
  batched.batch_size_max = 3;
  batched.batch_linger = milliseconds(500);
  const TaskId task = start(batched);
  give({lease(0, "a"), lease(1, "b"), lease(2, "a")});
  const auto asked = poll(task, 3);
  EXPECT_FALSE(asked->answer.has_value());
  loop.run_for(milliseconds(400));
  EXPECT_FALSE(asked->answer.has_value());
  loop.run_for(milliseconds(101));
  ASSERT_TRUE(asked->answer.has_value());
  ASSERT_EQ(asked->answer->value().inputs.size(), 2U);
  EXPECT_EQ(asked->answer->value().inputs[1].lease.id, id(2));
}

TEST_F(AgentTest, AFullBatchDoesNotLinger) {
  sched::TaskOrder batched = order(function);
  batched.batch_size_max = 2;
  batched.batch_linger = seconds(5);
  const TaskId task = start(batched);
  const auto asked = poll(task, 2);
  give({lease(0)});
  EXPECT_FALSE(asked->answer.has_value());
  give({lease(1)});
  ASSERT_TRUE(asked->answer.has_value());
  EXPECT_EQ(asked->answer->value().inputs.size(), 2U);
}

TEST_F(AgentTest, AnIdleCallForInputsIsAnsweredEmptyInTime) {
  const TaskId task = start(order(function));
  const auto asked = poll(task);
  loop.run_for(seconds(54));
  EXPECT_FALSE(asked->answer.has_value());
  loop.run_for(seconds(2));
  ASSERT_TRUE(asked->answer.has_value());
  EXPECT_TRUE(asked->answer->value().inputs.empty());
  EXPECT_FALSE(asked->answer->value().leave);
}

TEST_F(AgentTest, DrainTellsAContainerToLeaveWhenItAsksNext) {
  const TaskId task = start(order(function));
  give({lease(0), lease(1)});
  const auto first = poll(task);
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kDrain}});
  EXPECT_TRUE(put(task, 0));
  const auto second = poll(task);
  ASSERT_TRUE(second->answer.has_value());
  EXPECT_TRUE(second->answer->value().leave);
  EXPECT_TRUE(second->answer->value().inputs.empty());
  runtime.exit(runtime.running(), {.code = 0});
  loop.run_for(seconds(15));
  ASSERT_TRUE(link.end_of(task).has_value());
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
  // The input that nobody got is given back.
  EXPECT_EQ(link.revoked(), std::vector<sched::LeaseId>{id(1)});
  EXPECT_TRUE(runtime.slots.begin()->second.removed);
}

TEST_F(AgentTest, DrainWakesAContainerThatWaits) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kDrain}});
  settle();
  ASSERT_TRUE(waiting->answer.has_value());
  EXPECT_TRUE(waiting->answer->value().leave);
}

TEST_F(AgentTest, AContainerThatWasToldToLeaveAndStaysIsKilled) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kDrain}});
  loop.run_for(seconds(59));
  EXPECT_FALSE(link.end_of(task).has_value());
  loop.run_for(seconds(20));
  ASSERT_TRUE(link.end_of(task).has_value());
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
}

TEST_F(AgentTest, LeavesAfterInputsMax) {
  sched::TaskOrder single = order(function);
  single.inputs_max = 1;
  const TaskId task = start(single);
  give({lease(0), lease(1)});
  const auto first = poll(task);
  ASSERT_EQ(first->answer->value().inputs.size(), 1U);
  ASSERT_TRUE(link.reports.back().retiring.has_value());
  put(task, 0);
  const auto second = poll(task);
  EXPECT_TRUE(second->answer->value().leave);
}

TEST_F(AgentTest, InterruptSendsSigintAndEndsAsFinished) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kInterrupt, .grace = seconds(3)}});
  loop.run_for(seconds(15));
  EXPECT_EQ(runtime.slots.begin()->second.stops, std::vector<milliseconds>{seconds(3)});
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
}

TEST_F(AgentTest, StopBeforeTheStartNeverStarts) {
  link.calls_fail = unavailable("away");
  const TaskId task = start(order(function));
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kKill}});
  loop.run_for(seconds(2));
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
  EXPECT_EQ(face.opened, 0);
}

TEST_F(AgentTest, ATaskThatIsNotWantedAnyMoreEndsQuietly) {
  const TaskId task = TaskId::make(random, loop.now());
  link.command({.start = sched::StartTask{.task = task, .function = function}});
  loop.run_for(seconds(1));
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
}

TEST_F(AgentTest, AStartThatFailsSaysWhy) {
  runtime.start_errors = {invalid_argument("python: not found in PATH")};
  const TaskId task = start(order(function));
  loop.run_for(seconds(1));
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kStartFailed);
  EXPECT_EQ(link.end_of(task)->message, "python: not found in PATH");
}

TEST_F(AgentTest, ASlotThatDiedWhileItWaitedIsReplacedOnce) {
  runtime.start_errors = {failed_precondition("its process is gone")};
  const TaskId task = start(order(function));
  EXPECT_EQ(agent->find(task)->report().state, TaskState::kStarting);
  EXPECT_EQ(runtime.slots.size(), 2U);
  EXPECT_TRUE(runtime.slots.at(1).removed);
}

TEST_F(AgentTest, NoRoomSaysWhichKind) {
  runtime.prepare_error = resource_exhausted("no address is free");
  const TaskId task = start(order(function));
  loop.run_for(seconds(1));
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kStartFailed);
  EXPECT_EQ(link.end_of(task)->message, "no address is free");
}

struct CrashCase {
  container::Exit exit;
  const char* message;
};

TEST_F(AgentTest, SaysInASentenceHowAContainerEnded) {
  const std::vector<CrashCase> cases{
      {{.code = 3}, "The container exited with code 3"},
      {{.code = 139}, "The container was ended by signal 11 (SIGSEGV)"},
      {{.code = 137, .oom = true}, "The container was killed: out of memory (limit 256 MiB)"},
      {{.code = 0}, "The container exited with code 0 while an input was running"},
  };
  for (const CrashCase& one : cases) {
    sched::TaskOrder limited = order(function);
    limited.memory_bytes_max = 256 << 20;
    const TaskId task = start(limited);
    give({lease(0)});
    const auto asked = poll(task);
    ASSERT_TRUE(asked->answer.has_value());
    runtime.exit(runtime.running(), one.exit);
    loop.run_for(seconds(15));
    ASSERT_TRUE(link.end_of(task).has_value());
    EXPECT_EQ(link.end_of(task)->reason, EndReason::kCrashed);
    EXPECT_EQ(link.end_of(task)->message, one.message);
    EXPECT_EQ(link.end_of(task)->exit_code, one.exit.code);
  }
}

TEST_F(AgentTest, ARunnersOwnReportIsAnInitFailureThoughItExitsWithZero) {
  const TaskId task = start(order(function));
  agent->find(task)->set_result({.status = control::Status::kFailure, .error = "No module named 'numpy'"});
  runtime.exit(runtime.running(), {.code = 0});
  loop.run_for(seconds(15));
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kInitFailure);
  EXPECT_EQ(link.end_of(task)->message, "No module named 'numpy'");
  ASSERT_TRUE(link.end_of(task)->outcome.has_value());
}

TEST_F(AgentTest, AnInputThatRunsTooLongTimesOutAndItsContainerIsStopped) {
  sched::TaskOrder quick = order(function);
  quick.timeout = milliseconds(1500);
  quick.concurrent_inputs_max = 2;
  const TaskId task = start(quick);
  give({lease(0)});
  const auto first = poll(task);
  loop.run_for(seconds(1));
  give({lease(1)});
  const auto second = poll(task);
  loop.run_for(milliseconds(499));
  EXPECT_TRUE(link.outputs().empty());
  loop.run_for(seconds(15));
  // Only the late one has an output; the other is queued again by the server.
  ASSERT_EQ(link.outputs().size(), 1U);
  EXPECT_EQ(link.outputs()[0].outcome.status, control::Status::kTimeout);
  EXPECT_EQ(link.outputs()[0].outcome.error, "Task's current input " + id(0).input.text() + " hit its timeout of 1.5s");
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kInputTimeout);
}

TEST_F(AgentTest, AContainerThatNeverAsksIsKilledAtItsStartupTimeout) {
  sched::TaskOrder slow = order(function);
  slow.startup_timeout = seconds(20);
  const TaskId task = start(slow);
  loop.run_for(seconds(19));
  EXPECT_FALSE(link.end_of(task).has_value());
  loop.run_for(seconds(5));
  ASSERT_TRUE(link.end_of(task).has_value());
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kStartTimeout);
}

TEST_F(AgentTest, AContainerWhoseHeartbeatStopsIsKilled) {
  const TaskId task = start(order(function));
  const auto waiting = poll(task);
  std::optional<std::vector<InputId>> beat;
  scope.spawn(do_heartbeat(agent->find(task), seconds(14), &beat));
  loop.run_for(seconds(14));
  ASSERT_TRUE(beat.has_value());
  EXPECT_TRUE(beat->empty());
  loop.run_for(seconds(89));
  EXPECT_FALSE(link.end_of(task).has_value());
  loop.run_for(seconds(15));
  ASSERT_TRUE(link.end_of(task).has_value());
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kCrashed);
}

TEST_F(AgentTest, TellsTheContainerOfACancellationAtOnceAndKillsItIfThatDoesNotHelp) {
  const TaskId task = start(order(function));
  give({lease(0)});
  const auto asked = poll(task);
  std::optional<std::vector<InputId>> beat;
  scope.spawn(do_heartbeat(agent->find(task), seconds(14), &beat));
  loop.run_for(seconds(3));
  link.command({.cancel = {id(0)}});
  settle();
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(*beat, std::vector<InputId>{id(0).input});
  loop.run_for(seconds(29));
  EXPECT_FALSE(link.end_of(task).has_value());
  loop.run_for(seconds(15));
  ASSERT_TRUE(link.end_of(task).has_value());
  EXPECT_EQ(link.end_of(task)->reason, EndReason::kFinished);
}

TEST_F(AgentTest, ACancellationWaitsUntilTheInputHasBegunAndIsToldAgainIfItMayHaveBeenTooEarly) {
  const TaskId task = start(order(function));
  give({lease(0)});
  const auto asked = poll(task);
  link.command({.cancel = {id(0)}});
  std::optional<std::vector<InputId>> beat;
  scope.spawn(do_heartbeat(agent->find(task), seconds(14), &beat));
  loop.run_for(milliseconds(499));
  EXPECT_FALSE(beat.has_value());
  loop.run_for(milliseconds(1));
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(*beat, std::vector<InputId>{id(0).input});
  beat.reset();
  loop.run_for(seconds(2));
  scope.spawn(do_heartbeat(agent->find(task), seconds(14), &beat));
  settle();
  ASSERT_TRUE(beat.has_value());
  EXPECT_EQ(*beat, std::vector<InputId>{id(0).input});
  beat.reset();
  scope.spawn(do_heartbeat(agent->find(task), seconds(14), &beat));
  settle();
  EXPECT_FALSE(beat.has_value());
}

TEST_F(AgentTest, ACancelledInputThatEndsInTimeLeavesItsContainerAlone) {
  const TaskId task = start(order(function));
  give({lease(0)});
  const auto asked = poll(task);
  link.command({.cancel = {id(0)}});
  put(task, 0);
  loop.run_for(seconds(100));
  EXPECT_FALSE(link.end_of(task).has_value());
}

TEST_F(AgentTest, RevokesAndCancelsWhatIsNotBoundAndKeepsWhatIs) {
  const TaskId task = start(order(function));
  give({lease(0), lease(1), lease(2)});
  const auto asked = poll(task);
  link.command({.revoke = {id(0), id(1)}});
  link.command({.cancel = {id(2)}});
  loop.run_for(milliseconds(50));
  EXPECT_EQ(link.revoked(), (std::vector{id(1), id(2)}));
  EXPECT_TRUE(agent->find(task)->holds(id(0)));
}

TEST_F(AgentTest, ALeaseForAFunctionWithoutATaskComesStraightBack) {
  give({lease(0)});
  loop.run_for(milliseconds(50));
  EXPECT_EQ(link.revoked(), std::vector<sched::LeaseId>{id(0)});
}

TEST_F(AgentTest, ALeaseSaidTwiceIsOneInput) {
  const TaskId task = start(order(function));
  give({lease(0), lease(0)});
  const auto first = poll(task);
  give({lease(0)});
  put(task, 0);
  const auto second = poll(task);
  EXPECT_FALSE(second->answer.has_value());
}

TEST_F(AgentTest, HidesTheServersAbsenceFromTheContainer) {
  const TaskId task = start(order(function));
  give({lease(0)});
  const auto asked = poll(task);
  loop.run_for(milliseconds(50));
  link.disconnect();
  link.calls_fail = unavailable("away");
  EXPECT_FALSE(put(task, 0));
  loop.run_for(seconds(100));
  EXPECT_FALSE(done);

  link.reports.clear();
  link.calls_fail.reset();
  link.connect();
  ASSERT_EQ(link.reports.size(), 1U);
  const sched::Hello& hello = *link.reports[0].hello;
  ASSERT_EQ(hello.tasks.size(), 1U);
  EXPECT_EQ(hello.tasks[0].state, TaskState::kReady);
  // The output is still on its way: the server must not queue the input again.
  EXPECT_EQ(hello.bound, (std::vector<sched::Binding>{{.lease = id(0), .task = task}}));
  settle();
  EXPECT_TRUE(done);
  EXPECT_EQ(link.outputs().size(), 1U);
}

TEST_F(AgentTest, HelloTellsWhatIsQueuedAndWhatEndedMeanwhile) {
  const TaskId gone = start(order(function));
  const TaskId stays = start(order(function));
  const auto asked = poll(stays);
  put(stays, 99);
  link.disconnect();
  runtime.exit(1, {.code = 1});
  loop.run_for(seconds(300));
  link.reports.clear();
  link.connect();
  give({});
  const sched::Hello& hello = *link.reports[0].hello;
  ASSERT_EQ(hello.tasks.size(), 2U);
  std::set<std::pair<TaskId, TaskState>> told;
  for (const auto& report : hello.tasks) told.emplace(report.task, report.state);
  EXPECT_TRUE(told.contains({gone, TaskState::kEnded}));
  EXPECT_TRUE(told.contains({stays, TaskState::kReady}));
  // And forgets the end when the stream has lived for long after it.
  loop.run_for(seconds(130));
  link.disconnect();
  link.reports.clear();
  link.connect();
  EXPECT_EQ(link.reports[0].hello->tasks.size(), 1U);
}

TEST_F(AgentTest, OutputsThatComeWhileACallIsUnderWayGoTogether) {
  sched::TaskOrder wide = order(function);
  wide.concurrent_inputs_max = 10;
  const TaskId task = start(wide);
  give({lease(0), lease(1), lease(2), lease(3)});
  for (int i = 0; i < 4; ++i) (void)poll(task);
  link.hold_outputs = true;
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_FALSE(put(task, i));
  link.release();
  settle();
  ASSERT_EQ(link.output_groups.size(), 2U);
  EXPECT_EQ(link.output_groups[1].size(), 3U);
}

TEST_F(AgentTest, AnOutputThatTheServerRefusesBecomesAFailureAndHoldsUpNobody) {
  sched::TaskOrder wide = order(function);
  wide.concurrent_inputs_max = 10;
  const TaskId task = start(wide);
  give({lease(0), lease(1)});
  for (int i = 0; i < 2; ++i) (void)poll(task);
  link.poison = id(0).input;
  EXPECT_TRUE(put(task, 0));
  EXPECT_TRUE(put(task, 1));
  ASSERT_EQ(link.outputs().size(), 2U);
  EXPECT_EQ(link.outputs()[0].outcome.status, control::Status::kInternalFailure);
}

TEST_F(AgentTest, OutputsOfOtherAttemptsAndStrangersAreIgnored) {
  const TaskId task = start(order(function));
  give({lease(0)});
  const auto asked = poll(task);
  EXPECT_TRUE(put(task, 0, 5));
  EXPECT_TRUE(put(task, 7));
  EXPECT_TRUE(link.outputs().empty());
  EXPECT_TRUE(agent->find(task)->holds(id(0)));
}

TEST_F(AgentTest, ReadsLogsWhileTheyArePrinted) {
  const TaskId task = start(order(function));
  pipes.write(0, "hello\nwor");
  loop.run_for(milliseconds(50));
  ASSERT_EQ(link.lines().size(), 1U);
  EXPECT_EQ(link.lines()[0].text, "hello\n");
  EXPECT_EQ(link.lines()[0].stream, control::LogStream::kStdout);
  EXPECT_TRUE(link.lines()[0].input.call.empty());
  loop.run_for(milliseconds(150));
  ASSERT_EQ(link.lines().size(), 2U);
  EXPECT_EQ(link.lines()[1].text, "wor");
  give({lease(0)});
  const auto asked = poll(task);
  pipes.write(1, "ld\n");
  loop.run_for(milliseconds(50));
  ASSERT_EQ(link.lines().size(), 3U);
  EXPECT_EQ(link.lines()[2].stream, control::LogStream::kStderr);
  EXPECT_EQ(link.lines()[2].input, id(0).input);
}

TEST_F(AgentTest, TheLastLinesReachTheServerBeforeTheEndIsTold) {
  const TaskId task = start(order(function));
  link.calls_fail = unavailable("away");
  pipes.write(1, "Traceback: it broke");
  runtime.exit(runtime.running(), {.code = 1});
  pipes.close(0);
  pipes.close(1);
  loop.run_for(seconds(1));
  EXPECT_FALSE(link.end_of(task).has_value());
  link.calls_fail.reset();
  loop.run_for(seconds(2));
  ASSERT_EQ(link.lines().size(), 1U);
  EXPECT_EQ(link.lines()[0].text, "Traceback: it broke");
  EXPECT_TRUE(link.end_of(task).has_value());
}

TEST_F(AgentTest, AServerThatDoesNotTakeLinesStopsTheReaderNotTheWorker) {
  (void)start(order(function));
  link.calls_fail = unavailable("away");
  const std::string megabyte = std::string((1 << 20) - 1, 'x') + "\n";
  for (int i = 0; i < 16; ++i) pipes.write(0, megabyte);
  loop.run_for(seconds(1));
  EXPECT_GT(pipes.unread(0), 4U << 20);
}

TEST_F(AgentTest, DropsLinesBeyondTheRateAndSaysHowMany) {
  (void)start(order(function));
  std::string flood;
  for (int i = 0; i < 100'000; ++i) flood += "x\n";
  pipes.write(0, flood);
  loop.run_for(milliseconds(900));
  pipes.write(0, "calm\n");
  loop.run_for(seconds(2));
  const auto lines = link.lines();
  ASSERT_GE(lines.size(), 3U);
  EXPECT_EQ(lines.back().text, "calm\n");
  EXPECT_EQ(lines[lines.size() - 2].stream, control::LogStream::kInfo);
  EXPECT_NE(lines[lines.size() - 2].text.find("20000 lines dropped"), std::string::npos);
}

TEST_F(AgentTest, ReportsTheLoadEachSecond) {
  loop.run_for(seconds(3));
  int loads = 0;
  for (const auto& report : link.reports) loads += report.load.has_value() ? 1 : 0;
  EXPECT_EQ(loads, 3);
}

TEST_F(AgentTest, KeepsSlotsPreparedAndFollowsWhatIsTaken) {
  agent.reset();
  prepared_slots = 2;
  make_agent();
  settle();
  EXPECT_EQ(runtime.slots.size(), 2U);
  sched::TaskOrder limited = order(function);
  limited.memory_bytes_max = 1 << 30;
  (void)start(limited);
  // Made for it, and one more of its kind instead of one of the old.
  std::size_t of_its_kind = 0;
  for (const auto& [id, slot] : runtime.slots) {
    of_its_kind += slot.kind.limits.memory_bytes_max == 1 << 30 && !slot.removed ? 1U : 0U;
  }
  EXPECT_EQ(of_its_kind, 2U);
  limited.task = TaskId::make(random, loop.now());
  const std::size_t before = runtime.slots.size();
  (void)start(limited);
  EXPECT_TRUE(runtime.slots.at(before).task.has_value());  // The prepared one was there already.
}

Async<> shut_down(Agent* agent, bool* done) {
  co_await agent->shut_down(seconds(5));
  *done = true;
}

TEST_F(AgentTest, ShutDownStopsContainersAndGivesInputsBack) {
  const TaskId task = start(order(function));
  give({lease(0), lease(1)});
  const auto asked = poll(task);
  runtime.obedient = false;
  scope.spawn(shut_down(&*agent, &done));
  loop.run_for(seconds(4));
  EXPECT_FALSE(done);
  loop.run_for(seconds(15));
  EXPECT_TRUE(done);
  EXPECT_EQ(link.revoked(), std::vector<sched::LeaseId>{id(1)});
  EXPECT_TRUE(link.end_of(task).has_value());
  for (const auto& [slot_id, slot] : runtime.slots) EXPECT_TRUE(slot.removed);
}

TEST_F(AgentTest, StopOfATaskThatIsNotHereIsAnsweredWithItsEnd) {
  const TaskId task = TaskId::make(random, loop.now());
  link.command({.stop = sched::StopTask{.task = task, .how = StopHow::kKill}});
  EXPECT_TRUE(link.end_of(task).has_value());
}

TEST_F(AgentTest, OffersMaximumConcurrencyOnlyWhileInputsWait) {
  sched::TaskOrder wide = order(function);
  wide.concurrent_inputs_max = 8;
  wide.concurrent_inputs_target = 3;
  const TaskId task = start(wide);
  EXPECT_EQ(agent->find(task)->concurrency(), 3U);
  give({lease(0)});
  EXPECT_EQ(agent->find(task)->concurrency(), 8U);
}

}  // namespace
}  // namespace proa::worker
