// SPDX-License-Identifier: Apache-2.0
#include "api/modal/blob.h"

#include <arpa/inet.h>

#include <algorithm>

#include "blob/blob.h"

namespace proa::api::modal {
namespace {

// Above this the Python client sends no real MD5 and expects to upload in parts.
constexpr std::uint64_t kSinglePutMax = 1 << 30;

bool uploads_whole_only(const Caller& caller) {
  return caller.client_type == std::to_string(pb::CLIENT_TYPE_LIBMODAL_JS) || caller.client_type == std::to_string(pb::CLIENT_TYPE_LIBMODAL_GO);
}

// The Python client uploads in one PUT only to hosts of which it knows what they are: localhost and private IPv4
// addresses among them. Parts go anywhere.
bool client_knows(const std::string& base_url) {
  const auto slashes = base_url.find("//");
  std::string host = base_url.substr(slashes == std::string::npos ? 0 : slashes + 2);
  host = host.substr(0, host.find(':'));
  if (host == "localhost") return true;
  in_addr address{};
  if (::inet_pton(AF_INET, host.c_str(), &address) != 1) return false;
  const std::uint32_t bits = ntohl(address.s_addr);
  return bits >> 24 == 127 || bits >> 24 == 10 || bits >> 20 == 0xac1 || bits >> 16 == 0xc0a8;
}

}  // namespace

void BlobApi::bind(Router& router) {
  router.unary("BlobCreate", this, &BlobApi::create);
  router.unary("BlobGet", this, &BlobApi::get);
}

std::string BlobApi::url(const Caller& caller, blob::UrlMethod method, BlobId blob, std::uint32_t part, std::uint64_t length) const {
  const Duration life = method == blob::UrlMethod::kGet ? config_.download_life : config_.upload_life;
  return caller.base_url + signer_.sign({.method = method, .path = "/blob/" + blob.text(), .part = part, .length = length, .expires = clock_.now() + life});
}

Async<Result<pb::BlobCreateResponse>> BlobApi::create(Caller caller, pb::BlobCreateRequest request) {
  if (request.content_length() < 0) co_return invalid_argument("A blob cannot have " + std::to_string(request.content_length()) + " bytes");
  const auto length = static_cast<std::uint64_t>(request.content_length());
  if (length > config_.bytes_max) {
    co_return resource_exhausted("A blob has at most " + std::to_string(config_.bytes_max >> 30) + " GiB, not " + std::to_string(length) + " bytes");
  }
  const BlobId id = BlobId::make(random_, clock_.now());
  pb::BlobCreateResponse response;
  // Both forms of the answer: Go and JS read blob_id and upload_url alone, Python the lists.
  response.set_blob_id(id.text());
  response.add_blob_ids(id.text());
  if (uploads_whole_only(caller) || (length <= kSinglePutMax && client_knows(caller.base_url))) {
    const std::string whole = url(caller, blob::UrlMethod::kPut, id, 0, length);
    response.set_upload_url(whole);
    response.mutable_upload_urls()->add_items(whole);
    co_return response;
  }
  const std::uint64_t part_bytes = std::max(config_.part_bytes, length / (blob::kPartsMax / 2) + 1);
  pb::MultiPartUpload* parts = response.mutable_multiparts()->add_items();
  parts->set_part_length(static_cast<std::int64_t>(part_bytes));
  std::uint32_t number = 0;
  std::uint64_t from = 0;
  do {
    const std::uint64_t count = std::min(part_bytes, length - from);
    parts->add_upload_urls(url(caller, blob::UrlMethod::kPut, id, ++number, count));
    from += count;
  } while (from < length);
  parts->set_completion_url(url(caller, blob::UrlMethod::kPost, id, 0, length));
  *response.mutable_multipart() = *parts;
  co_return response;
}

Async<Result<pb::BlobGetResponse>> BlobApi::get(Caller caller, pb::BlobGetRequest request) {
  PROA_CO_TRY(const BlobId id, read_id<BlobId>("Blob", request.blob_id()));
  pb::BlobGetResponse response;
  response.set_download_url(url(caller, blob::UrlMethod::kGet, id, 0, 0));
  co_return response;
}

}  // namespace proa::api::modal
