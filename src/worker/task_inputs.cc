// SPDX-License-Identifier: Apache-2.0
//
// Inputs into a container and outputs out of it.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "worker/backoff.h"
#include "worker/task.h"

namespace proa::worker {

// Inputs taken from the queue for a call that is not answered yet. What it still holds when it goes, goes
// back to the queue.
struct Task::Claim {
  explicit Claim(std::shared_ptr<Task> of) : task(std::move(of)) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim() {
    for (auto lease = leases.rbegin(); lease != leases.rend(); ++lease) {
      const auto found = task->bound_.find(lease->id);
      if (found == task->bound_.end()) continue;
      const bool dropped = found->second.dropped;
      task->bound_.erase(found);
      if (dropped) {
        task->context_.reports.revoked(lease->id);
      } else {
        task->queue_->push_front(std::move(*lease));
      }
    }
  }

  std::shared_ptr<Task> task;
  std::vector<sched::Lease> leases;
};

namespace {

// The official client loses a cancellation that it hears of before the input has really begun: one that is
// not unpacked yet is unknown to it, and one that is just beginning is cancelled without effect, once and for
// all. So a container hears of it no sooner than this after it got the input,
constexpr Duration kBeginTime = std::chrono::milliseconds(500);
// and what it hears sooner than this after, it hears again with the next heartbeat.
constexpr Duration kUnpackTime = std::chrono::seconds(2);

// Waits in the queue's line for as long as it exists.
struct InLine {
  InputQueue& queue;
  InputQueue::Waiter waiter;

  InLine(InputQueue& in, Signal& signal, std::size_t at_work)
      : queue(in), waiter{.wake = [&signal] { signal.notify(); }, .at_work = at_work} {
    queue.add_waiter(&waiter);
  }
  InLine(const InLine&) = delete;
  InLine& operator=(const InLine&) = delete;
  ~InLine() { queue.remove_waiter(&waiter); }
};

}  // namespace

std::size_t Task::room() const {
  const std::size_t groups = std::max<std::uint32_t>(1, order_.concurrent_inputs_max);
  const std::size_t limit = groups * std::max<std::uint32_t>(1, order_.batch_size_max);
  std::size_t room = limit - std::min(limit, bound_.size());
  if (order_.inputs_max > 0) {
    const std::size_t spoken_for =
        static_cast<std::size_t>(delivered_count_) +
        static_cast<std::size_t>(
            std::count_if(bound_.begin(), bound_.end(), [](const auto& entry) { return entry.second.claimed; }));
    room = std::min(room, order_.inputs_max - std::min<std::size_t>(order_.inputs_max, spoken_for));
  }
  return room;
}

void Task::now_ready() {
  if (was_ready_) return;
  was_ready_ = true;
  idle_since_ = context_.loop.now();
  if (state_ < sched::TaskState::kReady) set_state(sched::TaskState::kReady);
}

Async<> Task::wait_for_input(Time deadline) {
  const InLine line(*queue_, changed_, bound_.size());
  (void)co_await changed_.wait_until(deadline);
}

std::optional<sched::Lease> Task::claim_one(Claim& claim, const std::string* method) {
  std::optional<sched::Lease> lease = method == nullptr ? queue_->take() : queue_->take(*method);
  if (!lease) return std::nullopt;
  Bound bound{.lease = *lease, .claimed = true};
  bound.lease.arguments.reset();
  bound_[lease->id] = std::move(bound);
  claim.leases.push_back(*lease);
  return lease;
}

Async<Result<NextInputs>> Task::next_inputs(std::shared_ptr<Task> self, std::size_t max) {
  Task& task = *self;
  task.now_ready();
  max = std::clamp<std::size_t>(max, 1, std::max<std::uint32_t>(1, task.order_.batch_size_max));
  const Time deadline = task.context_.loop.now() + task.context_.options.inputs_hold_max;
  while (true) {
    if (task.ended()) co_return Error{Code::kCancelled, "the container has ended"};
    if (task.draining_) {
      task.idle_since_ = task.context_.loop.now();
      task.watch();
      co_return NextInputs{.inputs = {}, .leave = true};
    }
    if (task.room() > 0 && !task.queue_->empty()) {
      Claim claim(self);
      (void)task.claim_one(claim, nullptr);
      if (max > 1) co_await task.linger(claim, max);
      Result<std::vector<Delivery>> inputs = co_await task.fetch(claim);
      if (!inputs.ok()) co_return std::move(inputs).error();
      if (!inputs->empty()) co_return NextInputs{.inputs = std::move(inputs).value()};
      continue;
    }
    if (task.context_.loop.now() >= deadline) co_return NextInputs();
    co_await task.wait_for_input(deadline);
  }
}

// Gathers more inputs of the first one's method, until there are `max` or the function's linger is over.
Async<> Task::linger(Claim& claim, std::size_t max) {
  const std::string method = claim.leases[0].method;
  const Time deadline = context_.loop.now() + order_.batch_linger;
  while (!ended() && !draining_) {
    while (claim.leases.size() < max && room() > 0 && claim_one(claim, &method)) {
    }
    if (claim.leases.size() >= max || room() == 0 || context_.loop.now() >= deadline) co_return;
    co_await wait_for_input(deadline);
  }
}

// Turns what is claimed into deliveries. Inputs that are over by now fall away.
Async<Result<std::vector<Delivery>>> Task::fetch(Claim& claim) {
  std::vector<Delivery> deliveries;
  for (std::size_t i = 0; i < claim.leases.size(); ++i) {
    const sched::LeaseId id = claim.leases[i].id;
    std::optional<control::Arguments> arguments = claim.leases[i].arguments;
    if (!arguments) arguments = co_await fetch_arguments(id);
    if (ended()) co_return Error{Code::kCancelled, "the container has ended"};
    const auto found = bound_.find(id);
    if (!arguments) {
      if (found != bound_.end()) bound_.erase(found);
      continue;
    }
    if (found == bound_.end() || found->second.dropped) continue;  // The claim says it is revoked.
    deliveries.push_back({.lease = claim.leases[i], .arguments = std::move(*arguments)});
    deliveries.back().lease.arguments.reset();
  }
  // From here on nothing waits: the container has them.
  const Time now = context_.loop.now();
  for (const Delivery& delivery : deliveries) {
    Bound& bound = bound_[delivery.lease.id];
    bound.claimed = false;
    bound.delivered = now;
    context_.reports.bound({.lease = delivery.lease.id, .task = id_});
    std::erase_if(claim.leases, [&](const sched::Lease& lease) { return lease.id == delivery.lease.id; });
  }
  delivered_count_ += deliveries.size();
  if (order_.inputs_max > 0 && delivered_count_ >= order_.inputs_max) retire();
  watch();
  co_return deliveries;
}

// Nothing if the input is over, or the server will not say.
Async<std::optional<control::Arguments>> Task::fetch_arguments(sched::LeaseId lease) {
  Backoff backoff;
  while (!ended()) {
    Result<control::Arguments> arguments = co_await context_.calls.fetch_arguments(lease);
    if (arguments.ok()) co_return std::move(arguments).value();
    if (!is_transient(arguments.error().code)) {
      if (arguments.error().code != Code::kNotFound) {
        const auto found = bound_.find(lease);
        const std::uint32_t retry_count = found == bound_.end() ? 0 : found->second.lease.retry_count;
        const Time now = context_.loop.now();
        finish_input(lease, {.input = lease.input,
                             .retry_count = retry_count,
                             .outcome = {.status = control::Status::kInternalFailure,
                                         .error = "The worker could not get the arguments of this input: " +
                                                  arguments.error().message},
                             .started = now,
                             .finished = now});
      }
      co_return std::nullopt;
    }
    co_await backoff.wait(context_.loop, changed_);
  }
  co_return std::nullopt;
}

void Task::finish_input(sched::LeaseId lease, TaskOutput output) {
  bound_.erase(lease);
  last_output_ = context_.outputs.add({.lease = lease,
                                       .task = id_,
                                       .retry_count = output.retry_count,
                                       .outcome = std::move(output.outcome),
                                       .started = output.started,
                                       .finished = output.finished});
  idle_since_ = context_.loop.now();
  changed_.notify();  // There is room for another, or nothing left to wait for.
  watch();
}

Async<> Task::put_outputs(std::shared_ptr<Task> self, std::vector<TaskOutput> outputs) {
  Task& task = *self;
  for (TaskOutput& output : outputs) {
    // The newest lease of this attempt counts; older ones of the same attempt are over with it.
    std::vector<sched::LeaseId> matching;
    for (auto entry = task.bound_.lower_bound({.input = output.input, .epoch = 0});
         entry != task.bound_.end() && entry->first.input == output.input; ++entry) {
      if (!entry->second.claimed && entry->second.lease.retry_count == output.retry_count) {
        matching.push_back(entry->first);
      }
    }
    if (matching.empty()) continue;
    const sched::LeaseId lease = matching.back();
    matching.pop_back();
    for (const sched::LeaseId older : matching) task.bound_.erase(older);
    task.finish_input(lease, std::move(output));
  }
  // Also when nothing matched: it may be a repetition of a call whose outputs are still on their way.
  const OutputSender::Ticket ticket = task.last_output_;
  co_await task.context_.outputs.wait(ticket);
}

Async<std::vector<InputId>> Task::heartbeat(std::shared_ptr<Task> self, Duration hold) {
  struct Held {
    Task& task;
    explicit Held(Task& of) : task(of) { ++task.heartbeats_held_; }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
      --task.heartbeats_held_;
      task.last_heartbeat_ = task.context_.loop.now();
      task.watch();
    }
  };
  Task& task = *self;
  task.heartbeat_seen_ = true;
  const Held held(task);
  const Time deadline = task.context_.loop.now() + hold;
  while (!task.ended() && task.context_.loop.now() < deadline) {
    std::vector<InputId> told = task.take_cancellations();
    if (!told.empty()) co_return told;
    (void)co_await task.cancelled_.wait_until(std::min(deadline, task.next_cancellation()));
  }
  co_return std::vector<InputId>();
}

std::vector<InputId> Task::take_cancellations() {
  const Time now = context_.loop.now();
  std::vector<InputId> told;
  for (auto& [lease, bound] : bound_) {
    if (!bound.tell_cancellation || now < bound.delivered + kBeginTime) continue;
    bound.tell_cancellation = now < bound.delivered + kUnpackTime;
    told.push_back(lease.input);
  }
  return told;
}

Time Task::next_cancellation() const {
  Time next = kNever;
  for (const auto& [lease, bound] : bound_) {
    if (bound.tell_cancellation) next = std::min(next, bound.delivered + kBeginTime);
  }
  return next;
}

bool Task::cancel(sched::LeaseId lease) {
  const auto found = bound_.find(lease);
  if (found == bound_.end()) return false;
  Bound& bound = found->second;
  if (bound.claimed) {
    bound.dropped = true;
  } else if (bound.cancel_deadline == kNever) {
    bound.cancel_deadline = context_.loop.now() + context_.options.cancel_grace;
    bound.tell_cancellation = true;
    cancelled_.notify();
    watch();
  }
  return true;
}

std::vector<sched::Binding> Task::bindings() const {
  std::vector<sched::Binding> bindings;
  bindings.reserve(bound_.size());
  for (const auto& [lease, bound] : bound_) bindings.push_back({.lease = lease, .task = id_});
  return bindings;
}

bool Task::has_input(InputId input) const {
  const auto found = bound_.lower_bound({.input = input, .epoch = 0});
  return found != bound_.end() && found->first.input == input;
}

void Task::set_result(control::Outcome outcome) { result_ = std::move(outcome); }

std::uint32_t Task::concurrency() const {
  const std::uint32_t target = std::max<std::uint32_t>(1, order_.concurrent_inputs_target);
  const std::uint32_t max = std::max<std::uint32_t>(target, order_.concurrent_inputs_max);
  // What lies in the queue found no container with room at its target.
  return queue_->empty() ? target : max;
}

void Task::retire() {
  if (draining_ || ended()) return;
  draining_ = true;
  idle_since_ = context_.loop.now();
  context_.reports.retiring(id_);
  changed_.notify();
  watch();
}

}  // namespace proa::worker
