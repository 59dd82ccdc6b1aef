// SPDX-License-Identifier: Apache-2.0
//
// MemoryLogStore: a LogStore that is a map, for tests and the simulator. The map outlives the store, as a
// disk outlives a process.
#pragma once

#include <map>
#include <utility>

#include "store/log_store.h"

namespace proa::store {

using LogDisk = std::map<std::pair<AppId, std::uint64_t>, Bytes>;

class MemoryLogStore final : public LogStore {
 public:
  explicit MemoryLogStore(LogDisk& disk) : disk_(disk) {}

  Async<Result<void>> append(std::vector<LogAppend> batch) override {
    for (LogAppend& item : batch) {
      for (LogRecord& record : item.records) disk_[{item.app, record.id}] = std::move(record.bytes);
    }
    co_return Result<void>();
  }
  Async<Result<std::vector<LogRecord>>> read(AppId app, std::uint64_t from, std::uint64_t to, LogOrder order,
                                             std::size_t bytes_max) override {
    std::vector<LogRecord> found;
    std::size_t bytes = 0;
    const auto begin = disk_.lower_bound({app, from});
    const auto end = disk_.lower_bound({app, std::max(from, to)});
    const auto take = [&](const auto& item) {
      if (!found.empty() && bytes + item.second.size() > bytes_max) return false;
      bytes += item.second.size();
      found.push_back({item.first.second, item.second});
      return true;
    };
    if (order == LogOrder::kOldestFirst) {
      for (auto item = begin; item != end && take(*item);) ++item;
    } else {
      for (auto item = end; item != begin && take(*std::prev(item));) --item;
    }
    co_return found;
  }
  Async<Result<void>> drop(AppId app) override {
    std::erase_if(disk_, [&](const auto& item) { return item.first.first == app; });
    co_return Result<void>();
  }

 private:
  LogDisk& disk_;
};

}  // namespace proa::store
