// SPDX-License-Identifier: Apache-2.0
#include "sched/steps.h"

#include <utility>

namespace proa::sched {
namespace {

// How long a build waits for a worker to be there.
constexpr Duration kWorkerPatience = std::chrono::seconds(30);
// How much longer than its command a step may take: its container is made, and what it wrote is taken in.
constexpr Duration kAroundTheCommand = std::chrono::minutes(15);

}  // namespace

Async<Result<image::StepOutcome>> Steps::run(image::StepSpec spec, image::BuildLog& log) {
  auto running = std::make_shared<Running>(loop_);
  StepOrder& order = running->order;
  order.step = random_.bytes(16);
  order.tree = spec.tree;
  order.argv = std::move(spec.argv);
  order.env = std::move(spec.env);
  order.working_directory = std::move(spec.workdir);
  order.uid = spec.uid;
  order.gid = spec.gid;
  for (image::StepFile& file : spec.files) order.files[file.name] = std::move(file.content);
  order.network = spec.network;
  order.timeout = spec.timeout;
  order.keeps_files = spec.keeps_files;
  running->log = &log;
  // However this ends, nobody finds it afterwards, and its worker is told.
  struct Guard {
    Steps& steps;
    std::shared_ptr<Running> running;
    ~Guard() {
      steps.running_.erase(running->order.step);
      running->log = nullptr;
      if (!running->result && !running->worker.empty()) {
        Command command;
        command.cancel_step = running->order.step;
        (void)steps.scheduler_.tell_worker(running->worker, std::move(command)).ok();
      }
    }
  };
  const Guard guard{*this, running};
  running_.emplace(order.step, running);
  const Time deadline = loop_.now() + kWorkerPatience;
  while (true) {
    auto worker = scheduler_.least_busy_worker();
    if (worker.ok()) {
      running->worker = *worker;
      break;
    }
    if (loop_.now() >= deadline) co_return unavailable("the build needs a worker, and none is connected");
    co_await sleep_for(loop_, std::chrono::milliseconds(200));
  }
  Command command;
  command.run_step = order.step;
  PROA_CO_TRY_VOID(scheduler_.tell_worker(running->worker, std::move(command)));
  // The worker keeps the command's time; this is for a worker that says nothing any more.
  const Time given_up = order.timeout.count() > 0 ? loop_.now() + order.timeout + kAroundTheCommand : kNever;
  while (!running->result) {
    if (loop_.now() >= given_up) {
      co_return Error{Code::kDeadlineExceeded, "the worker that runs this step of the build has not finished it in time; it was told to end it: run it again"};
    }
    (void)co_await running->changed.wait_until(given_up);
  }
  PROA_CO_TRY(const StepResult result, *running->result);
  if (result.error_code != Code::kOk) co_return Error{result.error_code, result.error};
  image::StepOutcome outcome;
  outcome.code = result.code;
  outcome.oom = result.oom;
  outcome.timed_out = result.timed_out;
  if (result.upper != Digest{}) {
    PROA_CO_TRY(outcome.upper, co_await read_tree_(result.upper));
  }
  co_return outcome;
}

Async<Result<StepOrder>> Steps::fetch_step(StepId step) {
  const auto found = running_.find(step);
  if (found == running_.end()) co_return not_found("nobody waits for this step any more");
  co_return found->second->order;
}

Async<Result<void>> Steps::put_step_output(StepOutput output) {
  const auto found = running_.find(output.step);
  if (found == running_.end() || found->second->log == nullptr) co_return not_found("nobody waits for this step any more");
  found->second->log->write(output.stream == control::LogStream::kStderr ? image::LogStream::kStderr : image::LogStream::kStdout, output.text);
  co_return Result<void>();
}

Async<Result<void>> Steps::finish_step(StepResult result) {
  const auto found = running_.find(result.step);
  if (found == running_.end()) co_return not_found("nobody waits for this step any more");
  found->second->result = std::move(result);
  found->second->changed.notify();
  co_return Result<void>();
}

void Steps::worker_lost(WorkerId worker) {
  for (auto& [id, running] : running_) {
    if (running->worker != worker || running->result) continue;
    running->result = unavailable("the worker that ran this step of the build was lost: run it again");
    running->changed.notify();
  }
}

}  // namespace proa::sched
