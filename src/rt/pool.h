// SPDX-License-Identifier: Apache-2.0
//
// Pool: where blocking work goes. `co_await run_in(pool, loop, f)` runs f on a pool thread and comes back
// to the loop with its result. If the waiter is destroyed meanwhile, f still runs to its end and its result
// is dropped: f must own what it touches.
#pragma once

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "rt/loop.h"

namespace proa {

class Pool {
 public:
  virtual ~Pool() = default;
  virtual void submit(std::function<void()> work) = 0;
};

class ThreadPool final : public Pool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool() override;  // Waits for what was submitted.
  void submit(std::function<void()> work) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Runs the work where it stands: for tests and the simulator.
class InlinePool final : public Pool {
 public:
  void submit(std::function<void()> work) override { work(); }
};

template <class F>
Async<std::invoke_result_t<F>> run_in(Pool& pool, Loop& loop, F f) {
  using T = std::invoke_result_t<F>;
  auto shared = std::make_shared<F>(std::move(f));
  co_return co_await suspend<T>(loop, [&pool, &loop, shared](Resumer<T> resume) {
    pool.submit([&loop, shared, resume] {
      // std::function must be copyable, so the result travels behind a pointer.
      auto result = std::make_shared<T>((*shared)());
      loop.post([resume, result] { resume(std::move(*result)); });
    });
  });
}

}  // namespace proa
