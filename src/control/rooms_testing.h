// SPDX-License-Identifier: Apache-2.0
//
// A loop, a disk, a store and a ledger for the tests of control's rooms. World::reopen() is what a restart
// is: new objects on the same disk.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "base/log.h"
#include "base/seal.h"
#include "control/ledger.h"
#include "rt/sim/sim_loop.h"
#include "store/memory/memory_store.h"

namespace proa::control {

class World {
 public:
  World() { reopen(); }
  ~World() { settle(); }

  void reopen() {
    settle();
    ledger.reset();
    store = std::make_unique<store::MemoryStore>(loop, disk, std::chrono::milliseconds(1));
    ledger = std::make_unique<Ledger>(loop, *store, [](const Error& error) { FAIL() << error.message; });
  }
  // Until all that was written is on the disk.
  void settle() {
    while (ledger && !ledger->settled() && loop.step()) {
    }
  }
  template <class T>
  T run(Async<T> work) {
    std::optional<T> out;
    Scope scope;
    scope.spawn(keep(std::move(work), &out));
    while (!out && loop.step()) {
    }
    return std::move(*out);
  }

  sim::SimLoop loop;
  store::Disk disk;
  SeededRandom random{1};
  NullLogger log;
  Bytes key = Bytes(kSealKeyBytes, 'k');
  std::unique_ptr<store::MemoryStore> store;
  std::unique_ptr<Ledger> ledger;

 private:
  template <class T>
  static Async<> keep(Async<T> work, std::optional<T>* out) {
    out->emplace(co_await std::move(work));
  }
};

}  // namespace proa::control
