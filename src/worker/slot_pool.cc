// SPDX-License-Identifier: Apache-2.0
#include "worker/slot_pool.h"

#include <algorithm>
#include <utility>

#include "worker/backoff.h"

namespace proa::worker {
namespace {

bool same(const container::SlotSpec& a, const container::SlotSpec& b) {
  return a.network == b.network && a.limits.cpu_milli_max == b.limits.cpu_milli_max &&
         a.limits.cpu_milli_weight == b.limits.cpu_milli_weight &&
         a.limits.memory_bytes_max == b.limits.memory_bytes_max && a.limits.pids_max == b.limits.pids_max;
}

// Why a machine cannot prepare slots rarely changes within seconds.
constexpr Duration kRefillPauseAfterError = std::chrono::seconds(5);

}  // namespace

SlotPool::SlotPool(Loop& loop, container::Runtime& runtime, Logger& log, container::SlotSpec first, std::size_t count)
    : loop_(loop), runtime_(runtime), log_(log), count_(count), wanted_(count, first), changed_(loop), removed_(loop) {}

void SlotPool::start() {
  if (count_ > 0) scope_.spawn(refill());
}

Async<Result<container::Slot>> SlotPool::take(container::SlotSpec spec) {
  if (count_ > 0) {
    wanted_.pop_front();
    wanted_.push_back(spec);
    changed_.notify();
  }
  const auto found =
      std::find_if(ready_.begin(), ready_.end(), [&](const Ready& ready) { return same(ready.spec, spec); });
  if (found != ready_.end()) {
    container::Slot slot = std::move(found->slot);
    ready_.erase(found);
    co_return slot;
  }
  Result<container::Slot> made = co_await runtime_.prepare(spec);
  if (made.ok() || made.error().code != Code::kResourceExhausted || ready_.empty()) co_return made;
  // A prepared slot of another kind may hold what this one lacks.
  const container::SlotId spare = ready_.back().slot.id;
  ready_.pop_back();
  co_await remove(spare);
  co_return co_await runtime_.prepare(spec);
}

void SlotPool::give_back(container::SlotId slot) { removals_.spawn(remove(slot)); }

Async<> SlotPool::remove(container::SlotId slot) {
  Backoff backoff;
  Signal never(loop_);
  while (true) {
    const Result<void> removed = co_await runtime_.remove(slot);
    if (removed.ok() || removed.error().code == Code::kNotFound) break;
    log_.warning("slot.remove_failed", {{"slot", slot}, {"error", removed.error().message}});
    co_await backoff.wait(loop_, never);
  }
  removed_.notify();
}

Async<> SlotPool::shut_down() {
  closing_ = true;
  scope_.cancel_all();
  for (Ready& ready : std::exchange(ready_, {})) give_back(ready.slot.id);
  while (!removals_.empty()) co_await removed_.wait();
}

const container::SlotSpec* SlotPool::missing() const {
  const auto count_of = [](const auto& list, const auto& spec_of, const container::SlotSpec& spec) {
    return std::count_if(list.begin(), list.end(), [&](const auto& item) { return same(spec_of(item), spec); });
  };
  // The newest wish first: it is what the next task will want.
  for (auto wish = wanted_.rbegin(); wish != wanted_.rend(); ++wish) {
    const auto wanted = count_of(wanted_, [](const auto& item) -> const auto& { return item; }, *wish);
    const auto have = count_of(ready_, [](const auto& item) -> const auto& { return item.spec; }, *wish);
    if (have < wanted) return &*wish;
  }
  return nullptr;
}

void SlotPool::trim() {
  while (ready_.size() > count_) {
    // The oldest of those that nobody wishes for, or just the oldest.
    auto victim = std::find_if(ready_.begin(), ready_.end(), [&](const Ready& ready) {
      return std::none_of(wanted_.begin(), wanted_.end(), [&](const auto& wish) { return same(wish, ready.spec); });
    });
    if (victim == ready_.end()) victim = ready_.begin();
    give_back(victim->slot.id);
    ready_.erase(victim);
  }
}

Async<> SlotPool::refill() {
  while (true) {
    const container::SlotSpec* wish = missing();
    if (wish == nullptr) {
      co_await changed_.wait();
      continue;
    }
    const container::SlotSpec spec = *wish;
    Result<container::Slot> made = co_await runtime_.prepare(spec);
    if (!made.ok()) {
      log_.warning("slot.prepare_failed", {{"error", made.error().message}});
      co_await sleep_for(loop_, kRefillPauseAfterError);
      continue;
    }
    ready_.push_back({.spec = spec, .slot = std::move(made).value()});
    trim();
  }
}

}  // namespace proa::worker
