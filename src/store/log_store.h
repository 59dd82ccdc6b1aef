// SPDX-License-Identifier: Apache-2.0
//
// LogStore: what apps printed, kept apart from state because it is big, grows for ever and is read rarely.
//
// Records of one app have ids that grow; what is in them is control::Logs's. FileLogStore keeps segments in a
// directory, MemoryLogStore is for tests and the simulator. Called on the loop.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/id.h"
#include "base/result.h"
#include "rt/async.h"

namespace proa::store {

struct LogRecord {
  std::uint64_t id = 0;
  Bytes bytes;
  friend bool operator==(const LogRecord&, const LogRecord&) = default;
};

struct LogAppend {
  AppId app;
  std::vector<LogRecord> records;  // Ids grow, and are above all that the app has.
};

enum class LogOrder : std::uint8_t { kOldestFirst, kNewestFirst };

class LogStore {
 public:
  virtual ~LogStore() = default;

  // Finishes when all of it is durable. One call at a time. After an error any part may have been kept.
  virtual Async<Result<void>> append(std::vector<LogAppend> batch) = 0;
  // Records with from ≤ id < to, in the order asked for, until they have `bytes_max` bytes together; at
  // least one if there is any. None for an app that has no logs.
  virtual Async<Result<std::vector<LogRecord>>> read(AppId app, std::uint64_t from, std::uint64_t to, LogOrder order,
                                                     std::size_t bytes_max) = 0;
  // Everything of the app goes. An app without logs is no error.
  virtual Async<Result<void>> drop(AppId app) = 0;
};

}  // namespace proa::store
