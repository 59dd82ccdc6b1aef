// SPDX-License-Identifier: Apache-2.0
//
// Waiter: waits for one event of a call, whose handling on the loop resumes the coroutine directly. When the
// coroutine goes first, its handle is taken back. For this room's .cc files only.
#pragma once

#include <coroutine>

namespace proa::rpc {

struct Waiter {
  std::coroutine_handle<>& place;
  bool armed = false;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    place = waiter;
    armed = true;
  }
  void await_resume() noexcept { armed = false; }
  ~Waiter() {
    if (armed) place = nullptr;
  }
};

}  // namespace proa::rpc
