// SPDX-License-Identifier: Apache-2.0
//
// SignedBlobs: BlobAccess over the Blobs seam and signed URLs. The path of a blob is "/blob/<id>"; whoever makes the
// URLs (api/) signs that path for one method, part and length.
#pragma once

#include "base/clock.h"
#include "blob/blob.h"
#include "blob/signed_url.h"
#include "gateway/blob_routes.h"

namespace proa::gateway {

class SignedBlobs final : public BlobAccess {
 public:
  // All outlive it. Keys may be rotated by assigning another signer to the one referred to.
  SignedBlobs(blob::Blobs& blobs, const blob::UrlSigner& signer, const Clock& clock)
      : blobs_(blobs), signer_(signer), clock_(clock) {}

  Async<Result<std::unique_ptr<Upload>>> put(std::string target, std::uint64_t length,
                                             rpc::ConnectionInfo peer) override;
  Async<Result<std::unique_ptr<Download>>> get(std::string target, rpc::ConnectionInfo peer) override;
  Async<Result<std::string>> complete(std::string target, std::vector<Part> parts, rpc::ConnectionInfo peer) override;

 private:
  struct Permit {
    blob::UrlGrant grant;
    BlobId id;
  };
  Result<Permit> permit(std::string_view method, const std::string& target) const;

  blob::Blobs& blobs_;
  const blob::UrlSigner& signer_;
  const Clock& clock_;
};

}  // namespace proa::gateway
