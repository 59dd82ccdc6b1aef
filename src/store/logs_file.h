// SPDX-License-Identifier: Apache-2.0
//
// FileLogStore: a LogStore in a directory. Each app has a folder of its id, with segments named by the id of
// their first record (20 digits, ".log"). A record is its length and the CRC-32C of its body, 4 bytes each,
// then the body: its id in 8 bytes and what was given; all numbers little-endian. docs/formats/logs.md.
// DO NOT CHANGE.
//
// A process only ever appends to segments that it began itself, so that what a crash left half-written ends a
// segment and harms nothing. Reading stops at such a place and goes on with the next segment.
//
// The disk work is done in the pool.
#pragma once

#include <memory>
#include <string>

#include "rt/pool.h"
#include "store/log_store.h"

namespace proa::store {

class FileLogStore final : public LogStore {
 public:
  struct Config {
    std::size_t segment_bytes = 1 << 20;
    std::size_t app_bytes_max = 64 << 20;  // The oldest segments of an app go when it has more.
    std::size_t app_segments_max = 1000;   // A restart begins a new one.
  };

  // Makes `directory` if it is not there.
  static Result<std::unique_ptr<FileLogStore>> open(Loop& loop, Pool& pool, std::string directory, Config config);

  Async<Result<void>> append(std::vector<LogAppend> batch) override;
  Async<Result<std::vector<LogRecord>>> read(AppId app, std::uint64_t from, std::uint64_t to, LogOrder order,
                                             std::size_t bytes_max) override;
  Async<Result<void>> drop(AppId app) override;

 private:
  struct Files;
  FileLogStore(Loop& loop, Pool& pool, std::shared_ptr<Files> files)
      : loop_(loop), pool_(pool), files_(std::move(files)) {}

  Loop& loop_;
  Pool& pool_;
  std::shared_ptr<Files> files_;  // Shared with work under way.
};

}  // namespace proa::store
