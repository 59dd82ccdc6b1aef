// SPDX-License-Identifier: Apache-2.0
#include "api/modal/secret.h"

#include <algorithm>

namespace proa::api::modal {

using google::protobuf::Empty;

void SecretApi::bind(Router& router) {
  router.unary("SecretGetOrCreate", this, &SecretApi::get_or_create);
  router.unary("SecretList", this, &SecretApi::list);
  router.unary("SecretDelete", this, &SecretApi::remove);
  router.unary("SecretUpdate", this, &SecretApi::update);
  router.unary("SecretGetInfo", this, &SecretApi::info);
}

pb::SecretMetadata SecretApi::write(const control::Secret& secret) const {
  pb::SecretMetadata metadata;
  metadata.set_name(secret.name);
  metadata.mutable_creation_info()->set_created_at(write_time(secret.created));
  metadata.mutable_creation_info()->set_created_by(secret.created_by);
  for (const std::string& key : secret.keys) metadata.add_keys(key);
  metadata.set_environment_name(environments_.name_of(secret.environment));
  metadata.set_last_used_at(write_time(secret.used));
  return metadata;
}

Async<Result<pb::SecretGetOrCreateResponse>> SecretApi::get_or_create(Caller caller,
                                                                      pb::SecretGetOrCreateRequest request) {
  control::SecretRequest wanted{.name = request.deployment_name(),
                                .values = read_map(request.env_dict()),
                                .required_keys = {request.required_keys().begin(), request.required_keys().end()},
                                .by = author(caller)};
  PROA_CO_TRY(wanted.creation, read_creation(request.object_creation_type()));
  if (wanted.creation == control::Creation::kAnonymous) {
    PROA_CO_TRY(wanted.app, read_id<AppId>("App", request.app_id()));
    PROA_CO_TRY(const control::App* app, apps_.require(wanted.app));
    wanted.environment = app->environment;
  } else {
    PROA_CO_TRY(wanted.environment,
                environment_of(caller, request.environment_name(), environments_, apps_, scheduler_));
  }
  PROA_CO_TRY(const SecretId id, secrets_.get_or_create(std::move(wanted)));
  pb::SecretGetOrCreateResponse response;
  response.set_secret_id(id.text());
  *response.mutable_metadata() = write(*secrets_.find(id));
  co_return response;
}

Async<Result<pb::SecretListResponse>> SecretApi::list(Caller, pb::SecretListRequest request) {
  PROA_CO_TRY(const EnvironmentId environment, environments_.resolve(request.environment_name()));
  constexpr std::int32_t kPageMax = 100;
  const std::int32_t asked = request.pagination().max_objects();
  const auto page_max = static_cast<std::size_t>(asked <= 0 ? kPageMax : std::min(asked, kPageMax));
  pb::SecretListResponse response;
  response.set_environment_name(environments_.name_of(environment));
  for (const control::Secret* secret :
       secrets_.list(environment, read_seconds(request.pagination().created_before()), page_max)) {
    pb::SecretListItem& item = *response.add_items();
    item.set_label(secret->name);
    item.set_created_at(write_time(secret->created));
    item.set_last_used_at(write_time(secret->used));
    item.set_environment_name(response.environment_name());
    item.set_secret_id(secret->id.text());
    *item.mutable_metadata() = write(*secret);
  }
  co_return response;
}

Async<Result<Empty>> SecretApi::remove(Caller, pb::SecretDeleteRequest request) {
  PROA_CO_TRY(const SecretId id, read_id<SecretId>("Secret", request.secret_id()));
  PROA_CO_TRY_VOID(secrets_.remove(id));
  co_return Empty();
}

Async<Result<Empty>> SecretApi::update(Caller, pb::SecretUpdateRequest request) {
  PROA_CO_TRY(const SecretId id, read_id<SecretId>("Secret", request.secret_id()));
  std::vector<control::SecretChange> changes;
  for (const auto& update : request.updates()) {
    changes.push_back({update.key(), update.has_value() ? std::optional(update.value()) : std::nullopt});
  }
  PROA_CO_TRY_VOID(secrets_.update(id, changes));
  co_return Empty();
}

Async<Result<pb::SecretGetInfoResponse>> SecretApi::info(Caller, pb::SecretGetInfoRequest request) {
  PROA_CO_TRY(const SecretId id, read_id<SecretId>("Secret", request.secret_id()));
  PROA_CO_TRY(const control::Secret* secret, secrets_.require(id));
  pb::SecretGetInfoResponse response;
  *response.mutable_metadata() = write(*secret);
  co_return response;
}

}  // namespace proa::api::modal
