// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's blobs: where payloads go that are too big for a message. Only URLs are made here; bytes go by HTTP
// (gateway/).
#pragma once

#include "api/modal/convert.h"
#include "base/clock.h"
#include "blob/signed_url.h"

namespace proa::api::modal {

class BlobApi {
 public:
  struct Config {
    std::uint64_t bytes_max = std::uint64_t{1} << 40;
    std::uint64_t part_bytes = 64 << 20;  // Grows where a blob would have too many parts.
    Duration upload_life = std::chrono::hours(24);
    Duration download_life = std::chrono::hours(1);
  };

  BlobApi(Random& random, const Clock& clock, const blob::UrlSigner& signer, Config config)
      : random_(random), clock_(clock), signer_(signer), config_(config) {}
  void bind(Router& router);

 private:
  Async<Result<pb::BlobCreateResponse>> create(Caller caller, pb::BlobCreateRequest request);
  Async<Result<pb::BlobGetResponse>> get(Caller caller, pb::BlobGetRequest request);
  std::string url(const Caller& caller, blob::UrlMethod method, BlobId blob, std::uint32_t part, std::uint64_t length) const;

  Random& random_;
  const Clock& clock_;
  const blob::UrlSigner& signer_;
  const Config config_;
};

}  // namespace proa::api::modal
