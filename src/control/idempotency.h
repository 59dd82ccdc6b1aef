// SPDX-License-Identifier: Apache-2.0
//
// Idempotency: what was answered to a caller's key, for ten minutes. Clients repeat a call under its key when
// its answer was lost; the repeat gets the answer of the first. Written in the batch of the effect itself, so
// that the one is never kept without the other.
//
// On the server's loop.
#pragma once

#include <deque>
#include <string>
#include <unordered_map>

#include "control/ledger.h"
#include "rt/loop.h"

namespace proa::control {

class Idempotency {
 public:
  struct Config {
    Duration kept = std::chrono::minutes(10);
    std::size_t bytes_max = 64 << 20;  // Beyond it the oldest go early.
    std::size_t response_bytes_max = 1 << 20;  // A larger answer is not remembered.
  };
  Idempotency(Loop& loop, Ledger& ledger, Config config) : loop_(loop), ledger_(ledger), config_(config) {}

  Result<void> load(store::Store& store);
  // Null if nothing is remembered. Valid until the next call.
  const Bytes* find(const std::string& identity, const std::string& method, const std::string& key);
  void remember(const std::string& identity, const std::string& method, const std::string& key, Bytes response);

 private:
  struct Entry {
    Bytes response;
    Time created;
  };
  void drop_old();
  void drop_first();

  Loop& loop_;
  Ledger& ledger_;
  Config config_;
  std::unordered_map<std::string, Entry> entries_;
  std::deque<std::pair<Time, std::string>> order_;
  std::size_t bytes_ = 0;
};

}  // namespace proa::control
