// SPDX-License-Identifier: Apache-2.0
//
// FsBlobs: blobs as files of a directory. docs/formats/blobs.md has the layout. DO NOT CHANGE.
//
// Files are written in the pool; a name appears only once the bytes are on the disk.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "blob/blob.h"
#include "rt/loop.h"
#include "rt/pool.h"

namespace proa::blob {

class FsBlobs final : public Blobs {
 public:
  // Opens or makes the directory, and removes what was being written when an earlier process died. One process at a
  // time uses a directory. Loop and pool outlive it.
  static Result<std::unique_ptr<FsBlobs>> open_directory(Loop& loop, Pool& pool, const std::string& directory);
  ~FsBlobs() override;

  Async<Result<std::unique_ptr<Upload>>> put(BlobId id, std::uint64_t length) override;
  Async<Result<std::unique_ptr<Upload>>> put_part(BlobId id, std::uint32_t number, std::uint64_t length) override;
  Async<Result<std::string>> complete(BlobId id, std::vector<Part> parts, std::uint64_t length) override;
  Async<Result<std::unique_ptr<Download>>> open(BlobId id) override;
  Async<Result<std::uint64_t>> size(BlobId id) override;
  Async<Result<void>> remove(BlobId id) override;

  // The file itself, for reading. Blocking, any thread: for pool work that hands it on, as into the object store.
  Result<OwnedFd> open_file_of(BlobId id) const;

  // Those that were written before `time`, whole ones only. Blocking, any thread.
  Result<std::vector<BlobId>> older_than(Time time) const;

  struct Files;  // The blocking half.

 private:
  FsBlobs(Loop& loop, Pool& pool, std::shared_ptr<Files> files) : loop_(loop), pool_(pool), files_(std::move(files)) {}

  Loop& loop_;
  Pool& pool_;
  std::shared_ptr<Files> files_;  // Shared with pool work that outlives its caller.
};

}  // namespace proa::blob
