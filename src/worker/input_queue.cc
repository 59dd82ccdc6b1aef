// SPDX-License-Identifier: Apache-2.0
#include "worker/input_queue.h"

#include <algorithm>
#include <utility>

namespace proa::worker {

bool InputQueue::push(sched::Lease lease) {
  if (const auto found = epochs_.find(lease.id.input); found != epochs_.end()) {
    if (found->second >= lease.id.epoch) return false;
    remove({.input = lease.id.input, .epoch = found->second});
  }
  epochs_[lease.id.input] = lease.id.epoch;
  queue_.push_back(std::move(lease));
  return true;
}

void InputQueue::push_front(sched::Lease lease) {
  if (epochs_.contains(lease.id.input)) return;  // It was leased anew meanwhile.
  epochs_[lease.id.input] = lease.id.epoch;
  queue_.push_front(std::move(lease));
  wake();
}

std::optional<sched::Lease> InputQueue::take() {
  if (queue_.empty()) return std::nullopt;
  sched::Lease lease = std::move(queue_.front());
  queue_.pop_front();
  epochs_.erase(lease.id.input);
  return lease;
}

std::optional<sched::Lease> InputQueue::take(const std::string& method) {
  const auto found =
      std::find_if(queue_.begin(), queue_.end(), [&](const sched::Lease& lease) { return lease.method == method; });
  if (found == queue_.end()) return std::nullopt;
  sched::Lease lease = std::move(*found);
  queue_.erase(found);
  epochs_.erase(lease.id.input);
  return lease;
}

bool InputQueue::contains(sched::LeaseId lease) const {
  const auto found = epochs_.find(lease.input);
  return found != epochs_.end() && found->second == lease.epoch;
}

bool InputQueue::remove(sched::LeaseId lease) {
  if (!contains(lease)) return false;
  epochs_.erase(lease.input);
  std::erase_if(queue_, [&](const sched::Lease& queued) { return queued.id == lease; });
  return true;
}

std::vector<sched::LeaseId> InputQueue::leases() const {
  std::vector<sched::LeaseId> ids;
  ids.reserve(queue_.size());
  for (const sched::Lease& lease : queue_) ids.push_back(lease.id);
  return ids;
}

std::vector<sched::LeaseId> InputQueue::take_all() {
  std::vector<sched::LeaseId> ids = leases();
  queue_.clear();
  epochs_.clear();
  return ids;
}

void InputQueue::remove_waiter(Waiter* waiter) {
  std::erase(waiters_, waiter);
  if (!queue_.empty()) wake();
}

void InputQueue::wake() {
  // The least busy first, so that inputs spread over containers while there are idle ones.
  std::sort(waiters_.begin(), waiters_.end(), [](const Waiter* a, const Waiter* b) { return a->at_work < b->at_work; });
  const std::size_t count = std::min(queue_.size(), waiters_.size());
  // wake() only marks and posts, so the list stays as it is meanwhile.
  for (std::size_t i = 0; i < count; ++i) waiters_[i]->wake();
}

}  // namespace proa::worker
