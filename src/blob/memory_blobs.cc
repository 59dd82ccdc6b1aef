// SPDX-License-Identifier: Apache-2.0
#include "blob/memory_blobs.h"

#include <utility>

#include "base/digest.h"

namespace proa::blob {
namespace {

Error missing(BlobId id) { return not_found("blob " + id.text() + " is not there (any more)"); }

class MemoryDownload final : public Download {
 public:
  explicit MemoryDownload(std::shared_ptr<const Bytes> bytes) : bytes_(std::move(bytes)) {}
  std::uint64_t size_bytes() const override { return bytes_->size(); }
  Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) override {
    if (offset >= bytes_->size()) co_return Bytes();
    co_return bytes_->substr(static_cast<std::size_t>(offset), length);
  }

 private:
  std::shared_ptr<const Bytes> bytes_;
};

}  // namespace

class MemoryBlobs::MemoryUpload final : public Upload {
 public:
  MemoryUpload(MemoryBlobs& blobs, BlobId id, std::uint32_t part, std::uint64_t length)
      : blobs_(blobs), id_(id), part_(part), length_(length) {}

  Async<Result<void>> write(Bytes bytes) override {
    if (done_) co_return failed_precondition("the upload has been committed");
    if (bytes.size() > length_ - bytes_.size()) {
      co_return invalid_argument("more bytes than the " + std::to_string(length_) + " that were announced");
    }
    bytes_ += bytes;
    co_return Result<void>();
  }
  Async<Result<Bytes>> commit() override {
    if (std::exchange(done_, true)) co_return failed_precondition("the upload has been committed");
    if (bytes_.size() != length_) {
      co_return invalid_argument(std::to_string(bytes_.size()) + " bytes of the " + std::to_string(length_) +
                                 " that were announced");
    }
    co_return blobs_.commit(id_, part_, std::move(bytes_));
  }

 private:
  MemoryBlobs& blobs_;
  BlobId id_;
  std::uint32_t part_;
  std::uint64_t length_;
  Bytes bytes_;
  bool done_ = false;
};

Result<Bytes> MemoryBlobs::commit(BlobId id, std::uint32_t part, Bytes bytes) {
  Bytes hash = md5(bytes);
  if (part != 0) {
    parts_[id][part] = std::move(bytes);
    return hash;
  }
  const auto [place, added] = blobs_.try_emplace(id, nullptr);
  if (!added && *place->second != bytes) {
    return already_exists("blob " + id.text() + " is there already, with other bytes");
  }
  if (added) place->second = std::make_shared<const Bytes>(std::move(bytes));
  return hash;
}

Async<Result<std::unique_ptr<Upload>>> MemoryBlobs::put(BlobId id, std::uint64_t length) {
  co_return std::unique_ptr<Upload>(new MemoryUpload(*this, id, 0, length));
}

Async<Result<std::unique_ptr<Upload>>> MemoryBlobs::put_part(BlobId id, std::uint32_t number, std::uint64_t length) {
  if (number == 0 || number > kPartsMax) co_return invalid_argument("the parts of an upload are numbered 1 to 10000");
  co_return std::unique_ptr<Upload>(new MemoryUpload(*this, id, number, length));
}

Async<Result<std::string>> MemoryBlobs::complete(BlobId id, std::vector<Part> parts, std::uint64_t length) {
  PROA_CO_TRY(std::string etag, etag_of_parts(parts));
  if (const auto there = blobs_.find(id); there != blobs_.end()) {
    if (there->second->size() != length) {
      co_return failed_precondition("blob " + id.text() + " is there with another length");
    }
    parts_.erase(id);
    co_return etag;
  }
  Bytes whole;
  const auto& uploaded = parts_[id];
  for (const Part& part : parts) {
    const auto found = uploaded.find(part.number);
    if (found == uploaded.end() || to_hex(md5(found->second)) != part.etag) {
      co_return invalid_argument("part " + std::to_string(part.number) + " of blob " + id.text() +
                                 " was not uploaded with the ETag " + part.etag);
    }
    whole += found->second;
  }
  if (whole.size() != length) {
    co_return failed_precondition("the parts of blob " + id.text() + " have " + std::to_string(whole.size()) +
                                  " bytes, not " + std::to_string(length));
  }
  blobs_[id] = std::make_shared<const Bytes>(std::move(whole));
  parts_.erase(id);
  co_return etag;
}

Async<Result<std::unique_ptr<Download>>> MemoryBlobs::open(BlobId id) {
  const auto found = blobs_.find(id);
  if (found == blobs_.end()) co_return missing(id);
  co_return std::unique_ptr<Download>(new MemoryDownload(found->second));
}

Async<Result<std::uint64_t>> MemoryBlobs::size(BlobId id) {
  const auto found = blobs_.find(id);
  if (found == blobs_.end()) co_return missing(id);
  co_return std::uint64_t{found->second->size()};
}

Async<Result<void>> MemoryBlobs::remove(BlobId id) {
  blobs_.erase(id);
  parts_.erase(id);
  co_return Result<void>();
}

}  // namespace proa::blob
