// SPDX-License-Identifier: Apache-2.0
//
// Ledger: how the loop's state gets to the store. Rules change memory first and write what they changed
// here, without waiting; the ledger commits in order, one batch at a time, and whatever is written while a
// batch is under way forms the next. Whoever is about to show an effect to the outside (a reply, a command
// to a worker) waits for durable() first: then nothing is seen that a crash could take back.
//
// What one piece of loop work writes between two suspensions is in one batch: all of it or none is kept.
//
// If a commit fails the memory and the store disagree, and the process must end: `on_failure` is told why.
// The server refuses new work long before the disk is full (config: server.disk_reserve), so that this is
// the last line and not the usual way.
#pragma once

#include <cstdint>
#include <functional>

#include "base/codec.h"
#include "rt/loop.h"
#include "store/store.h"

namespace proa::control {

class Ledger {
 public:
  Ledger(Loop& loop, store::Store& store, std::function<void(Error)> on_failure);
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;
  ~Ledger();

  template <codec::Record R>
  void put(store::Table table, Bytes key, const R& record) {
    write({table, std::move(key), encode(record)});
  }
  void put_bytes(store::Table table, Bytes key, Bytes value) { write({table, std::move(key), std::move(value)}); }
  void erase(store::Table table, Bytes key) { write({table, std::move(key), std::nullopt}); }

  // Finishes when everything written before the call is durable; at once if it is already.
  Async<> durable();
  // True if nothing is waiting to become durable.
  bool settled() const { return durable_ == written_; }
  // Calls `then` when everything written before is durable, at once if it already is. For effects that are
  // no coroutine's.
  void when_durable(std::function<void()> then);

 private:
  void write(store::Write write);
  void flush();

  Loop& loop_;
  store::Store& store_;
  std::function<void(Error)> on_failure_;
  store::Batch open_;
  bool flush_posted_ = false;
  bool committing_ = false;
  std::uint64_t written_ = 0;    // Counts writes.
  std::uint64_t durable_ = 0;
  struct Waiter {
    std::uint64_t until;
    std::function<void()> then;
  };
  std::vector<Waiter> waiters_;  // In order of `until`.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace proa::control
