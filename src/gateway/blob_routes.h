// SPDX-License-Identifier: Apache-2.0
//
// BlobRoutes: bytes in and out by URL, as the SDKs want it: PUT of a whole blob or of a part, GET with ranges, and
// the POST that makes one blob of its parts. A URL is its own permission; what it permits, and where bytes are
// kept, is behind BlobAccess.
//
// On the HTTP server's loop. An upload that is abandoned leaves nothing behind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gateway/http.h"

namespace proa::gateway {

// What the routes need of whoever signs URLs and keeps blobs.
class BlobAccess {
 public:
  // Takes the bytes of one PUT, in order. Destroyed before commit() is done, it forgets them.
  class Upload {
   public:
    struct Stored {
      Bytes md5;     // Of these bytes, raw. The answer's ETag.
      Bytes answer;  // The answer's body; usually empty.
    };
    virtual ~Upload() = default;
    virtual Async<Result<void>> write(Bytes bytes) = 0;
    // Durable once this is done.
    virtual Async<Result<Stored>> commit() = 0;
  };
  class Download {
   public:
    virtual ~Download() = default;
    virtual std::uint64_t size() const = 0;
    // `length` bytes or fewer, but not none, from `offset` < size().
    virtual Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) = 0;
  };
  struct Part {
    std::uint32_t number = 0;
    std::string etag;  // Without quotes.
  };

  virtual ~BlobAccess() = default;
  // Each checks that `target` (path and query) is a URL signed for just that, and has not expired.
  //   kPermissionDenied  it is not;  kNotFound  there is no such blob;  kResourceExhausted  the disk is full.
  // `length` is what the peer announces: kInvalidArgument if the URL is for another.
  virtual Async<Result<std::unique_ptr<Upload>>> put(std::string target, std::uint64_t length,
                                                     rpc::ConnectionInfo peer) = 0;
  virtual Async<Result<std::unique_ptr<Download>>> get(std::string target, rpc::ConnectionInfo peer) = 0;
  // Makes the blob of its parts; answers the ETag of the whole ("<hex>-<count>").
  virtual Async<Result<std::string>> complete(std::string target, std::vector<Part> parts,
                                              rpc::ConnectionInfo peer) = 0;
};

class BlobRoutes final : public HttpHandler {
 public:
  explicit BlobRoutes(BlobAccess& access) : access_(access) {}
  Async<> handle(HttpExchange& exchange) override;

 private:
  Async<Result<void>> put(HttpExchange& exchange);
  Async<Result<void>> get(HttpExchange& exchange);
  Async<Result<void>> complete(HttpExchange& exchange);

  BlobAccess& access_;
};

// Of "bytes=a-b", "bytes=a-" or "bytes=-n" over `size` bytes: the first byte and the count. Anything else, also
// several ranges, is the whole; nothing if the range lies outside.
struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool whole = true;
};
std::optional<ByteRange> parse_range(std::string_view field, std::uint64_t size);

// The parts named in a CompleteMultipartUpload document. kInvalidArgument.
Result<std::vector<BlobAccess::Part>> parse_parts(std::string_view xml);

}  // namespace proa::gateway
