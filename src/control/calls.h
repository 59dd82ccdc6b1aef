// SPDX-License-Identifier: Apache-2.0
//
// Calls: inputs, what became of them, and who waits to hear it.
//
// A call is made of inputs, each with an index. An input is waiting for its time, queued, leased, or done.
// It is done once: the first outcome that stands is its result, and nothing after it counts. Retries that
// the user asked for and inputs lost with a worker are made here; where and when an input runs is the
// scheduler's business, told through Dispatch.
//
// What is small stays in memory (a few dozen bytes for an input); arguments and outcomes are in the store,
// with the last ones cached. On the server's loop.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/log.h"
#include "control/ledger.h"
#include "control/types.h"
#include "rt/loop.h"

namespace proa::control {

// What the rules ask about a function. Implemented over Apps.
struct FunctionView {
  FunctionId id;
  FunctionId base;
  AppId app;
  DefinitionId definition;
  const FunctionSpec* spec = nullptr;  // Valid until the apps change.
  Autoscaling autoscaling;             // With overrides.
  bool deployed = false;               // Of a deployed app: failures are forgiven more patiently.
};

class FunctionBook {
 public:
  virtual ~FunctionBook() = default;
  // Nothing if the function is unknown, not published, removed, or of an app that does not run.
  virtual std::optional<FunctionView> view(FunctionId function) const = 0;
};

// The scheduler, as calls see it.
class Dispatch {
 public:
  virtual ~Dispatch() = default;
  // The input may run now.
  virtual void enqueue(FunctionId function, InputId input) = 0;
  // The input is over without having run to its end: forget it, and stop it where it runs.
  virtual void withdraw(FunctionId function, InputId input) = 0;
};

enum class InputState : std::uint8_t { kAbsent = 0, kWaiting = 1, kQueued = 2, kLeased = 3, kDone = 4 };

struct CallLimits {
  std::size_t inputs_per_call_max = 10'000'000;
  // A batch may leave a gap in the indices of at most so many.
  std::size_t index_gap_max = 100'000;
  std::size_t output_cache_bytes_max = 64 << 20;
  std::size_t answer_bytes_max = 64 << 20;
  std::size_t answer_outputs_max = 1000;
  std::uint64_t chunk_bytes_per_call_max = std::uint64_t{1} << 30;
  std::uint32_t losses_max = 8;  // An input that was lost with its worker so often is given up.
  Duration sync_retention = std::chrono::minutes(10);  // After the last poll of a finished call.
  Duration async_retention = std::chrono::hours(7 * 24);
};

struct NewCall {
  FunctionId function;
  AppId app;
  CallKind kind = CallKind::kUnary;
  Invocation invocation = Invocation::kSync;
  InputId parent;  // The input whose code made the call, if any.
};

struct NewInput {
  std::uint32_t index = 0;
  Arguments arguments;
};

struct CallView {
  CallId id;
  FunctionId function;
  AppId app;
  CallKind kind = CallKind::kUnary;
  Invocation invocation = Invocation::kSync;
  InputId parent;
  Time created;
  std::uint32_t inputs = 0;
  std::uint32_t unfinished = 0;
  std::uint32_t succeeded = 0;
  std::uint32_t failed = 0;
  std::uint32_t timed_out = 0;
  std::uint32_t terminated = 0;
};

// An outcome, with where and when it came about. Stored. DO NOT CHANGE tags.
struct FinishedInput {
  InputId input;
  Outcome outcome;
  TaskId task;
  Time started;
  Time finished;
  std::uint32_t retry_count = 0;

  static void fields(auto& visit, auto& self) {
    visit(1, self.input), visit(2, self.outcome), visit(3, self.task), visit(4, self.started);
    visit(5, self.finished), visit(6, self.retry_count);
  }
  friend bool operator==(const FinishedInput&, const FinishedInput&) = default;
};

struct OutputQuery {
  CallId call;
  // Either all that finished after this position (0: from the beginning) …
  std::uint64_t after = 0;
  // … or the inputs of these indices, both ends included.
  std::optional<std::pair<std::uint32_t, std::uint32_t>> range;
  Duration timeout{};  // How long to wait for the first; 0 answers at once.
  std::size_t outputs_max = 0;  // 0: as many as fit.
  // Once there is one: until there are so many, or all are, others are waited for, though not for longer than `linger`.
  std::size_t outputs_wanted = 1;
  Duration linger{};
};

struct OutputAnswer {
  std::vector<FinishedInput> outputs;
  std::uint64_t position = 0;  // To be given as `after` next time.
  std::uint32_t unfinished = 0;
};

class Calls {
 public:
  Calls(Loop& loop, Random& random, Ledger& ledger, store::Store& store, FunctionBook& functions, Logger& log,
        CallLimits limits);
  ~Calls();
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  static constexpr std::size_t kRecentCallsMax = 100;

  void set_dispatch(Dispatch& dispatch) { dispatch_ = &dispatch; }
  // Reads what an earlier process left. Unfinished inputs are queued again by resume().
  Result<void> load();
  void resume();

  // kNotFound if the function is not there to be called.
  Result<CallId> create(NewCall call);
  // Adds inputs; one whose index is there already is left as it is, so that a repeat does no harm.
  //   kNotFound, kInvalidArgument (an index out of bounds), kFailedPrecondition (the call was cancelled).
  Result<std::vector<InputId>> put_inputs(CallId call, std::vector<NewInput> inputs);
  // Runs the input again, forgetting what it came to: the caller's own retry.
  Result<void> retry(InputId input, std::optional<Arguments> arguments, std::uint32_t retry_count);

  // kNotFound if the call is unknown or expired.
  Async<Result<OutputAnswer>> outputs(OutputQuery query);
  Result<CallView> view(CallId call) const;
  // The calls of an app that were made last, newest first; at most kRecentCallsMax.
  std::vector<CallView> recent(AppId app, std::size_t calls_max) const;
  // Unfinished inputs become kTerminated. The containers that run them are told.
  Result<void> cancel(CallId call, std::string why);
  void cancel_app(AppId app, std::string why);
  // Inputs of the app that are not done.
  std::size_t unfinished_of(AppId app) const;
  // Called whenever an app's last unfinished input was finished.
  void on_app_idle(std::function<void(AppId)> callback) { app_idle_ = std::move(callback); }
  std::unordered_set<BlobId> blobs() const;  // That the payloads of calls are in.
  // Told of each blob of a call that is forgotten, once nothing names it any more.
  void on_blob_dropped(std::function<void(BlobId)> callback) { drop_blob_ = std::move(callback); }

  // For the scheduler.
  InputState state(InputId input) const;
  FunctionId function_of(InputId input) const;
  Invocation invocation_of(InputId input) const;
  std::uint32_t retry_count(InputId input) const;
  Async<Result<Arguments>> arguments(InputId input);
  // The arguments if they are cached, else null.
  const Arguments* cached_arguments(InputId input) const;
  void mark_leased(InputId input);
  // Back to the queue: it did not run to its end, through no fault of its own. `lost` counts towards
  // losses_max (its worker died), else it is free (it was handed back).
  enum class Return { kHandedBack, kLost };
  void requeue(InputId input, Return how);
  // The input came to an end in a container. A failure or time-out is run again if its function's policy
  // has retries left; anything else stands.
  void finish(FinishedInput finished);

  // For tests and the dashboard.
  std::size_t calls_live() const { return calls_.size(); }

  // Data that belongs to a call: what a generator yields, what a web call carries. Chunks have indices
  // from 1; one that is there already is left as it is.
  enum class Channel : std::uint8_t { kIn = 0, kOut = 1 };
  struct Chunk {
    std::uint64_t index = 0;
    Payload payload;
    static void fields(auto& visit, auto& self) { visit(1, self.index), visit(2, self.payload); }
    friend bool operator==(const Chunk&, const Chunk&) = default;
  };
  Result<void> put_chunks(CallId call, Channel channel, std::vector<Chunk> chunks);
  // Chunks after `after`, waiting up to `timeout` for the first. Empty at the time-out.
  Async<Result<std::vector<Chunk>>> chunks(CallId call, Channel channel, std::uint64_t after, Duration timeout);

 private:
  static constexpr std::size_t kStatuses = 7;
  struct Input {
    InputState state = InputState::kAbsent;
    Status status = Status::kNone;
    std::uint8_t losses = 0;
    std::uint16_t retry_count = 0;
    // In the call's log, from 1; 0 if it was never done. Kept over a retry, so that a restart never gives out
    // a position twice, which would hide a result from a client that has read on beyond it.
    std::uint32_t position = 0;
  };
  struct Call {
    NewCall about;
    Time created;
    Time touched;
    bool cancelled = false;
    std::uint32_t present = 0;
    std::uint32_t unfinished = 0;
    std::array<std::uint32_t, kStatuses> by_status{};  // How many inputs have each, kNone apart.
    std::uint32_t chunks_in = 0;   // Highest index.
    std::uint32_t chunks_out = 0;
    std::uint64_t chunk_bytes = 0;
    std::vector<BlobId> blobs;  // That its payloads are in.
    std::vector<Input> inputs;
    // Indices in the order in which they finished; kNoIndex where a restart has lost a superseded entry.
    std::vector<std::uint32_t> log;
    std::unique_ptr<Signal> changed;
  };

  static void set_status(Call& call, Input& input, Status status);
  static CallView view_of(CallId id, const Call& call);
  void note_recent(AppId app, CallId call);
  void forget_recent(AppId app, CallId call);

  Call* find(CallId call);
  const Call* find(CallId call) const;
  Input* find(InputId input);
  const Input* find(InputId input) const;
  void store_call(CallId id, const Call& call);
  void store_input(InputId id, const Input& input);
  void wake(Call& call);
  void note_blob(CallId id, Call& call, BlobId blob);
  Signal& changed(Call& call);
  void queue(InputId id, Call& call, Input& input);
  void settle(InputId id, Call& call, Input& input, FinishedInput finished);
  void terminate(CallId id, Call& call, const std::string& why);
  void clear_chunks(CallId id, Call& call, Channel channel);
  void finished_one(Call& call);
  Async<Result<FinishedInput>> read_output(InputId input);
  Async<> sweep();
  Async<> expire(CallId call);
  Async<> queue_at(InputId input, Time due, std::uint32_t retry_count);

  // A cache bounded in bytes, oldest out first.
  template <class T>
  struct Cache {
    struct Held {
      T value;
      std::size_t bytes;
    };
    std::unordered_map<InputId, Held> held;
    std::deque<InputId> order;
    std::size_t bytes = 0;
    void put(InputId id, T value, std::size_t size, std::size_t bytes_max);
    void drop(InputId id);
    const T* get(InputId id) const;
  };

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  store::Store& store_;
  FunctionBook& functions_;
  Logger& log_;
  CallLimits limits_;
  Dispatch* dispatch_ = nullptr;
  std::function<void(AppId)> app_idle_;
  std::function<void(BlobId)> drop_blob_;
  std::unordered_map<CallId, Call> calls_;
  std::unordered_map<AppId, std::size_t> unfinished_;
  std::unordered_map<AppId, std::deque<CallId>> recent_;  // The last of each app, oldest first.
  Cache<FinishedInput> outputs_;
  Cache<Arguments> arguments_;
  Scope scope_;
};

}  // namespace proa::control
