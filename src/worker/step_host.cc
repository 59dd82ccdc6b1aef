// SPDX-License-Identifier: Apache-2.0
#include "worker/step_host.h"

#include <fcntl.h>
#include <sys/sysinfo.h>

#include <algorithm>

#include "container/layer_stream.h"

namespace proa::worker {
namespace {

constexpr Duration kRetry = std::chrono::milliseconds(200);

// Calls again while the server is away.
template <class T>
bool worth_repeating(const Result<T>& result) {
  return !result.ok() && result.error().code == Code::kUnavailable;
}

Result<Digest> ingest(cas::ObjectStore& objects, int fd, const Digest& lower_digest) {
  PROA_TRY(const cas::Tree lower, objects.get_tree(lower_digest));
  PROA_TRY(const cas::Tree upper, container::read_layer(fd, lower, objects, {}));
  return objects.put_tree(upper);
}

}  // namespace

StepLimits step_limits_for(std::int64_t machine_memory_bytes) {
  constexpr std::int64_t kLeast = 1LL << 30;
  constexpr std::int64_t kMost = 64LL << 30;
  StepLimits limits;
  limits.memory_bytes_max = std::clamp(machine_memory_bytes / 2, kLeast, kMost);
  return limits;
}

StepLimits step_limits_of_this_machine() {
  struct sysinfo info{};
  ::sysinfo(&info);
  return step_limits_for(static_cast<std::int64_t>(info.totalram) * static_cast<std::int64_t>(info.mem_unit));
}

void StepHost::run(sched::StepId step) {
  if (running_.contains(step)) return;
  auto scope = std::make_unique<Scope>();
  Scope* const own = scope.get();
  running_.emplace(step, std::move(scope));
  own->spawn(serve(std::move(step)));
}

void StepHost::cancel(const sched::StepId& step) { running_.erase(step); }

Async<> StepHost::serve(sched::StepId step) {
  sched::StepResult result;
  Result<sched::StepOrder> order = co_await server_.fetch_step(step);
  while (worth_repeating(order)) {
    co_await sleep_for(loop_, kRetry);
    order = co_await server_.fetch_step(step);
  }
  if (order.ok()) {
    Result<sched::StepResult> done = co_await execute(std::move(*order));
    if (done.ok()) {
      result = std::move(*done);
    } else {
      result.error_code = done.error().code;
      result.error = done.error().message;
    }
    result.step = step;
    while (worth_repeating(co_await server_.finish_step(result))) co_await sleep_for(loop_, kRetry);
  }
  // The scope that holds this coroutine goes once it has ended.
  loop_.post([this, step] { running_.erase(step); });
}

Async<> StepHost::remove_slot(container::SlotId slot) { (void)co_await runtime_.remove(slot); }

Async<Result<sched::StepResult>> StepHost::execute(sched::StepOrder order) {
  if (order.timeout.count() <= 0 || order.timeout > limits_.time_max) order.timeout = limits_.time_max;
  const Duration timeout = order.timeout;
  const sched::StepId step = order.step;
  container::SlotSpec spec;
  spec.limits.memory_bytes_max = limits_.memory_bytes_max;
  spec.limits.pids_max = limits_.pids_max;
  spec.network = order.network ? container::Network::kInternet : container::Network::kNone;
  PROA_CO_TRY(container::Slot slot, co_await runtime_.prepare(spec));
  // Removed however this ends, also when it is abandoned.
  struct Remover {
    StepHost& host;
    container::SlotId slot;
    ~Remover() { host.cleanup_.spawn(host.remove_slot(slot)); }
  };
  const Remover remover{*this, slot.id};
  auto open = std::make_shared<int>(2);
  Scope pumps;
  pumps.spawn(pump(order.step, control::LogStream::kStdout, pipes_.open(std::move(slot.stdout_pipe)), open));
  pumps.spawn(pump(order.step, control::LogStream::kStderr, pipes_.open(std::move(slot.stderr_pipe)), open));
  PROA_CO_TRY(sched::StepResult result, co_await execute_in(slot.id, std::move(order)));
  // What it said last is still on its way.
  for (int tries = 0; *open > 0 && tries < 500; ++tries) co_await sleep_for(loop_, std::chrono::milliseconds(10));
  result.step = step;
  co_await explain(result, timeout);
  co_return result;
}

Async<Result<sched::StepResult>> StepHost::execute_in(container::SlotId slot, sched::StepOrder order) {
  container::TaskSpec task;
  task.trees = {order.tree};
  task.argv = order.argv;
  task.env = order.env;
  task.working_directory = order.working_directory;
  task.uid = order.uid;
  task.gid = order.gid;
  task.hostname = "build";
  for (auto& [name, content] : order.files) task.files.push_back({name, content});
  PROA_CO_TRY_VOID(co_await runtime_.start(slot, std::move(task)));
  sched::StepResult result;
  Scope watchdog;
  auto late = std::make_shared<bool>(false);
  struct Watch {
    static Async<> over(Loop& loop, container::Runtime& runtime, container::SlotId id, Duration timeout,
                        std::shared_ptr<bool> flag) {
      co_await sleep_for(loop, timeout);
      *flag = true;
      (void)co_await runtime.stop(id, std::chrono::milliseconds(0));
    }
  };
  watchdog.spawn(Watch::over(loop_, runtime_, slot, order.timeout, late));
  PROA_CO_TRY(const container::Exit exit, co_await runtime_.wait(slot));
  result.code = exit.code;
  result.oom = exit.oom;
  result.timed_out = *late;
  if (exit.code != 0 || !order.keeps_files) co_return result;
  PROA_CO_TRY(container::OwnedFd stream, co_await runtime_.export_upper(slot));
  auto shared = std::make_shared<container::OwnedFd>(std::move(stream));
  cas::ObjectStore* const objects = &objects_;
  const Digest lower = order.tree;
  auto work = [objects, shared, lower] { return ingest(*objects, shared->get(), lower); };
  PROA_CO_TRY(result.upper, co_await run_in(pool_, loop_, std::move(work)));
  co_return result;
}

Async<> StepHost::pump(sched::StepId step, control::LogStream stream, std::unique_ptr<Pipe> pipe,
                       std::shared_ptr<int> open) {
  constexpr std::size_t kPieceBytes = 64 << 10;
  while (true) {
    auto text = co_await pipe->read_some(kPieceBytes);
    if (!text.ok() || text->empty()) break;
    co_await put_output({step, stream, std::move(*text)});
  }
  --*open;
}

Async<> StepHost::put_output(sched::StepOutput output) {
  while (worth_repeating(co_await server_.put_step_output(output))) co_await sleep_for(loop_, kRetry);
}

Async<> StepHost::explain(sched::StepResult result, Duration timeout) {
  std::string why;
  if (result.timed_out) {
    why = "the command was stopped: a step of a build may take " +
          std::to_string(std::chrono::duration_cast<std::chrono::seconds>(timeout).count()) + " s";
  } else if (result.oom) {
    why = "the kernel ended a process of this command: a step of a build may use " +
          std::to_string(limits_.memory_bytes_max >> 20) + " MiB of memory on this machine";
  }
  if (!why.empty()) co_await put_output({result.step, control::LogStream::kStderr, "\nproa: " + why + "\n"});
}

}  // namespace proa::worker
