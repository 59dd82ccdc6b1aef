// SPDX-License-Identifier: Apache-2.0
#include "sched/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace proa::sched {

using control::Calls;
using control::FunctionView;
using control::InputState;
using control::Outcome;
using control::Resources;
using control::Status;

namespace {

Resources minus(Resources a, const Resources& b) {
  a.cpu_milli -= b.cpu_milli;
  a.memory_bytes -= b.memory_bytes;
  a.gpus -= b.gpus;
  return a;
}
Resources plus(Resources a, const Resources& b) {
  a.cpu_milli += b.cpu_milli;
  a.memory_bytes += b.memory_bytes;
  a.gpus += b.gpus;
  return a;
}

Resources with_defaults(Resources request, const Resources& defaults) {
  if (request.cpu_milli == 0) request.cpu_milli = defaults.cpu_milli;
  if (request.memory_bytes == 0) request.memory_bytes = defaults.memory_bytes;
  return request;
}

Command command_lease(Lease lease) {
  Command command;
  command.lease.push_back(std::move(lease));
  return command;
}

}  // namespace

Scheduler::Scheduler(Loop& loop, Random& random, control::Ledger& ledger, control::FunctionBook& functions, control::Calls& calls,
                     TaskPlanner& planner, Logger& log, SchedulerConfig config)
    : loop_(loop),
      random_(random),
      ledger_(ledger),
      functions_(functions),
      calls_(calls),
      planner_(planner),
      log_(log),
      config_(std::move(config)),
      next_epoch_(static_cast<std::uint32_t>(random.next())) {
  scope_.spawn(tick());
}

Scheduler::~Scheduler() { *alive_ = false; }

// --- The queue of each function ---------------------------------------------------------------------------

void Scheduler::enqueue(FunctionId function, InputId input) {
  Pool& waiting = pool(function);
  waiting.queue.push_back(input);
  ++waiting.queued;
  mark_dirty(function);
}

void Scheduler::withdraw(FunctionId function, InputId input) {
  if (auto held = drop_lease(input)) {
    const auto worker = workers_.find(held->worker);
    if (worker != workers_.end()) {
      Command command;
      command.cancel.push_back({input, held->epoch});
      tell(worker->second, std::move(command));
    }
  } else {
    // It stands in the queue still, and is passed over there.
    Pool& waiting = pool(function);
    PROA_CHECK(waiting.queued > 0);
    --waiting.queued;
  }
  mark_dirty(function);
}

void Scheduler::mark_dirty(FunctionId function) {
  dirty_.insert(function);
  if (dirty_posted_) return;
  dirty_posted_ = true;
  loop_.post([this, alive = alive_] {
    if (*alive) run_dirty();
  });
}

void Scheduler::run_dirty() {
  dirty_posted_ = false;
  for (const FunctionId function : std::exchange(dirty_, {})) pump(function);
}

void Scheduler::pump(FunctionId function) {
  if (recovering_) return;  // finish_recovery() looks at every function.
  const auto found = pools_.find(function);
  if (found == pools_.end()) return;
  Pool& waiting = found->second;
  const auto view = functions_.view(function);
  if (!view) {
    // Not there any more: its containers leave, and nothing new comes.
    for (const TaskId id : std::set<TaskId>(waiting.tasks)) stop(tasks_.at(id), StopHow::kDrain);
    if (waiting.queued > 0) {
      Outcome outcome;
      outcome.status = Status::kTerminated;
      outcome.error = "the function is not part of a running app any more";
      fail_pool(function, outcome);
    }
    if (waiting.tasks.empty() && waiting.leased == 0) pools_.erase(found);
    return;
  }
  // Containers of an older definition finish what they have, and leave.
  if (waiting.definition != view->definition) {
    waiting.definition = view->definition;
    waiting.init_failures = 0;
    waiting.next_start = Time();
    for (const TaskId id : std::set<TaskId>(waiting.tasks)) {
      Task& task = tasks_.at(id);
      if (task.definition != view->definition) stop(task, StopHow::kDrain);
    }
  }
  revoke_stranded(function, *view);
  lease_inputs(function, waiting, *view);
  scale_up(function, waiting, *view);
}

// Leases at a worker that has no container left to take them go back to the queue.
void Scheduler::revoke_stranded(FunctionId function, const FunctionView& view) {
  for (auto& [id, worker] : workers_) {
    if (worker.link == nullptr || !worker.leased.contains(function) || able(worker, function, view) > 0) continue;
    Command command;
    for (const InputId input : worker.leases) {
      HeldLease& held = leases_.at(input);
      if (held.function != function || !held.task.empty() || held.revoke_sent) continue;
      held.revoke_sent = true;
      command.revoke.push_back({input, held.epoch});
    }
    if (!command.revoke.empty()) tell(worker, std::move(command));
  }
}

std::size_t Scheduler::per_task(const FunctionView& view) const {
  const std::size_t batched = view.spec->batch_size_max;
  return std::max<std::size_t>({1, view.spec->concurrent_inputs_max, batched});
}

// How many inputs of the function the worker's containers can take at once.
std::size_t Scheduler::able(const Worker& worker, FunctionId function, const FunctionView& view) const {
  std::size_t slots = 0;
  for (const TaskId id : pools_.at(function).tasks) {
    const Task& task = tasks_.at(id);
    if (task.view.worker == worker.id && !task.view.draining) slots += per_task(view);
  }
  return slots;
}

// How many more inputs of the function the worker may be leased.
std::size_t Scheduler::room(const Worker& worker, FunctionId function, const FunctionView& view) const {
  if (worker.link == nullptr) return 0;
  const std::size_t slots = able(worker, function, view);
  if (slots == 0) return 0;
  const auto leased = worker.leased.find(function);
  const std::size_t held = leased == worker.leased.end() ? 0 : leased->second;
  const std::size_t most = slots + config_.lease_surplus;
  return most > held ? most - held : 0;
}

void Scheduler::lease_inputs(FunctionId function, Pool& waiting, const FunctionView& view) {
  if (waiting.queued == 0) return;
  std::vector<std::pair<Worker*, std::size_t>> rooms;
  for (auto& [id, worker] : workers_) {
    if (const std::size_t free = room(worker, function, view); free > 0) rooms.emplace_back(&worker, free);
  }
  std::size_t turn = 0;
  while (waiting.queued > 0 && !rooms.empty()) {
    PROA_CHECK(!waiting.queue.empty());
    const InputId input = waiting.queue.front();
    if (calls_.state(input) != InputState::kQueued || leases_.contains(input)) {
      waiting.queue.pop_front();  // Withdrawn since.
      continue;
    }
    waiting.queue.pop_front();
    --waiting.queued;
    turn %= rooms.size();
    lease(*rooms[turn].first, function, input);
    if (--rooms[turn].second == 0) {
      rooms.erase(rooms.begin() + static_cast<std::ptrdiff_t>(turn));
    } else {
      ++turn;
    }
  }
}

void Scheduler::lease(Worker& worker, FunctionId function, InputId input) {
  const LeaseId id{input, next_epoch_++};
  calls_.mark_leased(input);
  leases_[input] = {.epoch = id.epoch, .worker = worker.id, .function = function};
  worker.leases.insert(input);
  ++worker.leased[function];
  ++pool(function).leased;
  Lease given;
  given.id = id;
  given.function = function;
  given.retry_count = calls_.retry_count(input);
  given.invocation = calls_.invocation_of(input);
  if (const control::Arguments* arguments = calls_.cached_arguments(input)) {
    given.method = arguments->method;
    if (arguments->payload.inline_bytes() <= kInlinePayloadBytesMax) given.arguments = *arguments;
  }
  tell(worker, command_lease(std::move(given)));
}

std::optional<Scheduler::HeldLease> Scheduler::drop_lease(InputId input) {
  const auto found = leases_.find(input);
  if (found == leases_.end()) return std::nullopt;
  HeldLease held = found->second;
  leases_.erase(found);
  if (const auto worker = workers_.find(held.worker); worker != workers_.end()) {
    worker->second.leases.erase(input);
    const auto leased = worker->second.leased.find(held.function);
    PROA_CHECK(leased != worker->second.leased.end() && leased->second > 0);
    if (--leased->second == 0) worker->second.leased.erase(leased);
  }
  Pool& waiting = pool(held.function);
  PROA_CHECK(waiting.leased > 0);
  --waiting.leased;
  if (const auto task = tasks_.find(held.task); task != tasks_.end()) {
    task->second.bound.erase(input);
    task->second.last_active = loop_.now();
  }
  mark_dirty(held.function);
  return held;
}

void Scheduler::give_back(InputId input, Calls::Return how) {
  if (drop_lease(input)) calls_.requeue(input, how);
}

// --- How many containers ----------------------------------------------------------------------------------

std::size_t Scheduler::live_tasks(const Pool& waiting) const {
  return static_cast<std::size_t>(
      std::count_if(waiting.tasks.begin(), waiting.tasks.end(), [&](TaskId id) { return !tasks_.at(id).view.draining; }));
}

void Scheduler::scale_up(FunctionId function, Pool& waiting, const FunctionView& view) {
  waiting.waiting_for.clear();
  const std::size_t demand = waiting.queued + waiting.leased;
  const std::size_t target = std::max<std::size_t>({1, view.spec->concurrent_inputs_target, view.spec->batch_size_max});
  std::size_t desired = (demand + target - 1) / target;
  if (demand > 0) desired += view.autoscaling.containers_buffer.value_or(0);
  desired = std::max<std::size_t>(desired, view.autoscaling.containers_min.value_or(0));
  if (const auto most = view.autoscaling.containers_max.value_or(0); most > 0) desired = std::min<std::size_t>(desired, most);
  std::size_t live = live_tasks(waiting);
  if (live >= desired) return;
  if (loop_.now() < waiting.next_start) {
    waiting.waiting_for = "its last container could not begin; the next is tried in a moment";
    return;
  }
  const Resources need = with_defaults(view.spec->request, config_.default_request);
  for (; live < desired; ++live) {
    std::vector<WorkerView> fleet;
    for (const auto& [id, worker] : workers_) {
      if (worker.link == nullptr) continue;
      WorkerView seen;
      seen.id = id;
      seen.total = worker.total;
      seen.free = minus(worker.total, worker.reserved);
      seen.cores = worker.cores;
      seen.cpu_busy = worker.load.cpu_busy;
      for (const TaskId task : worker.tasks) {
        const Task& there = tasks_.at(task);
        if (there.view.state < TaskState::kReady) ++seen.starting;
        if (there.view.function == function) ++seen.of_function;
      }
      fleet.push_back(std::move(seen));
    }
    auto chosen = place({need}, fleet);
    if (!chosen.ok() && chosen.error().code == Code::kResourceExhausted && !has_room(need, fleet)) {
      // What nobody uses gives way first; what waits for work that is waiting itself never would.
      if (make_room(function)) {
        waiting.waiting_for = "an idle container of another function makes room for it";
        return;
      }
      if (live == 0) chosen = place({need, true}, fleet);
    }
    if (!chosen.ok()) {
      waiting.waiting_for = chosen.error().message;
      if (chosen.error().code == Code::kFailedPrecondition && live == 0 && waiting.queued > 0) {
        // It would wait for ever.
        Outcome outcome;
        outcome.status = Status::kFailure;
        outcome.error = "the function '" + view.spec->name + "' cannot be placed: " + chosen.error().message;
        fail_pool(function, outcome);
      }
      return;
    }
    start_task(*chosen, function, view);
  }
}

// True if an idle container is on its way out: the one that was idle for longest, of another function that can spare it.
bool Scheduler::make_room(FunctionId wanting) {
  Task* longest = nullptr;
  for (auto& [id, task] : tasks_) {
    if (task.view.state != TaskState::kReady || !task.bound.empty()) continue;
    if (task.stopping) return true;
    const FunctionId function = task.view.function;
    if (function == wanting) continue;
    const Pool& idle = pool(function);
    if (idle.queued > 0 || idle.leased > 0) continue;
    const auto view = functions_.view(function);
    if (view && live_tasks(idle) <= view->autoscaling.containers_min.value_or(0)) continue;
    if (longest == nullptr || task.last_active < longest->last_active) longest = &task;
  }
  if (longest == nullptr) return false;
  stop(*longest, StopHow::kDrain);
  return true;
}

void Scheduler::start_task(WorkerId worker_id, FunctionId function, const FunctionView& view) {
  Worker& worker = workers_.at(worker_id);
  Task task;
  task.view.id = TaskId::make(random_, loop_.now());
  task.view.function = function;
  task.view.app = view.app;
  task.definition = view.definition;
  task.view.worker = worker_id;
  task.view.created = loop_.now();
  task.last_active = loop_.now();
  task.reserved = with_defaults(view.spec->request, config_.default_request);
  worker.reserved = plus(worker.reserved, task.reserved);
  worker.tasks.insert(task.view.id);
  pool(function).tasks.insert(task.view.id);
  Command command;
  command.start = StartTask{task.view.id, function, view.definition};
  const TaskId id = task.view.id;
  const auto [place, inserted] = tasks_.emplace(id, std::move(task));
  PROA_CHECK(inserted);
  log_.info("task.created", {{"task", id.text()}, {"function", function.text()}, {"worker", worker_id.text()}});
  changed(place->second);
  tell(worker, std::move(command));
  mark_dirty(function);  // What waits may be leased to it at once.
}

void Scheduler::scale_down(Pool& waiting, const FunctionView& view) {
  if (waiting.queued > 0) return;
  std::size_t live = live_tasks(waiting);
  const std::size_t keep = view.autoscaling.containers_min.value_or(0) + (waiting.leased > 0 ? view.autoscaling.containers_buffer.value_or(0) : 0);
  const Duration window = view.autoscaling.scaledown_window_seconds ? Duration(std::chrono::seconds(*view.autoscaling.scaledown_window_seconds))
                                                                    : config_.scaledown_window;
  for (const TaskId id : std::set<TaskId>(waiting.tasks)) {
    if (live <= keep) return;
    Task& task = tasks_.at(id);
    if (task.view.draining || task.view.state != TaskState::kReady || !task.bound.empty()) continue;
    if (loop_.now() - task.last_active < window) continue;
    stop(task, StopHow::kDrain);
    --live;
  }
}

void Scheduler::stop(Task& task, StopHow how) {
  if (task.stopping && how <= *task.stopping) return;
  task.stopping = how;
  task.view.draining = true;
  const auto worker = workers_.find(task.view.worker);
  if (worker == workers_.end()) return;
  Command command;
  command.stop = StopTask{task.view.id, how, config_.stop_grace};
  tell(worker->second, std::move(command));
  changed(task);
}

Async<> Scheduler::tick() {
  while (true) {
    co_await sleep_for(loop_, std::chrono::seconds(1));
    const Time now = loop_.now();
    std::vector<WorkerId> lost;
    for (const auto& [id, worker] : workers_) {
      if (worker.link == nullptr && worker.lost_at <= now) lost.push_back(id);
    }
    for (const WorkerId id : lost) forget_worker(id, EndReason::kLost);
    if (recovering_) continue;
    for (auto& [function, waiting] : pools_) {
      const auto view = functions_.view(function);
      if (view) scale_down(waiting, *view);
      const bool wants = !view || waiting.queued > 0 || waiting.leased > 0 || (view && view->autoscaling.containers_min.value_or(0) > waiting.tasks.size());
      if (wants) mark_dirty(function);
      if (view) tell_waiting(function, waiting, *view);
    }
  }
}

void Scheduler::tell_waiting(FunctionId function, Pool& waiting, const FunctionView& view) {
  if (waiting.queued == 0 || !waiting.tasks.empty() || waiting.waiting_for.empty()) {
    waiting.waiting_since = kNever;
    return;
  }
  const Time now = loop_.now();
  waiting.waiting_since = std::min(waiting.waiting_since, now);
  if (now - waiting.waiting_since < config_.waiting_told_after || now - waiting.waiting_told < config_.waiting_told_again) return;
  waiting.waiting_told = now;
  if (waiting_) waiting_(view.app, function, waiting.waiting_for);
}

// --- What workers are told --------------------------------------------------------------------------------

void Scheduler::tell(Worker& worker, Command command) {
  if (worker.link == nullptr) return;  // Its next Hello puts right what it missed.
  worker.outbox.push_back(std::move(command));
  if (worker.flush_waiting) return;
  worker.flush_waiting = true;
  // Posted, so that what the rest of this piece of work writes and says goes with it.
  loop_.post([this, alive = alive_, id = worker.id] {
    if (*alive) flush_outbox(id);
  });
}

void Scheduler::flush_outbox(WorkerId id) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  // What is in the outbox now was led to by writes up to now; what comes later waits for its own flush.
  auto sending = std::make_shared<std::vector<Command>>(std::make_move_iterator(found->second.outbox.begin()),
                                                        std::make_move_iterator(found->second.outbox.end()));
  found->second.outbox.clear();
  found->second.flush_waiting = false;
  if (sending->empty()) return;
  WorkerLink* link = found->second.link;
  ledger_.when_durable([this, alive = alive_, id, link, sending] {
    if (!*alive) return;
    const auto worker = workers_.find(id);
    // A new connection has said Hello since: what was meant for the old one is settled there.
    if (worker == workers_.end() || worker->second.link == nullptr || worker->second.link != link) return;
    link->send(std::move(*sending));
  });
}

// --- What workers say -------------------------------------------------------------------------------------

void Scheduler::report(WorkerLink& link, Report report) {
  if (report.hello) {
    hello(link, std::move(*report.hello));
    return;
  }
  const auto known = links_.find(&link);
  if (known == links_.end()) {
    link.close("the first report of a worker must be its hello");
    return;
  }
  Worker& worker = workers_.at(known->second);
  if (report.task) task_report(worker, std::move(*report.task));
  bound(worker, report.bound);
  for (const LeaseId& lease : report.revoked) {
    const auto held = leases_.find(lease.input);
    if (held != leases_.end() && held->second.worker == worker.id && held->second.epoch == lease.epoch) {
      give_back(lease.input, Calls::Return::kHandedBack);
    }
  }
  if (report.load) worker.load = *report.load;
  if (report.retiring) {
    if (const auto task = tasks_.find(*report.retiring); task != tasks_.end() && task->second.view.worker == worker.id) retire(task->second);
  }
}

void Scheduler::retire(Task& task) {
  task.view.draining = true;
  if (!task.stopping) task.stopping = StopHow::kDrain;
  changed(task);
  mark_dirty(task.view.function);
}

void Scheduler::hello(WorkerLink& link, Hello hello) {
  const WorkerId id = hello.worker;
  auto found = workers_.find(id);
  if (found != workers_.end() && found->second.link != nullptr) {
    WorkerLink* old = found->second.link;
    links_.erase(old);
    found->second.link = nullptr;
    if (old != &link) old->close("the worker has connected again");
  }
  if (found != workers_.end() && found->second.incarnation != hello.incarnation) {
    forget_worker(id, EndReason::kLost);  // Its process is another one: nothing of the old one runs.
    found = workers_.end();
  }
  const bool stranger = found == workers_.end();
  if (stranger) found = workers_.emplace(id, Worker{}).first;
  Worker& worker = found->second;
  worker.id = id;
  worker.incarnation = hello.incarnation;
  worker.name = hello.name;
  worker.link = &link;
  worker.total = hello.total;
  worker.cores = std::max(hello.cores, 1U);
  worker.lost_at = kNever;
  worker.outbox.clear();
  links_[&link] = id;
  log_.info("worker.joined", {{"worker", id.text()}, {"name", hello.name}, {"tasks", hello.tasks.size()}, {"inputs", hello.bound.size() + hello.unbound.size()}});
  adopt_tasks(worker, hello);
  adopt_leases(worker, hello, stranger ? Leases::kUnknownHere : Leases::kKnownHere);
  if (worker_joined_) worker_joined_(id);
  if (recovering_) {
    expected_.erase(id);
    if (expected_.empty()) finish_recovery();
  }
  for (const auto& [function, waiting] : pools_) mark_dirty(function);
}

void Scheduler::adopt_tasks(Worker& worker, const Hello& hello) {
  std::unordered_set<TaskId> said;
  for (const TaskReport& report : hello.tasks) {
    said.insert(report.task);
    if (!tasks_.contains(report.task)) {
      if (report.state == TaskState::kEnded) continue;  // Heard of already, or of no interest to this server.
      const auto view = functions_.view(report.function);
      Task task;
      task.view.id = report.task;
      task.view.function = report.function;
      task.view.app = view ? view->app : AppId();
      task.definition = report.definition;
      task.view.worker = worker.id;
      task.view.state = report.state;
      task.view.created = loop_.now();
      task.last_active = loop_.now();
      if (view) task.reserved = with_defaults(view->spec->request, config_.default_request);
      worker.reserved = plus(worker.reserved, task.reserved);
      worker.tasks.insert(report.task);
      pool(report.function).tasks.insert(report.task);
      // Told below.
      if (!view) {
        task.stopping = StopHow::kInterrupt;
      } else if (task.definition != view->definition) {
        task.stopping = StopHow::kDrain;
      }
      tasks_.emplace(report.task, std::move(task));
    }
    task_report(worker, report);
  }
  // What it was told to start and never heard of: told again. What it was told to stop: likewise.
  for (const TaskId id : std::unordered_set<TaskId>(worker.tasks)) {
    Task& task = tasks_.at(id);
    if (!said.contains(id)) {
      Command command;
      command.start = StartTask{id, task.view.function, task.definition};
      tell(worker, std::move(command));
    }
    if (const auto how = std::exchange(task.stopping, std::nullopt)) stop(task, *how);
  }
}

void Scheduler::adopt_leases(Worker& worker, const Hello& hello, Leases known) {
  std::unordered_map<InputId, std::uint32_t> said;
  const auto adopt = [&](const LeaseId& lease, TaskId task) {
    const InputState state = calls_.state(lease.input);
    const auto held = leases_.find(lease.input);
    const bool ours = held != leases_.end() && held->second.worker == worker.id && held->second.epoch == lease.epoch;
    // Leases of a worker that this server knows are all on its books: one that is not has ended since the
    // Hello was written. Only what another server gave out is taken over.
    const bool free = known == Leases::kUnknownHere && held == leases_.end() && (state == InputState::kQueued || state == InputState::kWaiting);
    if (!ours && !free) {
      Command command;
      command.cancel.push_back(lease);
      tell(worker, std::move(command));
      return;
    }
    said.emplace(lease.input, lease.epoch);
    if (ours) return;
    const FunctionId function = calls_.function_of(lease.input);
    Pool& waiting = pool(function);
    if (state == InputState::kQueued) --waiting.queued;  // Its place in the queue is passed over.
    calls_.mark_leased(lease.input);
    leases_[lease.input] = {.epoch = lease.epoch, .worker = worker.id, .function = function, .task = task};
    worker.leases.insert(lease.input);
    ++worker.leased[function];
    ++waiting.leased;
  };
  for (const LeaseId& lease : hello.unbound) adopt(lease, {});
  for (const Binding& binding : hello.bound) adopt(binding.lease, binding.task);
  for (const InputId input : std::unordered_set<InputId>(worker.leases)) {
    // Leased, and lost on the way to it; or its output was lost on the way here, and it let go of it.
    if (!said.contains(input)) give_back(input, Calls::Return::kHandedBack);
  }
  bound(worker, hello.bound);
}

void Scheduler::bound(Worker& worker, const std::vector<Binding>& bindings) {
  for (const Binding& binding : bindings) {
    const auto held = leases_.find(binding.lease.input);
    if (held == leases_.end() || held->second.worker != worker.id || held->second.epoch != binding.lease.epoch) continue;
    const auto task = tasks_.find(binding.task);
    if (task == tasks_.end() || task->second.view.worker != worker.id) continue;
    held->second.task = binding.task;
    task->second.bound.insert(binding.lease.input);
    task->second.last_active = loop_.now();
  }
}

void Scheduler::disconnected(WorkerLink& link) {
  const auto known = links_.find(&link);
  if (known == links_.end()) return;
  Worker& worker = workers_.at(known->second);
  links_.erase(known);
  worker.link = nullptr;
  worker.lost_at = loop_.now() + config_.worker_lost_after;
  worker.outbox.clear();
  log_.warning("worker.away", {{"worker", worker.id.text()}, {"name", worker.name}});
}

void Scheduler::forget_worker(WorkerId id, EndReason reason) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  log_.warning("worker.lost", {{"worker", id.text()}, {"tasks", found->second.tasks.size()}, {"inputs", found->second.leases.size()}});
  for (const InputId input : std::unordered_set<InputId>(found->second.leases)) give_back(input, Calls::Return::kLost);
  for (const TaskId task : std::unordered_set<TaskId>(found->second.tasks)) {
    TaskReport report;
    report.task = task;
    report.function = tasks_.at(task).view.function;
    report.state = TaskState::kEnded;
    report.reason = reason;
    report.message = "the worker that ran it is gone";
    task_ended(tasks_.at(task), report);
  }
  workers_.erase(id);
  if (worker_lost_) worker_lost_(id);
}

void Scheduler::task_report(Worker& worker, TaskReport report) {
  const auto found = tasks_.find(report.task);
  if (found == tasks_.end() || found->second.view.worker != worker.id) return;
  Task& task = found->second;
  if (report.state == TaskState::kEnded) {
    task_ended(task, report);
    return;
  }
  if (report.state <= task.view.state) return;  // Said before.
  task.view.state = report.state;
  if (report.state == TaskState::kStarting) task.view.started = loop_.now();
  if (report.state == TaskState::kReady) {
    if (task.view.started == Time()) task.view.started = loop_.now();
    task.last_active = loop_.now();
    pool(task.view.function).init_failures = 0;  // They count in a row.
  }
  changed(task);
  mark_dirty(task.view.function);
}

void Scheduler::task_ended(Task& task, const TaskReport& report) {
  const FunctionId function = task.view.function;
  const AppId app = task.view.app;
  const TaskState before = task.view.state;
  task.view.state = TaskState::kEnded;
  task.view.reason = report.reason;
  task.view.message = report.message;
  task.view.ended = loop_.now();
  const std::unordered_set<InputId> inside = std::exchange(task.bound, {});
  TaskView view = task.view;
  view.running = 0;
  if (const auto worker = workers_.find(view.worker); worker != workers_.end()) {
    worker->second.tasks.erase(view.id);
    worker->second.reserved = minus(worker->second.reserved, task.reserved);
  }
  Pool& waiting = pool(function);
  waiting.tasks.erase(view.id);
  tasks_.erase(view.id);
  ended_.emplace(view.id, view);
  ended_order_.push_back(view.id);
  if (ended_order_.size() > config_.ended_tasks_kept) {
    ended_.erase(ended_order_.front());
    ended_order_.pop_front();
  }
  log_.info("task.ended", {{"task", view.id.text()}, {"reason", static_cast<int>(report.reason)}, {"message", report.message}});
  for (const InputId input : inside) {
    if (report.reason == EndReason::kCrashed) {
      // User code took its container down: that is the input's failure, and subject to the user's retries.
      (void)drop_lease(input);
      control::FinishedInput finished;
      finished.input = input;
      finished.outcome.status = Status::kFailure;
      finished.outcome.error = report.message;
      finished.task = view.id;
      finished.started = view.started;
      finished.finished = loop_.now();
      finished.retry_count = calls_.retry_count(input);
      calls_.finish(std::move(finished));
    } else {
      give_back(input, report.reason == EndReason::kLost ? Calls::Return::kLost : Calls::Return::kHandedBack);
    }
  }
  const bool could_not_begin = report.reason == EndReason::kInitFailure || report.reason == EndReason::kStartFailed ||
                               report.reason == EndReason::kStartTimeout || (report.reason == EndReason::kCrashed && before < TaskState::kReady);
  if (could_not_begin) init_failed(function, report);
  if (task_changed_) task_changed_(view);
  mark_dirty(function);
  // Others may have waited for its place.
  for (const auto& [other, theirs] : pools_) {
    if (theirs.queued > 0 && !theirs.waiting_for.empty()) mark_dirty(other);
  }
  check_app(app);
}

void Scheduler::init_failed(FunctionId function, const TaskReport& report) {
  Pool& waiting = pool(function);
  ++waiting.init_failures;
  const auto view = functions_.view(function);
  const std::uint32_t doublings = std::min(waiting.init_failures, 7U);
  waiting.next_start = loop_.now() + std::chrono::milliseconds(250 << doublings);
  if (view && view->deployed && waiting.init_failures < config_.init_failures_max) return;
  Outcome outcome;
  if (report.outcome) {
    outcome = *report.outcome;
  } else {
    outcome.status = Status::kFailure;
    outcome.error = report.message;
  }
  if (outcome.status == Status::kNone || outcome.status == Status::kSuccess) outcome.status = Status::kFailure;
  fail_pool(function, outcome);
}

// Every input that no container has begun ends with this outcome.
void Scheduler::fail_pool(FunctionId function, const Outcome& outcome) {
  Pool& waiting = pool(function);
  std::vector<InputId> inputs;
  for (const InputId input : waiting.queue) {
    if (calls_.state(input) == InputState::kQueued && !leases_.contains(input)) inputs.push_back(input);
  }
  waiting.queue.clear();
  waiting.queued = 0;
  for (const auto& [input, held] : leases_) {
    if (held.function == function && held.task.empty()) inputs.push_back(input);
  }
  for (const InputId input : inputs) {
    if (const auto held = drop_lease(input)) {
      if (const auto worker = workers_.find(held->worker); worker != workers_.end()) {
        Command command;
        command.cancel.push_back({input, held->epoch});
        tell(worker->second, std::move(command));
      }
    }
    control::FinishedInput finished;
    finished.input = input;
    finished.outcome = outcome;
    finished.finished = loop_.now();
    finished.retry_count = calls_.retry_count(input);
    calls_.finish(std::move(finished));
  }
}

Async<Result<TaskOrder>> Scheduler::fetch_task(TaskId id) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) co_return not_found("the task " + id.text() + " is not wanted any more");
  const FunctionId function = found->second.view.function;
  const auto view = functions_.view(function);
  // It is being stopped already.
  if (view && view->definition != found->second.definition) co_return failed_precondition("the function was deployed anew before the task " + id.text() + " began");
  co_return co_await planner_.plan(id, function);
}

Async<Result<control::Arguments>> Scheduler::fetch_arguments(LeaseId lease) {
  const auto held = leases_.find(lease.input);
  if (held == leases_.end() || held->second.epoch != lease.epoch) co_return not_found("the lease of " + lease.input.text() + " is not held any more");
  co_return co_await calls_.arguments(lease.input);
}

Async<Result<void>> Scheduler::put_outputs(WorkerId worker, std::vector<Output> outputs) {
  // What it holds must be on the books before what became of it.
  if (!workers_.contains(worker)) co_return unavailable("the worker has not said hello yet");
  for (Output& output : outputs) {
    const InputId input = output.lease.input;
    const auto held = leases_.find(input);
    const bool current = held != leases_.end() && held->second.worker == worker && held->second.epoch == output.lease.epoch;
    const FunctionId function = calls_.function_of(input);
    if (current) {
      if (held->second.task.empty()) held->second.task = output.task;
      (void)drop_lease(input);
    } else {
      // Over, or waiting, queued or leased anew since. A result is a result all the same, and spares another
      // run; anything else is for the present holder to say.
      const InputState state = calls_.state(input);
      if (output.outcome.status != Status::kSuccess || state == InputState::kDone || state == InputState::kAbsent) continue;
      if (state != InputState::kWaiting) withdraw(function, input);
    }
    if (output.outcome.status == Status::kSuccess) pool(function).init_failures = 0;
    control::FinishedInput finished;
    finished.input = input;
    finished.outcome = std::move(output.outcome);
    finished.task = output.task;
    finished.started = output.started;
    finished.finished = output.finished;
    finished.retry_count = calls_.retry_count(input);
    calls_.finish(std::move(finished));
  }
  co_await ledger_.durable();
  co_return Result<void>();
}

// --- Apps -------------------------------------------------------------------------------------------------

void Scheduler::function_changed(FunctionId function) {
  (void)pool(function);  // min_containers are started without waiting for an input.
  mark_dirty(function);
}

void Scheduler::app_stopping(AppId app) {
  stopping_.insert(app);
  calls_.cancel_app(app, "the app was stopped");
  for (auto& [id, task] : tasks_) {
    if (task.view.app == app) stop(task, StopHow::kInterrupt);
  }
  loop_.post([this, alive = alive_, app] {
    if (*alive) check_app(app);
  });
}

void Scheduler::check_app(AppId app) {
  if (!stopping_.contains(app)) return;
  const bool busy = std::any_of(tasks_.begin(), tasks_.end(), [&](const auto& task) { return task.second.view.app == app; });
  if (busy) return;
  stopping_.erase(app);
  if (app_stopped_) app_stopped_(app);
}

// --- Starting anew ----------------------------------------------------------------------------------------

void Scheduler::expect_workers(std::vector<WorkerId> workers) {
  expected_ = {workers.begin(), workers.end()};
  if (expected_.empty()) return;
  recovering_ = true;
  loop_.at(loop_.now() + config_.recovery_grace, [this, alive = alive_] {
    if (*alive && recovering_) finish_recovery();
  });
}

void Scheduler::finish_recovery() {
  recovering_ = false;
  expected_.clear();
  for (const auto& [function, waiting] : pools_) mark_dirty(function);
}

// --- Questions --------------------------------------------------------------------------------------------

void Scheduler::changed(const Task& task) {
  if (!task_changed_) return;
  TaskView view = task.view;
  view.running = static_cast<std::uint32_t>(task.bound.size());
  task_changed_(view);
}

std::vector<TaskView> Scheduler::tasks(AppId app) const {
  std::vector<TaskView> out;
  for (const auto& [id, task] : tasks_) {
    if (!app.empty() && task.view.app != app) continue;
    out.push_back(task.view);
    out.back().running = static_cast<std::uint32_t>(task.bound.size());
  }
  std::sort(out.begin(), out.end(), [](const TaskView& a, const TaskView& b) { return std::pair(a.created, a.id) < std::pair(b.created, b.id); });
  return out;
}

std::vector<TaskView> Scheduler::ended_tasks(AppId app, std::size_t tasks_max) const {
  std::vector<TaskView> out;
  std::size_t looked_at = 0;
  for (auto id = ended_order_.rbegin(); id != ended_order_.rend() && out.size() < tasks_max && looked_at < kEndedLookedAt; ++id, ++looked_at) {
    const auto ended = ended_.find(*id);
    if (ended != ended_.end() && ended->second.app == app) out.push_back(ended->second);
  }
  return out;
}

std::optional<TaskView> Scheduler::task(TaskId id) const {
  if (const auto live = tasks_.find(id); live != tasks_.end()) {
    TaskView view = live->second.view;
    view.running = static_cast<std::uint32_t>(live->second.bound.size());
    return view;
  }
  if (const auto ended = ended_.find(id); ended != ended_.end()) return ended->second;
  return std::nullopt;
}

std::vector<TaskId> Scheduler::tasks_running(CallId call) const {
  std::vector<TaskId> out;
  for (const auto& [id, task] : tasks_) {
    const bool has = std::any_of(task.bound.begin(), task.bound.end(), [&](InputId input) { return input.call == call; });
    if (has) out.push_back(id);
  }
  return out;
}

FunctionStats Scheduler::stats(FunctionId function) const {
  const auto found = pools_.find(function);
  if (found == pools_.end()) return {};
  FunctionStats stats;
  stats.tasks = live_tasks(found->second);
  for (const TaskId id : found->second.tasks) stats.running += tasks_.at(id).bound.size();
  stats.backlog = found->second.queued + found->second.leased - std::min(stats.running, found->second.leased);
  return stats;
}

Result<void> Scheduler::stop_task(TaskId id, StopHow how) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return not_found("the container " + id.text() + " is not running");
  stop(found->second, how);
  return {};
}

std::string Scheduler::why_waiting(FunctionId function) const {
  const auto found = pools_.find(function);
  if (found == pools_.end() || found->second.queued + found->second.leased == 0) return "";
  if (recovering_) return "the server has just started and waits for its workers";
  return found->second.waiting_for;
}

std::size_t Scheduler::workers_connected() const { return links_.size(); }

Resources Scheduler::reserved() const {
  Resources all;
  for (const auto& [id, worker] : workers_) all = plus(all, worker.reserved);
  return all;
}

Result<WorkerId> Scheduler::least_busy_worker() const {
  const Worker* best = nullptr;
  for (const auto& [id, worker] : workers_) {
    if (worker.link != nullptr && (best == nullptr || worker.load.cpu_busy < best->load.cpu_busy)) best = &worker;
  }
  if (best == nullptr) return unavailable("no worker is connected");
  return best->id;
}

Result<void> Scheduler::tell_worker(WorkerId id, Command command) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.link == nullptr) return unavailable("the worker is not connected");
  tell(found->second, std::move(command));
  return {};
}

}  // namespace proa::sched
