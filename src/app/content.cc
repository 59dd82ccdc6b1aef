// SPDX-License-Identifier: Apache-2.0
#include "app/content.h"

namespace proa::app {
namespace {

Result<std::vector<std::optional<std::uint64_t>>> sizes_of(const cas::ObjectStore& objects, const std::vector<Digest>& digests) {
  std::vector<std::optional<std::uint64_t>> out;
  for (const Digest& digest : digests) {
    if (digest == sha256("")) {
      out.emplace_back(0);  // Empty files need no object.
      continue;
    }
    const auto size = objects.size(digest);
    if (size.ok()) {
      out.emplace_back(*size);
    } else if (size.error().code == Code::kNotFound) {
      out.emplace_back(std::nullopt);
    } else {
      return size.error();
    }
  }
  return out;
}

Result<void> put_checked(cas::ObjectStore& objects, const Digest& expected, const Bytes& bytes) {
  if (sha256(bytes) != expected) return invalid_argument("the content is not what its SHA-256 says: " + expected.hex());
  PROA_TRY_VOID(objects.put_bytes(bytes));
  return {};
}

Result<std::uint64_t> take_over(cas::ObjectStore& objects, const Edge& edge, const Digest& expected, BlobId blob) {
  PROA_TRY(const OwnedFd file, edge.open_blob(blob));
  PROA_TRY(const cas::Stored stored, objects.put_fd(file.get()));
  if (stored.digest != expected) return invalid_argument("the content of blob " + blob.text() + " is not what its SHA-256 says: " + expected.hex());
  return stored.size_bytes;
}

}  // namespace

Async<Result<std::vector<std::optional<std::uint64_t>>>> ObjectContent::sizes(std::vector<Digest> digests) {
  const cas::ObjectStore* const objects = &objects_;
  auto work = [objects, digests = std::move(digests)] { return sizes_of(*objects, digests); };
  return run_in(pool_, loop_, std::move(work));
}

Async<Result<void>> ObjectContent::put_bytes(Digest expected, Bytes bytes) {
  cas::ObjectStore* const objects = &objects_;
  auto work = [objects, expected, bytes = std::move(bytes)] { return put_checked(*objects, expected, bytes); };
  return run_in(pool_, loop_, std::move(work));
}

Async<Result<std::uint64_t>> ObjectContent::put_blob(Digest expected, BlobId blob) {
  cas::ObjectStore* const objects = &objects_;
  const Edge* const edge = &edge_;
  auto work = [objects, edge, expected, blob] { return take_over(*objects, *edge, expected, blob); };
  auto taken = co_await run_in(pool_, loop_, std::move(work));
  if (taken.ok()) edge_.remove_blob(blob);
  co_return taken;
}

Async<Result<Digest>> ObjectContent::put_tree(cas::Tree tree) {
  cas::ObjectStore* const objects = &objects_;
  auto work = [objects, tree = std::move(tree)] { return objects->put_tree(tree); };
  return run_in(pool_, loop_, std::move(work));
}

}  // namespace proa::app
