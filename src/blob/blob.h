// SPDX-License-Identifier: Apache-2.0
//
// Blobs: where payloads are kept that are too big for a message. Named by an id that whoever creates the blob
// draws; immutable once committed. Not addressed by content (that is cas/), and it knows nothing of rights or of how
// long a blob is wanted (that is whoever holds its id).
//
// FsBlobs keeps files, MemoryBlobs is for tests and the simulator; code above this header cannot tell which one it
// has, and blob_suite.h holds both to it.
//
// On the loop. A call or an Upload that is abandoned leaves nothing behind that counts. Errors everywhere:
// kResourceExhausted "disk full: …"; kNotFound naming the blob.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/id.h"
#include "base/result.h"
#include "rt/async.h"

namespace proa::blob {

// Protocols count parts from 1.
constexpr std::uint32_t kPartsMax = 10'000;

// Takes bytes in order. One call at a time. Destroyed before commit() is done, it forgets them.
class Upload {
 public:
  virtual ~Upload() = default;
  // kInvalidArgument if there are more bytes than were announced.
  virtual Async<Result<void>> write(Bytes bytes) = 0;
  // Once. Durable and visible when it is done; answers the MD5 of the bytes, raw.
  //   kInvalidArgument  there were fewer bytes than announced.
  //   kAlreadyExists    the blob is there already, with other bytes. With the same ones this is success.
  virtual Async<Result<Bytes>> commit() = 0;
};

// Reads a blob as it was when it was opened, even if it is removed meanwhile. Several reads may be under way.
class Download {
 public:
  virtual ~Download() = default;
  virtual std::uint64_t size_bytes() const = 0;
  // Up to `length` bytes; fewer only at the end, none only from there on.
  virtual Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) = 0;
};

struct Part {
  std::uint32_t number = 0;  // 1 to kPartsMax.
  std::string etag;          // The MD5 of its bytes, in hexadecimal.
};

class Blobs {
 public:
  virtual ~Blobs() = default;

  // The whole of a blob in one go.
  virtual Async<Result<std::unique_ptr<Upload>>> put(BlobId id, std::uint64_t length) = 0;
  // A part of one. Parts come in any order and may come again: the last one of a number counts.
  virtual Async<Result<std::unique_ptr<Upload>>> put_part(BlobId id, std::uint32_t number, std::uint64_t length) = 0;
  // Makes the blob of these parts, in this order, and forgets all its parts. Answers its ETag as S3 has it: the MD5 of
  // the parts' MD5s in hexadecimal, "-" and their number. Can be repeated: a blob that is there stays.
  //   kInvalidArgument    no parts, numbers that do not ascend, or a part that was not uploaded with that ETag.
  //   kFailedPrecondition they have another length together than `length`.
  virtual Async<Result<std::string>> complete(BlobId id, std::vector<Part> parts, std::uint64_t length) = 0;

  virtual Async<Result<std::unique_ptr<Download>>> open(BlobId id) = 0;
  virtual Async<Result<std::uint64_t>> size(BlobId id) = 0;
  // The blob and parts that are left of it. Works on what is not there too.
  virtual Async<Result<void>> remove(BlobId id) = 0;
};

// For what fits in memory. put_bytes answers the MD5; read_bytes gives kOutOfRange if there are more than `bytes_max`.
Async<Result<Bytes>> put_bytes(Blobs& blobs, BlobId id, Bytes bytes);
Async<Result<Bytes>> read_bytes(Blobs& blobs, BlobId id, std::size_t bytes_max);

// The ETag of a blob made of parts. kInvalidArgument, as complete() says.
Result<std::string> etag_of_parts(const std::vector<Part>& parts);

}  // namespace proa::blob
