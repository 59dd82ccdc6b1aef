// SPDX-License-Identifier: Apache-2.0
#include "blob/blob.h"

#include "base/digest.h"

namespace proa::blob {

Async<Result<Bytes>> put_bytes(Blobs& blobs, BlobId id, Bytes bytes) {
  PROA_CO_TRY(const auto upload, co_await blobs.put(id, bytes.size()));
  if (!bytes.empty()) PROA_CO_TRY_VOID(co_await upload->write(std::move(bytes)));
  co_return co_await upload->commit();
}

Async<Result<Bytes>> read_bytes(Blobs& blobs, BlobId id, std::size_t bytes_max) {
  PROA_CO_TRY(const auto download, co_await blobs.open(id));
  const std::uint64_t size_bytes = download->size_bytes();
  if (size_bytes > bytes_max) {
    co_return Error{Code::kOutOfRange, "blob " + id.text() + " has " + std::to_string(size_bytes) +
                                           " bytes, more than the " + std::to_string(bytes_max) + " wanted here"};
  }
  co_return co_await download->read(0, static_cast<std::size_t>(size_bytes));
}

Result<std::string> etag_of_parts(const std::vector<Part>& parts) {
  if (parts.empty()) return invalid_argument("an upload in parts needs at least one part");
  if (parts.size() > kPartsMax) return invalid_argument("an upload has 10000 parts at most");
  Bytes all;
  std::uint32_t before = 0;
  for (const Part& part : parts) {
    if (part.number <= before || part.number > kPartsMax) {
      return invalid_argument("the parts of an upload are numbered from 1, ascending, to 10000 at most");
    }
    before = part.number;
    auto raw = from_hex(part.etag);
    if (!raw.ok() || raw->size() != 16) {
      return invalid_argument("the ETag of part " + std::to_string(part.number) + " is not the one that was answered");
    }
    all += *raw;
  }
  return to_hex(md5(all)) + "-" + std::to_string(parts.size());
}

}  // namespace proa::blob
