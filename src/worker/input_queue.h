// SPDX-License-Identifier: Apache-2.0
//
// InputQueue: the leased inputs of one function that no container has asked for yet, oldest first, and the
// tasks that wait for one.
//
// On the worker's loop. Who waits registers, and is called when there may be something to take; of several,
// those with the fewest inputs at work come first. It owns neither tasks nor inputs beyond the leases.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "sched/peer.h"

namespace proa::worker {

class InputQueue {
 public:
  // Whoever waits for inputs. The pointers are not followed after remove_waiter().
  struct Waiter {
    std::function<void()> wake;
    std::size_t at_work = 0;  // Inputs it has already.
  };

  // False if this very lease is here already. An older lease of the same input is replaced.
  bool push(sched::Lease lease);
  // Gives back a lease that nobody got after all; it is the next one again.
  void push_front(sched::Lease lease);
  // The oldest; with `method`, the oldest of that method.
  std::optional<sched::Lease> take();
  std::optional<sched::Lease> take(const std::string& method);
  // True if it was here.
  bool remove(sched::LeaseId lease);
  bool contains(sched::LeaseId lease) const;

  std::vector<sched::LeaseId> leases() const;
  std::vector<sched::LeaseId> take_all();
  std::size_t size() const { return queue_.size(); }
  bool empty() const { return queue_.empty(); }

  void add_waiter(Waiter* waiter) { waiters_.push_back(waiter); }
  // A waiter that leaves without having looked again passes its wake on.
  void remove_waiter(Waiter* waiter);
  // Wakes as many waiters as there are inputs.
  void wake();

 private:
  std::deque<sched::Lease> queue_;
  std::unordered_map<InputId, std::uint32_t> epochs_;  // Of what is in queue_.
  std::vector<Waiter*> waiters_;
};

}  // namespace proa::worker
