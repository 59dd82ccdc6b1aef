// SPDX-License-Identifier: Apache-2.0
#include "gateway/signed_blobs.h"

namespace proa::gateway {
namespace {

constexpr std::string_view kPrefix = "/blob/";

class StoredUpload final : public BlobAccess::Upload {
 public:
  explicit StoredUpload(std::unique_ptr<blob::Upload> upload) : upload_(std::move(upload)) {}
  Async<Result<void>> write(Bytes bytes) override { return upload_->write(std::move(bytes)); }
  Async<Result<Stored>> commit() override {
    PROA_CO_TRY(Bytes md5, co_await upload_->commit());
    co_return Stored{std::move(md5), {}};
  }

 private:
  std::unique_ptr<blob::Upload> upload_;
};

class StoredDownload final : public BlobAccess::Download {
 public:
  explicit StoredDownload(std::unique_ptr<blob::Download> download) : download_(std::move(download)) {}
  std::uint64_t size() const override { return download_->size_bytes(); }
  Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) override {
    return download_->read(offset, length);
  }

 private:
  std::unique_ptr<blob::Download> download_;
};

}  // namespace

Result<SignedBlobs::Permit> SignedBlobs::permit(std::string_view method, const std::string& target) const {
  PROA_TRY(blob::UrlGrant grant, signer_.verify(method, target, clock_.now()));
  // Signed by us, but perhaps for something that is no blob.
  if (!grant.path.starts_with(kPrefix)) return permission_denied("this URL is for something else than a blob");
  PROA_TRY(const BlobId id, BlobId::parse(grant.path.substr(kPrefix.size())));
  return Permit{std::move(grant), id};
}

Async<Result<std::unique_ptr<BlobAccess::Upload>>> SignedBlobs::put(std::string target, std::uint64_t length,
                                                                    rpc::ConnectionInfo) {
  PROA_CO_TRY(const Permit permit, this->permit("PUT", target));
  if (length != permit.grant.length) {
    co_return invalid_argument("the URL was made for " + std::to_string(permit.grant.length) +
                               " bytes, and the request announces " + std::to_string(length));
  }
  std::unique_ptr<blob::Upload> upload;
  if (permit.grant.part == 0) {
    PROA_CO_TRY(upload, co_await blobs_.put(permit.id, length));
  } else {
    PROA_CO_TRY(upload, co_await blobs_.put_part(permit.id, permit.grant.part, length));
  }
  co_return std::unique_ptr<Upload>(std::make_unique<StoredUpload>(std::move(upload)));
}

Async<Result<std::unique_ptr<BlobAccess::Download>>> SignedBlobs::get(std::string target, rpc::ConnectionInfo) {
  PROA_CO_TRY(const Permit permit, this->permit("GET", target));
  PROA_CO_TRY(auto download, co_await blobs_.open(permit.id));
  co_return std::unique_ptr<Download>(std::make_unique<StoredDownload>(std::move(download)));
}

Async<Result<std::string>> SignedBlobs::complete(std::string target, std::vector<Part> parts, rpc::ConnectionInfo) {
  PROA_CO_TRY(const Permit permit, this->permit("POST", target));
  std::vector<blob::Part> stored;
  stored.reserve(parts.size());
  for (Part& part : parts) stored.push_back({part.number, std::move(part.etag)});
  co_return co_await blobs_.complete(permit.id, std::move(stored), permit.grant.length);
}

}  // namespace proa::gateway
