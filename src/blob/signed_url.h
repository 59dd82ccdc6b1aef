// SPDX-License-Identifier: Apache-2.0
//
// Signed URLs: a path that is its own permission to do one thing for a while. Clients send no credentials to them.
//
// The signature is an HMAC-SHA-256 of method, path, part, length and expiry: a URL for reading does not open writing,
// nor one for a part another part, nor one for 10 bytes 11. Comparison takes constant time. What a path names is for
// whoever signs. docs/formats/signed-urls.md. A value; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace proa::blob {

enum class UrlMethod : std::uint8_t { kGet, kPut, kPost };  // kGet includes HEAD.

struct UrlGrant {
  UrlMethod method = UrlMethod::kGet;
  std::string path;          // "/blob/bl-…": letters, digits and any of "/-._~", beginning with "/".
  std::uint32_t part = 0;    // Of an upload in parts; 0: the whole.
  std::uint64_t length = 0;  // Of what is written, or 0.
  Time expires;              // To the second.

  friend bool operator==(const UrlGrant&, const UrlGrant&) = default;
};

class UrlSigner {
 public:
  // Signs with the first key and accepts all, so that keys can be rotated. Keys are of 32 bytes or more.
  explicit UrlSigner(std::vector<Bytes> keys);

  // Path and query, to be put after "http://HOST:PORT".
  std::string sign(const UrlGrant& grant) const;
  // What `target`, the path and query of a request by `method` ("GET"), permits.
  //   kPermissionDenied  it was not signed here for that method, or it has expired.
  Result<UrlGrant> verify(std::string_view method, std::string_view target, Time now) const;

 private:
  std::vector<Bytes> keys_;
};

}  // namespace proa::blob
