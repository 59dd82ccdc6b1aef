// SPDX-License-Identifier: Apache-2.0
//
// Loop: one thread that owns state. Everything that touches the state runs in functions posted here, so
// there are no locks behind it. Two implementations: RealLoop (rt/real_loop.h) and sim::SimLoop
// (rt/sim/sim_loop.h), which has virtual time and a seed.
//
// Also the ways in which a coroutine waits: suspend() for anything with a callback, sleep(), Signal for
// "something changed", Scope to own coroutines that nobody awaits.
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "rt/async.h"

namespace proa {

class Loop : public Clock {
 public:
  using TimerId = std::uint64_t;

  // Runs `work` on the loop, after what was posted before. Any thread.
  virtual void post(std::function<void()> work) = 0;
  // Runs `work` at `time` or soon after. On the loop only, like cancel().
  virtual TimerId at(Time time, std::function<void()> work) = 0;
  // Does nothing if the timer has fired or was cancelled.
  virtual void cancel(TimerId timer) = 0;
};

namespace loop_detail {

template <class T>
struct Waiting {
  Loop* loop = nullptr;
  std::coroutine_handle<> waiter;
  std::optional<T> value;
};

}  // namespace loop_detail

// Ends one suspend(). Copyable; the first call wins, later ones and calls after the waiter was destroyed
// do nothing. Called on the loop; from another thread use loop.post([=] { resume(value); }).
template <class T>
class Resumer {
 public:
  explicit Resumer(std::shared_ptr<loop_detail::Waiting<T>> waiting) : waiting_(std::move(waiting)) {}
  void operator()(T value) const {
    if (done()) return;
    waiting_->value.emplace(std::move(value));
    waiting_->loop->post([waiting = waiting_] {
      if (const auto waiter = std::exchange(waiting->waiter, nullptr)) waiter.resume();
    });
  }
  // Goes on here and now, without a turn of the loop: for whoever is called by the loop itself and has nothing left to do.
  void at_once(T value) const {
    if (done()) return;
    waiting_->value.emplace(std::move(value));
    std::exchange(waiting_->waiter, nullptr).resume();
  }
  bool done() const { return !waiting_->waiter || waiting_->value.has_value(); }

 private:
  std::shared_ptr<loop_detail::Waiting<T>> waiting_;
};

// `T value = co_await suspend<T>(loop, start)`: calls start(Resumer<T>) at once and waits until it is resumed.
template <class T, class Start>
auto suspend(Loop& loop, Start start) {
  struct Awaiter {
    Loop& loop;
    Start start;
    std::shared_ptr<loop_detail::Waiting<T>> waiting = std::make_shared<loop_detail::Waiting<T>>();

    Awaiter(Loop& on, Start with) : loop(on), start(std::move(with)) {}
    Awaiter(Awaiter&&) = delete;
    ~Awaiter() { waiting->waiter = nullptr; }
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      waiting->loop = &loop;
      waiting->waiter = waiter;
      // The frame may be resumed and gone before start() returns only by post(), so never in here.
      start(Resumer<T>(waiting));
    }
    T await_resume() { return std::move(*waiting->value); }
  };
  return Awaiter(loop, std::move(start));
}

Async<> sleep_until(Loop& loop, Time time);
Async<> sleep_for(Loop& loop, Duration duration);

// "Something changed": wakes all that wait. A waiter looks again for itself; wakes may be spurious.
// Waiters must not outlive the Signal's loop; the Signal itself may die first (its waiters then only time out).
class Signal {
 public:
  explicit Signal(Loop& loop) : loop_(loop) {}
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;

  void notify();
  Async<> wait();
  // True if notified, false at the deadline.
  Async<bool> wait_until(Time deadline);
  bool has_waiters() const;

 private:
  void add(const Resumer<bool>& resumer);

  Loop& loop_;
  std::vector<Resumer<bool>> waiters_;
};

// Owns coroutines that nobody awaits. Destroying it cancels them all. On the loop only.
class Scope {
 public:
  Scope() = default;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope() { cancel_all(); }

  // Starts `work` at once, up to its first wait. An exception that leaves it ends the process.
  void spawn(Async<> work);
  void cancel_all();
  bool empty() const { return running_.empty(); }
  std::size_t size() const { return running_.size(); }

 private:
  struct Detached;
  static Detached run(Scope* scope, Async<> work);
  std::unordered_set<void*> running_;
};

}  // namespace proa
