// SPDX-License-Identifier: Apache-2.0
#include "control/calls.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "rt/sim/sim_loop.h"
#include "store/memory/memory_store.h"

namespace proa::control {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

class OneFunction final : public FunctionBook {
 public:
  explicit OneFunction(Random& random)
      : id(FunctionId::make(random, Time())), app(AppId::make(random, Time())), definition(DefinitionId::make(random, Time())) {}
  std::optional<FunctionView> view(FunctionId function) const override {
    if (!there || function != id) return std::nullopt;
    FunctionView view;
    view.id = id;
    view.app = app;
    view.definition = definition;
    view.spec = &spec;
    return view;
  }
  FunctionId id;
  AppId app;
  DefinitionId definition;
  FunctionSpec spec;
  bool there = true;
};

class FakeDispatch final : public Dispatch {
 public:
  void enqueue(FunctionId, InputId input) override { queued.push_back(input); }
  void withdraw(FunctionId, InputId input) override { withdrawn.push_back(input); }
  std::vector<InputId> queued;
  std::vector<InputId> withdrawn;
};

// One life of the server, as far as calls go.
struct Life {
  Life(sim::SimLoop& loop, Random& random, store::Disk& disk, FunctionBook& book, Logger& log, CallLimits limits)
      : store(loop, disk, milliseconds(1)),
        ledger(loop, store, [](const Error& error) { FAIL() << error.message; }),
        calls(loop, random, ledger, store, book, log, limits) {
    calls.set_dispatch(dispatch);
  }
  store::MemoryStore store;
  Ledger ledger;
  FakeDispatch dispatch;
  Calls calls;
};

class CallsTest : public testing::Test {
 protected:
  CallsTest() { begin(); }

  void begin() { life = std::make_unique<Life>(loop, random, disk, book, log, limits); }
  void restart() {
    settle();
    life.reset();
    loop.clear();
    begin();
    const auto loaded = calls().load();
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    calls().resume();
  }
  Calls& calls() { return life->calls; }
  FakeDispatch& dispatch() { return life->dispatch; }
  void settle() {
    while (!life->ledger.settled() && loop.step()) {
    }
  }

  template <class T>
  static Async<> keep(Async<T> work, std::optional<T>* out) {
    out->emplace(co_await std::move(work));
  }
  template <class T>
  T run(Async<T> work) {
    std::optional<T> out;
    Scope scope;
    scope.spawn(keep(std::move(work), &out));
    while (!out && loop.step()) {
    }
    return std::move(*out);
  }

  CallId create(Invocation invocation = Invocation::kSync) {
    NewCall about;
    about.function = book.id;
    about.kind = CallKind::kMap;
    about.invocation = invocation;
    return calls().create(about).value();
  }
  static NewInput input(std::uint32_t index, std::string text = "x") {
    NewInput input;
    input.index = index;
    input.arguments.payload.bytes = std::move(text);
    return input;
  }
  std::vector<InputId> put(CallId call, std::uint32_t first, std::uint32_t count) {
    std::vector<NewInput> inputs;
    for (std::uint32_t index = first; index < first + count; ++index) inputs.push_back(input(index));
    return calls().put_inputs(call, std::move(inputs)).value();
  }
  void end(InputId id, Status status = Status::kSuccess, std::string value = "result") {
    calls().mark_leased(id);
    finish(id, status, std::move(value));
  }
  void finish(InputId id, Status status, std::string value = "result") {
    FinishedInput finished;
    finished.input = id;
    finished.outcome.status = status;
    finished.outcome.value.bytes = std::move(value);
    finished.finished = loop.now();
    finished.retry_count = calls().retry_count(id);
    calls().finish(std::move(finished));
  }
  Result<OutputAnswer> outputs(CallId call, std::uint64_t after = 0, Duration timeout = {}) {
    OutputQuery query;
    query.call = call;
    query.after = after;
    query.timeout = timeout;
    return run(calls().outputs(query));
  }
  static std::vector<std::uint32_t> indices(const OutputAnswer& answer) {
    std::vector<std::uint32_t> out;
    for (const FinishedInput& output : answer.outputs) out.push_back(output.input.index);
    return out;
  }

  sim::SimLoop loop;
  SeededRandom random{7};
  store::Disk disk;
  OneFunction book{random};
  NullLogger log;
  CallLimits limits;
  std::unique_ptr<Life> life;
};

using Indices = std::vector<std::uint32_t>;

TEST_F(CallsTest, QueuesEachInputOnceHoweverOftenItIsPut) {
  const CallId call = create();
  const auto first = put(call, 0, 3);
  const auto again = put(call, 0, 4);
  EXPECT_EQ(first.size(), 3U);
  EXPECT_EQ(again.size(), 4U);
  EXPECT_EQ(dispatch().queued.size(), 4U);
  EXPECT_EQ(calls().view(call)->inputs, 4U);
  EXPECT_EQ(calls().unfinished_of(book.app), 4U);
}

TEST_F(CallsTest, LeavesAFinishedInputAsItIsWhenItIsPutAgain) {
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  end(id);
  put(call, 0, 1);
  EXPECT_EQ(calls().state(id), InputState::kDone);
  EXPECT_EQ(calls().view(call)->unfinished, 0U);
}

TEST_F(CallsTest, RefusesAFunctionThatIsNotThere) {
  book.there = false;
  NewCall about;
  about.function = book.id;
  const auto made = calls().create(about);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, Code::kNotFound);
}

TEST_F(CallsTest, RefusesInputsOfAnUnknownCallAndIndicesOutOfBounds) {
  EXPECT_EQ(calls().put_inputs(CallId::make(random, loop.now()), {input(0)}).error().code, Code::kNotFound);
  const CallId call = create();
  const auto far = static_cast<std::uint32_t>(limits.index_gap_max + 1);
  EXPECT_EQ(calls().put_inputs(call, {input(0), input(far + 5)}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(calls().view(call)->inputs, 0U) << "none of a refused batch is kept";
  EXPECT_TRUE(calls().put_inputs(call, {input(far - 1)}).ok());
}

TEST_F(CallsTest, TellsOutputsInTheOrderInWhichTheyCame) {
  const CallId call = create();
  const auto ids = put(call, 0, 3);
  end(ids[2]);
  end(ids[0]);
  const auto first = outputs(call);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(indices(*first), (Indices{2, 0}));
  EXPECT_EQ(first->unfinished, 1U);
  end(ids[1]);
  const auto second = outputs(call, first->position);
  EXPECT_EQ(indices(*second), Indices{1});
  EXPECT_EQ(indices(*outputs(call)), (Indices{2, 0, 1}));
}

TEST_F(CallsTest, TellsOutputsOfARangeInTheOrderOfIndices) {
  const CallId call = create();
  const auto ids = put(call, 0, 4);
  for (const std::size_t i : {3U, 1U, 0U}) end(ids[i]);
  OutputQuery query;
  query.call = call;
  query.range = std::pair(1U, 3U);
  EXPECT_EQ(indices(*run(calls().outputs(query))), (Indices{1, 3}));
  query.range = std::pair(2U, 0xFFFFFFFFU);
  EXPECT_EQ(indices(*run(calls().outputs(query))), Indices{3});
}

TEST_F(CallsTest, WakesALongPollWhenAnInputEnds) {
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  const Time before = loop.now();
  loop.at(before + seconds(3), [this, id] { end(id); });
  const auto answer = outputs(call, 0, seconds(55));
  EXPECT_EQ(answer->outputs.size(), 1U);
  EXPECT_LT(loop.now() - before, seconds(4));
}

TEST_F(CallsTest, GathersOutputsForWhoWantsManyAtATime) {
  const CallId call = create();
  const auto ids = put(call, 0, 6);
  OutputQuery query;
  query.call = call;
  query.timeout = std::chrono::seconds(10);
  query.outputs_wanted = 3;
  query.linger = milliseconds(50);
  // So many, however late.
  for (int i = 0; i < 3; ++i) {
    loop.at(loop.now() + milliseconds(20 * (i + 1)), [&, i] { end(ids[static_cast<std::size_t>(i)]); });
  }
  const Time begun = loop.now();
  EXPECT_EQ(indices(run(calls().outputs(query)).value()), (Indices{0, 1, 2}));
  EXPECT_EQ(loop.now() - begun, milliseconds(60));
  // Fewer, after the time.
  query.after = 3;
  end(ids[3]);
  const Time asked = loop.now();
  EXPECT_EQ(indices(run(calls().outputs(query)).value()), Indices{3});
  EXPECT_EQ(loop.now() - asked, milliseconds(50));
  // The last ones at once.
  query.after = 4;
  end(ids[4]), end(ids[5]);
  const Time last = loop.now();
  EXPECT_EQ(indices(run(calls().outputs(query)).value()), (Indices{4, 5}));
  EXPECT_EQ(loop.now(), last);
}

TEST_F(CallsTest, AnswersALongPollEmptyAtItsEnd) {
  const CallId call = create();
  put(call, 0, 1);
  const Time before = loop.now();
  const auto answer = outputs(call, 0, seconds(5));
  ASSERT_TRUE(answer.ok());
  EXPECT_TRUE(answer->outputs.empty());
  EXPECT_EQ(answer->unfinished, 1U);
  EXPECT_GE(loop.now() - before, seconds(5));
}

TEST_F(CallsTest, KeepsTheFirstOutcome) {
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  end(id, Status::kSuccess, "first");
  finish(id, Status::kSuccess, "second");
  const auto answer = outputs(call);
  ASSERT_EQ(answer->outputs.size(), 1U);
  EXPECT_EQ(answer->outputs[0].outcome.value.bytes, "first");
}

TEST_F(CallsTest, RetriesAsThePolicySaysAndAfterItsDelays) {
  book.spec.retries = {.retries = 3, .initial_delay = seconds(1), .delay_max = seconds(3), .backoff = 2.0};
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  for (const Duration delay : {seconds(1), seconds(2), seconds(3)}) {
    const std::size_t before = dispatch().queued.size();
    end(id, Status::kFailure);
    EXPECT_EQ(calls().state(id), InputState::kWaiting);
    loop.run_for(delay - milliseconds(10));
    EXPECT_EQ(dispatch().queued.size(), before);
    loop.run_for(milliseconds(20));
    EXPECT_EQ(dispatch().queued.size(), before + 1);
  }
  EXPECT_TRUE(outputs(call)->outputs.empty());
  end(id, Status::kTimeout);
  const auto answer = outputs(call);
  ASSERT_EQ(answer->outputs.size(), 1U);
  EXPECT_EQ(answer->outputs[0].outcome.status, Status::kTimeout);
  EXPECT_EQ(answer->outputs[0].retry_count, 3U);
}

TEST_F(CallsTest, RetriesOnlyWhatTheUsersCodeDid) {
  book.spec.retries = {.retries = 3};
  const CallId call = create();
  const auto ids = put(call, 0, 4);
  end(ids[0], Status::kSuccess);
  end(ids[1], Status::kInitFailure);
  end(ids[2], Status::kInternalFailure);
  end(ids[3], Status::kTerminated);
  for (const InputId id : ids) EXPECT_EQ(calls().state(id), InputState::kDone);
}

TEST_F(CallsTest, RetriesAtOnceAfterARestart) {
  book.spec.retries = {.retries = 1, .initial_delay = seconds(60)};
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  end(id, Status::kFailure);
  restart();
  EXPECT_EQ(dispatch().queued, std::vector<InputId>{id});
  EXPECT_EQ(calls().retry_count(id), 1U);
}

TEST_F(CallsTest, GivesTheCallersRetryANewPlaceInTheLog) {
  const CallId call = create();
  const auto ids = put(call, 0, 2);
  end(ids[0], Status::kFailure);
  end(ids[1]);
  const auto seen = outputs(call);
  ASSERT_TRUE(calls().retry(ids[0], std::nullopt, 1).ok());
  ASSERT_TRUE(calls().retry(ids[0], std::nullopt, 1).ok()) << "a repeat does no harm";
  EXPECT_EQ(calls().unfinished_of(book.app), 1U);
  EXPECT_EQ(indices(*outputs(call)), Indices{1});
  end(ids[0], Status::kSuccess, "better");
  const auto later = outputs(call, seen->position);
  ASSERT_EQ(indices(*later), Indices{0});
  EXPECT_EQ(later->outputs[0].outcome.value.bytes, "better");
}

// A position that was given out twice hid the result from a client that had read on beyond it.
TEST_F(CallsTest, DoesNotGiveOutAPositionAgainAfterARetryAndARestart) {
  const CallId call = create();
  const auto ids = put(call, 0, 2);
  end(ids[0], Status::kFailure);
  end(ids[1], Status::kFailure);
  const auto seen = outputs(call);
  for (const InputId id : ids) ASSERT_TRUE(calls().retry(id, std::nullopt, 1).ok());
  restart();
  end(ids[1]);
  restart();
  end(ids[0]);
  EXPECT_EQ(indices(*outputs(call, seen->position)), (Indices{1, 0}));
  EXPECT_EQ(indices(*outputs(call)), (Indices{1, 0}));
}

TEST_F(CallsTest, CancelsWhatIsNotDoneAndTellsTheScheduler) {
  const CallId call = create();
  const auto ids = put(call, 0, 3);
  end(ids[0]);
  calls().mark_leased(ids[1]);
  ASSERT_TRUE(calls().cancel(call, "no longer wanted").ok());
  EXPECT_EQ(dispatch().withdrawn, (std::vector<InputId>{ids[1], ids[2]}));
  const auto view = calls().view(call);
  EXPECT_EQ(view->succeeded, 1U);
  EXPECT_EQ(view->terminated, 2U);
  EXPECT_EQ(calls().put_inputs(call, {input(9)}).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(calls().retry(ids[1], std::nullopt, 1).error().code, Code::kFailedPrecondition);
  EXPECT_TRUE(calls().cancel(call, "again").ok());
  restart();
  EXPECT_TRUE(dispatch().queued.empty());
  EXPECT_EQ(calls().put_inputs(call, {input(9)}).error().code, Code::kFailedPrecondition);
}

TEST_F(CallsTest, DoesNotQueueARetryOfACancelledCall) {
  book.spec.retries = {.retries = 2, .initial_delay = seconds(1)};
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  end(id, Status::kFailure);
  ASSERT_TRUE(calls().cancel(call, "enough").ok());
  EXPECT_TRUE(dispatch().withdrawn.empty()) << "the scheduler does not know of an input that waits";
  loop.run_for(seconds(5));
  EXPECT_EQ(dispatch().queued.size(), 1U);
}

TEST_F(CallsTest, TellsWhenTheLastInputOfAnAppEnded) {
  std::vector<AppId> idle;
  calls().on_app_idle([&](AppId app) { idle.push_back(app); });
  const auto ids = put(create(), 0, 2);
  end(ids[0]);
  loop.run_for(milliseconds(10));
  EXPECT_TRUE(idle.empty());
  calls().cancel_app(book.app, "stopped");
  loop.run_for(milliseconds(10));
  EXPECT_EQ(idle, std::vector<AppId>{book.app});
}

TEST_F(CallsTest, QueuesWhatWasHandedBackHoweverOften) {
  const InputId id = put(create(), 0, 1)[0];
  for (int i = 0; i < 50; ++i) {
    calls().mark_leased(id);
    calls().requeue(id, Calls::Return::kHandedBack);
  }
  EXPECT_EQ(calls().state(id), InputState::kQueued);
  EXPECT_EQ(dispatch().queued.size(), 51U);
}

TEST_F(CallsTest, GivesUpAnInputThatIsLostAgainAndAgain) {
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  for (std::uint32_t i = 0; i < limits.losses_max; ++i) {
    calls().mark_leased(id);
    calls().requeue(id, Calls::Return::kLost);
    ASSERT_EQ(calls().state(id), InputState::kQueued);
    if (i == 3) restart();  // They are counted over restarts.
  }
  calls().mark_leased(id);
  calls().requeue(id, Calls::Return::kLost);
  const auto answer = outputs(call);
  ASSERT_EQ(answer->outputs.size(), 1U);
  EXPECT_EQ(answer->outputs[0].outcome.status, Status::kInternalFailure);
}

TEST_F(CallsTest, IsTheSameAfterARestart) {
  const CallId call = create(Invocation::kAsync);
  const auto ids = put(call, 0, 6);
  end(ids[4], Status::kSuccess, "four");
  end(ids[1], Status::kFailure, "one");
  end(ids[3], Status::kTimeout, "three");
  const auto before = outputs(call);
  const auto view = calls().view(call);
  restart();
  const auto after = outputs(call);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->outputs, before->outputs);
  EXPECT_EQ(after->position, before->position);
  const auto view_after = calls().view(call);
  EXPECT_EQ(view_after->created, view->created);
  EXPECT_EQ(view_after->invocation, Invocation::kAsync);
  EXPECT_EQ(view_after->inputs, 6U);
  EXPECT_EQ(view_after->unfinished, 3U);
  EXPECT_EQ(view_after->succeeded, 1U);
  EXPECT_EQ(view_after->failed, 1U);
  EXPECT_EQ(view_after->timed_out, 1U);
  EXPECT_EQ(calls().unfinished_of(book.app), 3U);
  EXPECT_EQ(dispatch().queued, (std::vector<InputId>{ids[0], ids[2], ids[5]}));
  const auto arguments = run(calls().arguments(ids[5]));
  ASSERT_TRUE(arguments.ok());
  EXPECT_EQ(arguments->payload.bytes, "x");
}

TEST_F(CallsTest, ForgetsAFinishedCallSomeTimeAfterItWasLastAskedFor) {
  const CallId call = create();
  const auto ids = put(call, 0, 1200);
  for (const InputId id : ids) end(id);
  loop.run_for(minutes(9));
  EXPECT_TRUE(outputs(call).ok());
  loop.run_for(minutes(9));
  EXPECT_TRUE(calls().view(call).ok());
  loop.run_for(minutes(3));
  EXPECT_EQ(calls().view(call).error().code, Code::kNotFound);
  EXPECT_EQ(outputs(call).error().code, Code::kNotFound);
  settle();
  for (const auto& table : disk.tables) EXPECT_TRUE(table.empty());
}

TEST_F(CallsTest, DropsTheBlobsOfACallThatIsForgotten) {
  std::vector<BlobId> dropped;
  const auto blob = [](std::uint64_t number) { return BlobId(IdBits{9, number}); };
  const CallId call = create();
  NewInput given = input(0);
  given.arguments.payload.blob = blob(1);
  const InputId id = calls().put_inputs(call, {given}).value().at(0);
  Calls::Chunk chunk;
  chunk.index = 1;
  chunk.payload.blob = blob(2);
  ASSERT_TRUE(calls().put_chunks(call, Calls::Channel::kOut, {chunk}).ok());
  calls().mark_leased(id);
  FinishedInput finished;
  finished.input = id;
  finished.outcome.status = Status::kSuccess;
  finished.outcome.value.blob = blob(3);
  calls().finish(std::move(finished));
  EXPECT_EQ(calls().blobs(), (std::unordered_set<BlobId>{blob(1), blob(2), blob(3)}));
  restart();
  EXPECT_EQ(calls().blobs(), (std::unordered_set<BlobId>{blob(1), blob(2), blob(3)}));
  calls().on_blob_dropped([&](BlobId gone) { dropped.push_back(gone); });
  loop.run_for(minutes(12));
  settle();
  std::sort(dropped.begin(), dropped.end());
  EXPECT_EQ(dropped, (std::vector<BlobId>{blob(1), blob(2), blob(3)}));
  EXPECT_TRUE(calls().blobs().empty());
  restart();
  EXPECT_TRUE(calls().blobs().empty());
}

TEST_F(CallsTest, KeepsSoManyBytesOfChunksAndNoMore) {
  limits.chunk_bytes_per_call_max = 10;
  restart();
  const CallId call = create();
  put(call, 0, 1);
  const auto chunk = [](std::uint64_t index, std::string text) {
    Calls::Chunk made;
    made.index = index;
    made.payload.bytes = std::move(text);
    return made;
  };
  EXPECT_TRUE(calls().put_chunks(call, Calls::Channel::kOut, {chunk(1, "12345"), chunk(2, "12345")}).ok());
  const auto refused = calls().put_chunks(call, Calls::Channel::kOut, {chunk(3, "1")});
  ASSERT_EQ(refused.error().code, Code::kResourceExhausted);
}

TEST_F(CallsTest, DoesNotForgetWhatIsNotDone) {
  const CallId sync = create();
  put(sync, 0, 1);
  const CallId async = create(Invocation::kAsync);
  end(put(async, 0, 1)[0]);
  loop.run_for(std::chrono::hours(2));
  EXPECT_TRUE(calls().view(sync).ok());
  EXPECT_TRUE(calls().view(async).ok());
}

TEST_F(CallsTest, LetsALongPollOfAForgottenCallEndWithNotFound) {
  limits.sync_retention = seconds(5);
  begin();
  const CallId call = create();
  end(put(call, 0, 1)[0]);
  const auto answer = outputs(call, 1, minutes(2));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, Code::kNotFound);
}

TEST_F(CallsTest, FitsAnswersIntoTheirBound) {
  limits.answer_bytes_max = 10'000;
  begin();
  const CallId call = create();
  const auto ids = put(call, 0, 10);
  for (const InputId id : ids) end(id, Status::kSuccess, std::string(3000, 'r'));
  std::vector<std::uint32_t> seen;
  std::uint64_t position = 0;
  for (int questions = 0; questions < 10 && seen.size() < 10; ++questions) {
    const auto answer = outputs(call, position);
    ASSERT_TRUE(answer.ok());
    EXPECT_LE(answer->outputs.size(), 3U);
    for (const std::uint32_t index : indices(*answer)) seen.push_back(index);
    position = answer->position;
  }
  EXPECT_EQ(seen, (Indices{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
}

TEST_F(CallsTest, AnswersOneResultHoweverBigItIs) {
  limits.answer_bytes_max = 1000;
  limits.output_cache_bytes_max = 1000;  // And the cache does not take it.
  begin();
  const CallId call = create();
  end(put(call, 0, 1)[0], Status::kSuccess, std::string(50'000, 'r'));
  const auto answer = outputs(call);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  ASSERT_EQ(answer->outputs.size(), 1U);
  EXPECT_EQ(answer->outputs[0].outcome.value.bytes.size(), 50'000U);
}

TEST_F(CallsTest, AnswersAtMostSoManyOutputsAsWereAskedFor) {
  const CallId call = create();
  for (const InputId id : put(call, 0, 5)) end(id);
  OutputQuery query;
  query.call = call;
  query.outputs_max = 2;
  const auto answer = run(calls().outputs(query));
  EXPECT_EQ(indices(*answer), (Indices{0, 1}));
  query.after = answer->position;
  EXPECT_EQ(indices(*run(calls().outputs(query))), (Indices{2, 3}));
}

Calls::Chunk chunk(std::uint64_t index, std::string text) {
  Calls::Chunk chunk;
  chunk.index = index;
  chunk.payload.bytes = std::move(text);
  return chunk;
}

TEST_F(CallsTest, KeepsChunksInOrderAndIgnoresRepeats) {
  const CallId call = create();
  put(call, 0, 1);
  const auto out = Calls::Channel::kOut;
  ASSERT_TRUE(calls().put_chunks(call, out, {chunk(1, "a"), chunk(2, "b")}).ok());
  ASSERT_TRUE(calls().put_chunks(call, out, {chunk(2, "other"), chunk(3, "c")}).ok());
  EXPECT_EQ(calls().put_chunks(call, out, {chunk(5, "e")}).error().code, Code::kInvalidArgument);
  const auto all = run(calls().chunks(call, out, 0, {}));
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(*all, (std::vector<Calls::Chunk>{chunk(1, "a"), chunk(2, "b"), chunk(3, "c")}));
  EXPECT_EQ(run(calls().chunks(call, out, 2, {}))->size(), 1U);
  EXPECT_TRUE(run(calls().chunks(call, Calls::Channel::kIn, 0, seconds(1)))->empty());
  restart();
  EXPECT_EQ(run(calls().chunks(call, out, 0, {}))->size(), 3U);
  EXPECT_TRUE(calls().put_chunks(call, out, {chunk(4, "d")}).ok());
}

TEST_F(CallsTest, ForgetsTheChunksOfARunThatIsMadeAgain) {
  const CallId call = create();
  const InputId id = put(call, 0, 1)[0];
  calls().mark_leased(id);
  ASSERT_TRUE(calls().put_chunks(call, Calls::Channel::kOut, {chunk(1, "old")}).ok());
  calls().requeue(id, Calls::Return::kLost);
  EXPECT_TRUE(run(calls().chunks(call, Calls::Channel::kOut, 0, {}))->empty());
  ASSERT_TRUE(calls().put_chunks(call, Calls::Channel::kOut, {chunk(1, "new")}).ok());
  EXPECT_EQ(run(calls().chunks(call, Calls::Channel::kOut, 0, {}))->at(0).payload.bytes, "new");
}

TEST_F(CallsTest, WakesWhoWaitsForChunks) {
  const CallId call = create();
  put(call, 0, 1);
  loop.at(loop.now() + seconds(2), [this, call] { (void)calls().put_chunks(call, Calls::Channel::kOut, {chunk(1, "a")}); });
  const Time before = loop.now();
  EXPECT_EQ(run(calls().chunks(call, Calls::Channel::kOut, 0, seconds(30)))->size(), 1U);
  EXPECT_LT(loop.now() - before, seconds(3));
}

TEST_F(CallsTest, SaysSoWhenWhatIsStoredCannotBeRead) {
  create();
  settle();
  for (auto& [key, value] : disk.tables[static_cast<std::size_t>(store::Table::kCall)]) value = "\xff\xff\xff";
  life.reset();
  loop.clear();
  begin();
  const auto loaded = calls().load();
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, Code::kDataLoss);
}

TEST_F(CallsTest, TheLastCallsOfAnAppAreKnownNewestFirstWithTheirCountsAndOverRestarts) {
  const CallId first = create(Invocation::kAsync);
  loop.run_for(seconds(1));
  const CallId second = create(Invocation::kAsync);
  put(second, 0, 4);
  end({second, 0});
  end({second, 1}, Status::kFailure);
  end({second, 2}, Status::kTimeout);
  ASSERT_TRUE(calls().retry({second, 1}, std::nullopt, 1).ok());
  const auto check = [&] {
    const std::vector<CallView> recent = calls().recent(book.app, 10);
    ASSERT_EQ(recent.size(), 2U);
    EXPECT_EQ(recent[0].id, second);
    EXPECT_EQ(recent[1].id, first);
    EXPECT_EQ(recent[0].inputs, 4U);
    EXPECT_EQ(recent[0].unfinished, 2U);
    EXPECT_EQ(recent[0].succeeded, 1U);
    EXPECT_EQ(recent[0].failed, 0U) << "a retried input has not failed";
    EXPECT_EQ(recent[0].timed_out, 1U);
  };
  check();
  EXPECT_EQ(calls().recent(book.app, 1).size(), 1U);
  EXPECT_TRUE(calls().recent(AppId(), 10).empty());
  restart();
  check();
}

TEST_F(CallsTest, OnlySoManyOfTheLastCallsAreKept) {
  std::vector<CallId> made;
  for (std::size_t i = 0; i < Calls::kRecentCallsMax + 5; ++i) {
    made.push_back(create(Invocation::kAsync));
    loop.run_for(milliseconds(10));
  }
  EXPECT_EQ(calls().recent(book.app, 1000).size(), Calls::kRecentCallsMax);
  EXPECT_EQ(calls().recent(book.app, 1)[0].id, made.back());
  restart();
  EXPECT_EQ(calls().recent(book.app, 1000).size(), Calls::kRecentCallsMax);
  EXPECT_EQ(calls().recent(book.app, 1)[0].id, made.back());
}

TEST_F(CallsTest, ACallThatIsForgottenIsNoRecentOne) {
  const CallId call = create();
  put(call, 0, 1);
  end({call, 0});
  loop.run_for(limits.sync_retention + minutes(2));
  EXPECT_FALSE(calls().view(call).ok());
  EXPECT_TRUE(calls().recent(book.app, 10).empty());
}

}  // namespace
}  // namespace proa::control
