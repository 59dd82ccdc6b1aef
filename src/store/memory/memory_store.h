// SPDX-License-Identifier: Apache-2.0
//
// MemoryStore: a Store that is a map. The map (Disk) outlives the store, as a disk outlives a process: the
// simulator makes a new store on the old disk after a crash. Batches reach the disk after `latency`, and
// those under way at a crash are lost, all but the first, which may have made it (Disk::tear decides).
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>

#include "store/store.h"

namespace proa::store {

struct Disk {
  std::array<std::map<Bytes, Bytes>, kTables> tables;
  void apply(const Batch& batch);
};

class MemoryStore final : public Store {
 public:
  MemoryStore(Loop& loop, Disk& disk, Duration latency = Duration(0)) : loop_(loop), disk_(disk), latency_(latency) {}
  ~MemoryStore() override;

  void commit(Batch batch, std::function<void(Result<void>)> done) override;
  Async<Result<std::optional<Bytes>>> get(Table table, Bytes key) override;
  Async<Result<std::vector<Row>>> scan(Table table, Bytes from, Bytes to, std::size_t rows_max) override;
  Result<void> load(Table table, const std::function<void(BytesView, BytesView)>& row) override;

  // From now on commits fail with this error, as on a full disk.
  void fail_with(Error error) { failure_ = std::move(error); }
  // The write under way when the process died: applies it whole, as if the crash had come a moment later.
  bool finish_first_under_way();
  std::size_t under_way() const { return queue_.size(); }

 private:
  struct Pending {
    Batch batch;
    std::function<void(Result<void>)> done;
  };
  void schedule();

  Loop& loop_;
  Disk& disk_;
  Duration latency_;
  std::deque<Pending> queue_;
  std::optional<Error> failure_;
  Loop::TimerId timer_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace proa::store
