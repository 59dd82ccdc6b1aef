// SPDX-License-Identifier: Apache-2.0
#include "control/ledger.h"

#include <algorithm>

namespace proa::control {

Ledger::Ledger(Loop& loop, store::Store& store, std::function<void(Error)> on_failure)
    : loop_(loop), store_(store), on_failure_(std::move(on_failure)) {}

Ledger::~Ledger() { *alive_ = false; }

void Ledger::write(store::Write write) {
  open_.push_back(std::move(write));
  ++written_;
  if (flush_posted_ || committing_) return;
  flush_posted_ = true;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    flush_posted_ = false;
    flush();
  });
}

void Ledger::flush() {
  if (committing_ || open_.empty()) return;
  committing_ = true;
  const std::uint64_t until = written_;
  store_.commit(std::exchange(open_, {}), [this, until, alive = alive_](const Result<void>& done) {
    if (!*alive) return;
    committing_ = false;
    if (!done.ok()) {
      on_failure_(done.error());
      return;
    }
    durable_ = until;
    const auto ready = std::find_if(waiters_.begin(), waiters_.end(), [&](const Waiter& waiter) { return waiter.until > durable_; });
    std::vector<Waiter> woken(std::make_move_iterator(waiters_.begin()), std::make_move_iterator(ready));
    waiters_.erase(waiters_.begin(), ready);
    flush();
    for (Waiter& waiter : woken) waiter.then();
  });
}

void Ledger::when_durable(std::function<void()> then) {
  if (settled()) {
    then();
    return;
  }
  waiters_.push_back({written_, std::move(then)});
}

Async<> Ledger::durable() {
  if (settled()) co_return;
  co_await suspend<bool>(loop_, [this](Resumer<bool> resume) { when_durable([resume] { resume(true); }); });
}

}  // namespace proa::control
