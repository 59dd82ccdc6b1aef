// SPDX-License-Identifier: Apache-2.0
#include "rt/loop.h"

#include <algorithm>

namespace proa {
namespace {

// Cancels its timer when the waiter goes, so that an abandoned wait leaves nothing behind.
struct TimerGuard {
  Loop& loop;
  Loop::TimerId timer = 0;
  ~TimerGuard() { loop.cancel(timer); }
};

}  // namespace

Async<> sleep_until(Loop& loop, Time time) {
  TimerGuard guard{loop};
  co_await suspend<bool>(loop, [&](Resumer<bool> resume) { guard.timer = loop.at(time, [resume] { resume(true); }); });
}

Async<> sleep_for(Loop& loop, Duration duration) { return sleep_until(loop, loop.now() + duration); }

void Signal::notify() {
  for (const Resumer<bool>& waiter : std::exchange(waiters_, {})) waiter(true);
}

void Signal::add(const Resumer<bool>& resumer) {
  // Those that timed out since are dropped here, so that a signal that never fires does not grow.
  if (waiters_.size() >= 8 && waiters_.size() == waiters_.capacity()) {
    std::erase_if(waiters_, [](const Resumer<bool>& waiter) { return waiter.done(); });
  }
  waiters_.push_back(resumer);
}

bool Signal::has_waiters() const {
  return std::any_of(waiters_.begin(), waiters_.end(), [](const Resumer<bool>& waiter) { return !waiter.done(); });
}

Async<> Signal::wait() {
  co_await suspend<bool>(loop_, [this](Resumer<bool> resume) { add(resume); });
}

Async<bool> Signal::wait_until(Time deadline) {
  if (deadline == kNever) {
    co_await wait();
    co_return true;
  }
  TimerGuard guard{loop_};
  co_return co_await suspend<bool>(loop_, [&](Resumer<bool> resume) {
    add(resume);
    guard.timer = loop_.at(deadline, [resume] { resume(false); });
  });
}

struct Scope::Detached {
  struct promise_type {
    Scope* scope;
    promise_type(Scope* owner, Async<>&) : scope(owner) {}
    Detached get_return_object() {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept {
      // The set forgets the frame before it frees itself.
      scope->running_.erase(std::coroutine_handle<promise_type>::from_promise(const_cast<promise_type&>(*this)).address());
      return {};
    }
    void return_void() const noexcept {}
    void unhandled_exception() const { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

Scope::Detached Scope::run(Scope*, Async<> work) { co_await std::move(work); }

void Scope::spawn(Async<> work) {
  const Detached detached = run(this, std::move(work));
  running_.insert(detached.handle.address());
  detached.handle.resume();
}

void Scope::cancel_all() {
  while (!running_.empty()) {
    void* frame = *running_.begin();
    running_.erase(running_.begin());
    std::coroutine_handle<>::from_address(frame).destroy();
  }
}

}  // namespace proa
