// SPDX-License-Identifier: Apache-2.0
//
// Between Bytes and gRPC's buffers. For this room's .cc files only.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace proa::rpc {

inline grpc::ByteBuffer to_buffer(Bytes bytes) {
  // Below this a copy is cheaper than another allocation.
  constexpr std::size_t kCopyBelow = 4096;
  if (bytes.size() < kCopyBelow) {
    grpc::Slice slice(bytes.data(), bytes.size());
    return {&slice, 1};
  }
  auto* held = new Bytes(std::move(bytes));
  grpc::Slice slice(held->data(), held->size(), [](void* pointer) { delete static_cast<Bytes*>(pointer); }, held);
  return {&slice, 1};
}

inline Bytes from_buffer(const grpc::ByteBuffer& buffer) {
  Bytes bytes;
  std::vector<grpc::Slice> slices;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

inline Error from_status(const grpc::Status& status) {
  return {static_cast<Code>(status.error_code()), status.error_message()};
}

}  // namespace proa::rpc
