// SPDX-License-Identifier: Apache-2.0
#include "store/memory/memory_store.h"

namespace proa::store {

void Disk::apply(const Batch& batch) {
  for (const Write& write : batch) {
    auto& table = tables[static_cast<std::size_t>(write.table)];
    if (write.value) {
      table[write.key] = *write.value;
    } else {
      table.erase(write.key);
    }
  }
}

MemoryStore::~MemoryStore() { loop_.cancel(timer_); }

void MemoryStore::commit(Batch batch, std::function<void(Result<void>)> done) {
  queue_.push_back({std::move(batch), std::move(done)});
  if (queue_.size() == 1) schedule();
}

void MemoryStore::schedule() {
  timer_ = loop_.at(loop_.now() + latency_, [this] {
    Pending first = std::move(queue_.front());
    queue_.pop_front();
    if (!queue_.empty()) schedule();
    if (failure_) {
      first.done(*failure_);
    } else {
      disk_.apply(first.batch);
      first.done({});
    }
  });
}

bool MemoryStore::finish_first_under_way() {
  if (queue_.empty()) return false;
  disk_.apply(queue_.front().batch);
  queue_.pop_front();
  return true;
}

Async<Result<std::optional<Bytes>>> MemoryStore::get(Table table, Bytes key) {
  co_await sleep_for(loop_, Duration(0));
  const auto& rows = disk_.tables[static_cast<std::size_t>(table)];
  const auto found = rows.find(key);
  if (found == rows.end()) co_return std::optional<Bytes>();
  co_return std::optional<Bytes>(found->second);
}

Async<Result<std::vector<Row>>> MemoryStore::scan(Table table, Bytes from, Bytes to, std::size_t rows_max) {
  co_await sleep_for(loop_, Duration(0));
  const auto& rows = disk_.tables[static_cast<std::size_t>(table)];
  std::vector<Row> out;
  for (auto row = rows.lower_bound(from); row != rows.end() && out.size() < rows_max; ++row) {
    if (!to.empty() && row->first >= to) break;
    out.emplace_back(*row);
  }
  co_return out;
}

Result<void> MemoryStore::load(Table table, const std::function<void(BytesView, BytesView)>& row) {
  for (const auto& [key, value] : disk_.tables[static_cast<std::size_t>(table)]) row(key, value);
  return {};
}

}  // namespace proa::store
