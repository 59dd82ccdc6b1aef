// SPDX-License-Identifier: Apache-2.0
//
// SqliteStore: a Store in one SQLite file (WAL, synchronous=FULL). A thread of its own writes; whatever
// waits when it is free goes into one transaction, so that a sync is shared (group commit). Another thread
// reads. The schema is in schema/; docs/formats/tables.md describes the rows.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "store/store.h"

namespace proa::store {

// kInternal, kDataLoss or kFailedPrecondition (written by a newer program), naming the file.
//
// `free_space` is called by the writing thread when the disk is full and answers whether it made room. Then, and for some
// time anyhow, the write is tried again; nothing is acknowledged meanwhile.
Result<std::unique_ptr<Store>> open_sqlite(Loop& loop, const std::string& path, std::function<bool()> free_space = {});

}  // namespace proa::store
