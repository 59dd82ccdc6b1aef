// SPDX-License-Identifier: Apache-2.0
//
// Reads what a container wrote over its trees (docs/formats/layer-stream.md) into an object store, and gives
// it back as a tree with whiteouts. The stream is made from a hostile container's files: all of it is checked
// and bounded.
//
// Blocking; on a pool thread.
#pragma once

#include <cstdint>

#include "cas/object_store.h"
#include "cas/tree.h"

namespace proa::container {

struct LayerLimits {
  std::uint64_t bytes_max = 256ULL << 30;
  std::size_t entries_max = cas::kTreeEntriesMax;
};

// `lower` is what the container's trees came to: files and directories whose content it left alone are found
// there. The contents are durable when it returns.
//   kDataLoss           the stream is cut short or damaged.
//   kInvalidArgument    something cannot be kept; the message names it.
//   kResourceExhausted  more than the limits, or the disk is full.
Result<cas::Tree> read_layer(int fd, const cas::Tree& lower, cas::ObjectStore& store, const LayerLimits& limits);

}  // namespace proa::container
