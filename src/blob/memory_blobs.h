// SPDX-License-Identifier: Apache-2.0
//
// MemoryBlobs: blobs of a test or a simulation. Everything is done before the call returns.
#pragma once

#include <map>
#include <memory>

#include "blob/blob.h"

namespace proa::blob {

class MemoryBlobs final : public Blobs {
 public:
  Async<Result<std::unique_ptr<Upload>>> put(BlobId id, std::uint64_t length) override;
  Async<Result<std::unique_ptr<Upload>>> put_part(BlobId id, std::uint32_t number, std::uint64_t length) override;
  Async<Result<std::string>> complete(BlobId id, std::vector<Part> parts, std::uint64_t length) override;
  Async<Result<std::unique_ptr<Download>>> open(BlobId id) override;
  Async<Result<std::uint64_t>> size(BlobId id) override;
  Async<Result<void>> remove(BlobId id) override;

  std::size_t count() const { return blobs_.size(); }

 private:
  class MemoryUpload;
  Result<Bytes> commit(BlobId id, std::uint32_t part, Bytes bytes);

  std::map<BlobId, std::shared_ptr<const Bytes>> blobs_;
  std::map<BlobId, std::map<std::uint32_t, Bytes>> parts_;
};

}  // namespace proa::blob
