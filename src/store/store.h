// SPDX-License-Identifier: Apache-2.0
//
// Store: what the server must not forget, as ordered tables of bytes. Batches of writes are atomic and
// durable; memory decides everything else (see control/ledger.h).
//
// SqliteStore keeps a file, MemoryStore is for tests and the simulator, which can crash it between any two
// steps. One suite, store_suite.h, runs on all. Methods are called on the loop; load() before it serves.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rt/loop.h"

namespace proa::store {

// Stored. DO NOT CHANGE numbers; a table's rows are described in docs/formats/tables.md.
enum class Table : std::uint8_t {
  kMeta = 0,
  kEnvironment = 1,
  kApp = 2,
  kFunction = 3,
  kDefinition = 4,
  kClass = 5,
  kCall = 6,
  kInput = 7,      // A narrow row for each input.
  kArguments = 8,  // The inputs' payloads, read only to run them.
  kOutput = 9,     // The outcomes, read only to show them.
  kChunk = 10,     // Generators' and web calls' data.
  kImage = 11,
  kImageStep = 12,
  kMount = 13,
  kSecret = 14,
  kToken = 15,
  kIdempotency = 16,
  kContent = 17,  // (workspace, digest): who may use which content.
  kDeployment = 18,
  kTask = 19,
  kBase = 20,
  kCallBlob = 21,  // (call, blob): what goes with the call.
};
constexpr std::size_t kTables = 22;

struct Write {
  Table table = Table::kMeta;
  Bytes key;
  std::optional<Bytes> value;  // Nothing: the row goes.
};
using Batch = std::vector<Write>;
using Row = std::pair<Bytes, Bytes>;

class Store {
 public:
  virtual ~Store() = default;

  // `done` is called on the loop once the batch is durable, or with the reason why none of it is. Batches
  // become durable in the order of the calls. After a failure the store must be opened anew.
  virtual void commit(Batch batch, std::function<void(Result<void>)> done) = 0;

  // Sees what is durable.
  virtual Async<Result<std::optional<Bytes>>> get(Table table, Bytes key) = 0;
  // Rows with from ≤ key < to ("" as `to`: no end), in key order, at most `rows_max`.
  virtual Async<Result<std::vector<Row>>> scan(Table table, Bytes from, Bytes to, std::size_t rows_max) = 0;

  // Calls `row` for each row in key order. Blocks: only before the loop serves.
  virtual Result<void> load(Table table, const std::function<void(BytesView key, BytesView value)>& row) = 0;
};

}  // namespace proa::store
