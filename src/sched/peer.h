// SPDX-License-Identifier: Apache-2.0
//
// What a server and its workers say to each other. One long-lived stream carries Commands one way and
// Reports the other, small and in order; whatever may be big (a task's order, payloads, outputs, logs) goes
// by calls of its own, see WorkerCalls. docs/formats/worker-protocol.md is the description.
//
// The stream may break at any moment and lose what was under way. Then the worker connects again and says
// Hello with all that it holds; the server compares, and both go on from there. So nothing here needs an
// acknowledgement, and everything may be said twice.
//
// An input is leased under an epoch, a number that grows with each lease of that input. An output, a binding
// or a revocation names the epoch it is about, so that a late one about an older lease is known as such.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/digest.h"
#include "base/id.h"
#include "base/result.h"
#include "control/types.h"
#include "rt/async.h"

namespace proa::sched {

struct LeaseId {
  InputId input;
  std::uint32_t epoch = 0;

  static void fields(auto& visit, auto& self) { visit(1, self.input), visit(2, self.epoch); }
  friend auto operator<=>(const LeaseId&, const LeaseId&) = default;
};

// An input that a worker may give to a container of its function.
struct Lease {
  LeaseId id;
  FunctionId function;
  std::uint32_t retry_count = 0;  // Of the user's retries.
  control::Invocation invocation = control::Invocation::kSync;
  std::string method;
  // Set when it is small (kInlinePayloadBytesMax); otherwise the worker fetches it.
  std::optional<control::Arguments> arguments;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.function), visit(3, self.retry_count), visit(4, self.invocation);
    visit(5, self.method), visit(6, self.arguments);
  }
  friend bool operator==(const Lease&, const Lease&) = default;
};

constexpr std::size_t kInlinePayloadBytesMax = 16 * 1024;

enum class StopHow : std::uint8_t {
  kDrain = 1,      // Give it no more inputs; it leaves when it has finished those it has.
  kInterrupt = 2,  // SIGINT now, SIGKILL after the grace.
  kKill = 3,
};

struct StartTask {
  TaskId task;
  FunctionId function;
  DefinitionId definition;  // What of the function it is to run; the worker repeats it in its reports.
  static void fields(auto& visit, auto& self) { visit(1, self.task), visit(2, self.function), visit(3, self.definition); }
  friend bool operator==(const StartTask&, const StartTask&) = default;
};

struct StopTask {
  TaskId task;
  StopHow how = StopHow::kDrain;
  Duration grace{};
  static void fields(auto& visit, auto& self) { visit(1, self.task), visit(2, self.how), visit(3, self.grace); }
  friend bool operator==(const StopTask&, const StopTask&) = default;
};

// One command of an image's build. Named by random bytes.
using StepId = Bytes;

struct StepOrder {
  StepId step;
  Digest tree;
  std::vector<std::string> argv;
  std::vector<std::string> env;  // Secrets included. Never logged.
  std::string working_directory;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::map<std::string, Bytes> files;
  bool network = true;
  Duration timeout{};
  bool keeps_files = true;
  static void fields(auto& visit, auto& self) {
    visit(1, self.step), visit(2, self.tree), visit(3, self.argv), visit(4, self.env), visit(5, self.working_directory);
    visit(6, self.uid), visit(7, self.gid), visit(8, self.files), visit(9, self.network), visit(10, self.timeout);
    visit(11, self.keeps_files);
  }
  friend bool operator==(const StepOrder&, const StepOrder&) = default;
};

struct StepOutput {
  StepId step;
  control::LogStream stream = control::LogStream::kStdout;
  std::string text;
  static void fields(auto& visit, auto& self) { visit(1, self.step), visit(2, self.stream), visit(3, self.text); }
  friend bool operator==(const StepOutput&, const StepOutput&) = default;
};

struct StepResult {
  StepId step;
  std::int32_t code = 0;
  bool oom = false;
  bool timed_out = false;
  Digest upper;  // What it wrote, as a tree with whiteouts in the object store; zero if nothing was kept.
  Code error_code = Code::kOk;  // It could not be run at all.
  std::string error;
  static void fields(auto& visit, auto& self) {
    visit(1, self.step), visit(2, self.code), visit(3, self.oom), visit(4, self.timed_out), visit(5, self.upper);
    visit(6, self.error_code), visit(7, self.error);
  }
  friend bool operator==(const StepResult&, const StepResult&) = default;
};

// Server → worker. Exactly one member is set.
struct Command {
  std::optional<StartTask> start;
  std::optional<StopTask> stop;
  std::vector<Lease> lease;
  std::vector<LeaseId> revoke;  // Those not bound yet come back as Report.revoked; bound ones stay.
  std::vector<LeaseId> cancel;  // Bound: the container is told. Not bound: dropped, and reported revoked.
  std::optional<StepId> run_step;     // Its order is fetched; a step that is under way already is left alone.
  std::optional<StepId> cancel_step;

  static void fields(auto& visit, auto& self) {
    visit(1, self.start), visit(2, self.stop), visit(3, self.lease), visit(4, self.revoke), visit(5, self.cancel);
    visit(6, self.run_step), visit(7, self.cancel_step);
  }
  friend bool operator==(const Command&, const Command&) = default;
};

enum class TaskState : std::uint8_t {
  kAssigned = 1,   // The worker has heard of it.
  kLoading = 2,    // Its image is being made ready.
  kStarting = 3,   // The process runs, and has not asked for an input.
  kReady = 4,      // It has asked for inputs.
  kEnded = 5,
};

// Why a task ended.
enum class EndReason : std::uint8_t {
  kNone = 0,
  kFinished = 1,        // Drained, stopped, or left of itself after its last input.
  kInitFailure = 2,     // The runner reported that it could not begin; `outcome` is its report.
  kCrashed = 3,         // Ended without a report: exit code, signal or out of memory; `message` says it.
  kStartFailed = 4,     // The worker could not start it; `message` says why.
  kStartTimeout = 5,
  kInputTimeout = 6,    // Stopped because an input ran too long.
  kLost = 7,            // Its worker is gone.
};

struct TaskReport {
  TaskId task;
  FunctionId function;
  TaskState state = TaskState::kAssigned;
  EndReason reason = EndReason::kNone;
  std::int32_t exit_code = 0;
  bool oom = false;
  std::string message;
  std::optional<control::Outcome> outcome;
  DefinitionId definition;
  static void fields(auto& visit, auto& self) {
    visit(1, self.task), visit(2, self.function), visit(3, self.state), visit(4, self.reason);
    visit(5, self.exit_code), visit(6, self.oom), visit(7, self.message), visit(8, self.outcome);
    visit(9, self.definition);
  }
  friend bool operator==(const TaskReport&, const TaskReport&) = default;
};

struct Binding {
  LeaseId lease;
  TaskId task;
  static void fields(auto& visit, auto& self) { visit(1, self.lease), visit(2, self.task); }
  friend bool operator==(const Binding&, const Binding&) = default;
};

struct Load {
  double cpu_busy = 0;  // Share of all cores in use over the last second, 0 … 1.
  std::int64_t memory_bytes_available = 0;
  static void fields(auto& visit, auto& self) { visit(1, self.cpu_busy), visit(2, self.memory_bytes_available); }
  friend bool operator==(const Load&, const Load&) = default;
};

// The first Report on every stream: who it is and all that it holds.
struct Hello {
  WorkerId worker;
  Bytes incarnation;  // New with each start of the worker's process: its containers do not outlive it.
  std::string name;
  control::Resources total;
  std::uint32_t cores = 0;
  std::vector<TaskReport> tasks;    // All that have not ended, and ends that may not have been heard.
  std::vector<LeaseId> unbound;     // Leases in its queues.
  std::vector<Binding> bound;       // Inputs in containers, and outputs that were not acknowledged.
  static void fields(auto& visit, auto& self) {
    visit(1, self.worker), visit(2, self.incarnation), visit(3, self.name), visit(4, self.total);
    visit(5, self.cores), visit(6, self.tasks), visit(7, self.unbound), visit(8, self.bound);
  }
  friend bool operator==(const Hello&, const Hello&) = default;
};

// Worker → server. Exactly one member is set.
struct Report {
  std::optional<Hello> hello;
  std::optional<TaskReport> task;
  std::vector<Binding> bound;
  std::vector<LeaseId> revoked;
  std::optional<Load> load;
  // A container asked not to be given any more (as when user code says so): as after StopTask kDrain.
  std::optional<TaskId> retiring;
  static void fields(auto& visit, auto& self) {
    visit(1, self.hello), visit(2, self.task), visit(3, self.bound), visit(4, self.revoked), visit(5, self.load);
    visit(6, self.retiring);
  }
  friend bool operator==(const Report&, const Report&) = default;
};

// Everything a worker needs to run a task, resolved: no lookups are left to make.
struct TaskOrder {
  TaskId task;
  FunctionId function;
  AppId app;
  ImageId image;
  std::string face;  // Which runner protocol its socket speaks.
  std::vector<Digest> trees;  // The image, then what is laid over it.
  std::vector<std::string> argv;
  std::vector<std::string> env;  // Secrets included. Never logged.
  std::string working_directory;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::map<std::string, Bytes> files;  // Private files by name.
  control::Resources request;
  std::int64_t cpu_milli_max = 0;
  std::int64_t memory_bytes_max = 0;
  bool network_blocked = false;
  bool untrusted = false;
  Duration timeout{};          // Per input; 0 is none.
  Duration startup_timeout{};  // From process start to the first request for inputs; 0 is none.
  std::uint32_t concurrent_inputs_max = 1;
  std::uint32_t concurrent_inputs_target = 1;
  std::uint32_t batch_size_max = 0;
  Duration batch_linger{};
  std::uint32_t inputs_max = 0;

  static void fields(auto& visit, auto& self) {
    visit(1, self.task), visit(2, self.function), visit(3, self.app), visit(4, self.image), visit(5, self.face);
    visit(6, self.trees), visit(7, self.argv), visit(8, self.env), visit(9, self.working_directory);
    visit(10, self.uid), visit(11, self.gid), visit(12, self.files), visit(13, self.request);
    visit(14, self.cpu_milli_max), visit(15, self.memory_bytes_max), visit(16, self.network_blocked);
    visit(17, self.untrusted), visit(18, self.timeout), visit(19, self.startup_timeout);
    visit(20, self.concurrent_inputs_max), visit(21, self.concurrent_inputs_target), visit(22, self.batch_size_max);
    visit(23, self.batch_linger), visit(24, self.inputs_max);
  }
  friend bool operator==(const TaskOrder&, const TaskOrder&) = default;
};

// The end of one leased input, as its worker reports it.
struct Output {
  LeaseId lease;
  TaskId task;
  std::uint32_t retry_count = 0;
  control::Outcome outcome;
  Time started;
  Time finished;
  static void fields(auto& visit, auto& self) {
    visit(1, self.lease), visit(2, self.task), visit(3, self.retry_count), visit(4, self.outcome);
    visit(5, self.started), visit(6, self.finished);
  }
  friend bool operator==(const Output&, const Output&) = default;
};

struct LogLine {
  TaskId task;
  FunctionId function;
  AppId app;
  control::LogStream stream = control::LogStream::kStdout;
  Time time;
  std::string text;   // With its newline, if it had one.
  InputId input;      // Of the input that ran, when only one did.
  static void fields(auto& visit, auto& self) {
    visit(1, self.task), visit(2, self.function), visit(3, self.app), visit(4, self.stream), visit(5, self.time);
    visit(6, self.text), visit(7, self.input);
  }
  friend bool operator==(const LogLine&, const LogLine&) = default;
};

// The messages of the stream, /proa.worker.v1.Worker/Session: whatever is ready goes together.
struct Commands {
  std::vector<Command> commands;
  static void fields(auto& visit, auto& self) { visit(1, self.commands); }
  friend bool operator==(const Commands&, const Commands&) = default;
};
struct Reports {
  std::vector<Report> reports;
  static void fields(auto& visit, auto& self) { visit(1, self.reports); }
  friend bool operator==(const Reports&, const Reports&) = default;
};

// The requests of the calls beside it: FetchTask, FetchArguments, PutOutputs, PutLogs of the same service.
// Their answers are a TaskOrder, Arguments, and nothing.
struct FetchTask {
  TaskId task;
  static void fields(auto& visit, auto& self) { visit(1, self.task); }
  friend bool operator==(const FetchTask&, const FetchTask&) = default;
};
struct PutOutputs {
  WorkerId worker;
  std::vector<Output> outputs;
  static void fields(auto& visit, auto& self) { visit(1, self.worker), visit(2, self.outputs); }
  friend bool operator==(const PutOutputs&, const PutOutputs&) = default;
};
struct PutLogs {
  WorkerId worker;
  std::vector<LogLine> lines;
  static void fields(auto& visit, auto& self) { visit(1, self.worker), visit(2, self.lines); }
  friend bool operator==(const PutLogs&, const PutLogs&) = default;
};

// What a worker asks of its server, each a call of its own. kUnavailable means: again, later; the worker
// repeats until it is answered otherwise.
class WorkerCalls {
 public:
  virtual ~WorkerCalls() = default;
  // kNotFound: the task is not wanted any more.
  virtual Async<Result<TaskOrder>> fetch_task(TaskId task) = 0;
  // kNotFound: the input is over or was forgotten; drop the lease.
  virtual Async<Result<control::Arguments>> fetch_arguments(LeaseId lease) = 0;
  // Finishes when the outputs are durable. Outputs of inputs that are over or leased anew are ignored.
  // kUnavailable until the server has read the worker's Hello.
  virtual Async<Result<void>> put_outputs(WorkerId worker, std::vector<Output> outputs) = 0;
  // Finishes when the lines are safe.
  virtual Async<Result<void>> put_logs(WorkerId worker, std::vector<LogLine> lines) = 0;
};

// The same for steps of builds. A step lives as long as the server that ordered it: kNotFound means that
// nobody waits for it any more.
class StepCalls {
 public:
  virtual ~StepCalls() = default;
  virtual Async<Result<StepOrder>> fetch_step(StepId step) = 0;
  virtual Async<Result<void>> put_step_output(StepOutput output) = 0;
  virtual Async<Result<void>> finish_step(StepResult result) = 0;
};

}  // namespace proa::sched
