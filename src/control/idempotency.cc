// SPDX-License-Identifier: Apache-2.0
#include "control/idempotency.h"

#include <algorithm>

#include "base/digest.h"

namespace proa::control {
namespace {

using store::Table;

// Stored. DO NOT CHANGE tags.
struct Row {
  Time created;
  Bytes response;
  static void fields(auto& visit, auto& self) { visit(1, self.created), visit(2, self.response); }
};

// Of fixed length, whatever a caller takes for a key.
Bytes place_of(const std::string& identity, const std::string& method, const std::string& key) {
  Bytes whole = identity;
  whole += '\0';
  whole += method;
  whole += '\0';
  whole += key;
  return Bytes(sha256(whole).view());
}

}  // namespace

Result<void> Idempotency::load(store::Store& store) {
  bool damaged = false;
  PROA_TRY_VOID(store.load(Table::kIdempotency, [&](BytesView key, BytesView value) {
    auto row = decode<Row>(value);
    if (!row.ok()) {
      damaged = true;
      return;
    }
    bytes_ += row->response.size() + key.size();
    order_.emplace_back(row->created, Bytes(key));
    entries_.emplace(Bytes(key), Entry{std::move(row->response), row->created});
  }));
  if (damaged) return Error{Code::kDataLoss, "a stored answer cannot be read"};
  std::sort(order_.begin(), order_.end());
  return {};
}

void Idempotency::drop_first() {
  const Bytes place = std::move(order_.front().second);
  order_.pop_front();
  const auto found = entries_.find(place);
  if (found == entries_.end()) return;
  bytes_ -= found->second.response.size() + place.size();
  entries_.erase(found);
  ledger_.erase(Table::kIdempotency, place);
}

void Idempotency::drop_old() {
  const Time before = loop_.now() - config_.kept;
  while (!order_.empty() && (order_.front().first < before || bytes_ > config_.bytes_max)) drop_first();
}

const Bytes* Idempotency::find(const std::string& identity, const std::string& method, const std::string& key) {
  const auto found = entries_.find(place_of(identity, method, key));
  if (found == entries_.end() || found->second.created < loop_.now() - config_.kept) return nullptr;
  return &found->second.response;
}

void Idempotency::remember(const std::string& identity, const std::string& method, const std::string& key, Bytes response) {
  drop_old();
  if (response.size() > config_.response_bytes_max) return;
  Bytes place = place_of(identity, method, key);
  Row row{loop_.now(), response};
  ledger_.put(Table::kIdempotency, place, row);
  const auto [entry, inserted] = entries_.emplace(place, Entry{std::move(response), row.created});
  if (!inserted) return;
  bytes_ += entry->second.response.size() + place.size();
  order_.emplace_back(row.created, std::move(place));
}

}  // namespace proa::control
