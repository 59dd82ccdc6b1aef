// SPDX-License-Identifier: Apache-2.0
#include "api/modal/mount.h"

namespace proa::api::modal {
namespace {

constexpr int kHashesMax = 1000;  // Clients send at most 64.

Result<Digest> read_digest(const std::string& hex) {
  auto digest = Digest::from_hex(hex);
  if (!digest.ok()) return invalid_argument("'" + hex.substr(0, 80) + "' is not a SHA-256 in hexadecimal");
  return digest;
}

}  // namespace

void MountApi::bind(Router& router) {
  router.unary("MountBatchedCheckExistence", this, &MountApi::check_existence);
  router.unary("MountPutFile", this, &MountApi::put_file);
  router.unary("MountGetOrCreate", this, &MountApi::get_or_create);
}

Async<Result<pb::MountBatchedCheckExistenceResponse>> MountApi::check_existence(
    Caller, pb::MountBatchedCheckExistenceRequest request) {
  if (request.sha256_hex_hashes_size() > kHashesMax)
    co_return invalid_argument("At most 1000 files are asked about at once");
  std::vector<Digest> contents;
  for (const std::string& hex : request.sha256_hex_hashes()) {
    PROA_CO_TRY(const Digest content, read_digest(hex));
    contents.push_back(content);
  }
  PROA_CO_TRY(const auto missing, co_await mounts_.missing(std::move(contents)));
  pb::MountBatchedCheckExistenceResponse response;
  for (const Digest& content : missing) response.add_missing_sha256_hex_hashes(content.hex());
  co_return response;
}

Async<Result<pb::MountPutFileResponse>> MountApi::put_file(Caller, pb::MountPutFileRequest request) {
  PROA_CO_TRY(const Digest content, read_digest(request.sha256_hex()));
  pb::MountPutFileResponse response;
  response.set_exists(true);
  if (request.has_data_blob_id()) {
    PROA_CO_TRY(const BlobId blob, read_id<BlobId>("Blob", request.data_blob_id()));
    PROA_CO_TRY_VOID(co_await mounts_.put_blob(content, blob));
  } else if (request.has_data()) {
    PROA_CO_TRY_VOID(co_await mounts_.put(content, std::move(*request.mutable_data())));
  } else {
    // Without bytes it is a question.
    PROA_CO_TRY(const auto missing, co_await mounts_.missing({content}));
    response.set_exists(missing.empty());
  }
  co_return response;
}

Async<Result<pb::MountGetOrCreateResponse>> MountApi::get_or_create(Caller caller,
                                                                    pb::MountGetOrCreateRequest request) {
  control::MountRequest wanted{.global = request.namespace_() == pb::DEPLOYMENT_NAMESPACE_GLOBAL,
                               .name = request.deployment_name()};
  PROA_CO_TRY(wanted.creation, read_creation(request.object_creation_type()));
  if (wanted.creation == control::Creation::kAnonymous) {
    PROA_CO_TRY(wanted.app, read_id<AppId>("App", request.app_id()));
    PROA_CO_TRY_VOID(apps_.require(wanted.app));
  } else if (!wanted.global) {
    PROA_CO_TRY(wanted.environment,
                environment_of(caller, request.environment_name(), environments_, apps_, scheduler_));
  }
  wanted.files.reserve(static_cast<std::size_t>(request.files_size()));
  for (const pb::MountFile& file : request.files()) {
    PROA_CO_TRY(const Digest content, read_digest(file.sha256_hex()));
    wanted.files.push_back({.path = file.filename(), .content = content, .mode = file.has_mode() ? file.mode() : 0644});
  }
  PROA_CO_TRY(const MountId id, co_await mounts_.get_or_create(std::move(wanted)));
  PROA_CO_TRY(const control::Mount* mount, mounts_.require(id));
  pb::MountGetOrCreateResponse response;
  response.set_mount_id(id.text());
  response.mutable_handle_metadata()->set_content_checksum_sha256_hex(mount->checksum());
  co_return response;
}

}  // namespace proa::api::modal
