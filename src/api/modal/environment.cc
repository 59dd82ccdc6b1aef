// SPDX-License-Identifier: Apache-2.0
#include "api/modal/environment.h"

#include <algorithm>
#include <array>

namespace proa::api::modal {
namespace {

using google::protobuf::Empty;

// What all clients that are served know; newer names would make the older ones fail.
constexpr std::array<std::string_view, 4> kBuilderVersions{"2023.12", "2024.04", "2024.10", "2025.06"};

Result<void> check_builder_version(const std::string& version) {
  if (version.empty() || std::find(kBuilderVersions.begin(), kBuilderVersions.end(), version) != kBuilderVersions.end())
    return {};
  return invalid_argument("The image builder version '" + version +
                          "' is not served; 2023.12, 2024.04, 2024.10 and 2025.06 are");
}

}  // namespace

void EnvironmentApi::bind(Router& router) {
  router.unary("EnvironmentGetOrCreate", this, &EnvironmentApi::get_or_create);
  router.unary("EnvironmentList", this, &EnvironmentApi::list);
  router.unary("EnvironmentCreate", this, &EnvironmentApi::create);
  router.unary("EnvironmentDelete", this, &EnvironmentApi::remove);
  router.unary("EnvironmentUpdate", this, &EnvironmentApi::update);
}

Async<Result<pb::EnvironmentGetOrCreateResponse>> EnvironmentApi::get_or_create(
    Caller caller, pb::EnvironmentGetOrCreateRequest request) {
  PROA_CO_TRY(const control::Creation creation, read_creation(request.object_creation_type()));
  const std::string& name = request.deployment_name();
  auto found = environment_of(caller, name, environments_, apps_, scheduler_);
  if (found.ok() && creation == control::Creation::kFailIfExists)
    co_return already_exists("Environment '" + name + "' already exists");
  if (!found.ok() && found.error().code == Code::kNotFound && creation != control::Creation::kLookup) {
    if (caller.kind == Caller::Kind::kContainer)
      co_return permission_denied("Environments are not made from within containers");
    found = environments_.create(name);
  }
  PROA_CO_TRY(const EnvironmentId id, std::move(found));
  pb::EnvironmentGetOrCreateResponse response;
  response.set_environment_id(id.text());
  response.mutable_metadata()->set_name(environments_.name_of(id));
  pb::EnvironmentSettings& settings = *response.mutable_metadata()->mutable_settings();
  settings.set_image_builder_version(environments_.builder_version(id));
  settings.set_webhook_suffix(environments_.find(id)->web_suffix);
  co_return response;
}

pb::EnvironmentListItem EnvironmentApi::write(const control::Environment& environment) const {
  pb::EnvironmentListItem item;
  item.set_name(environment.name);
  item.set_webhook_suffix(environment.web_suffix);
  item.set_created_at(write_time(environment.created));
  item.set_default_(environment.id == environments_.default_id());
  item.set_environment_id(environment.id.text());
  if (!environment.image_builder_version.empty()) item.set_image_builder_version(environment.image_builder_version);
  return item;
}

Async<Result<pb::EnvironmentListResponse>> EnvironmentApi::list(Caller, Empty) {
  pb::EnvironmentListResponse response;
  for (const control::Environment& environment : environments_.list()) *response.add_items() = write(environment);
  co_return response;
}

Async<Result<Empty>> EnvironmentApi::create(Caller caller, pb::EnvironmentCreateRequest request) {
  if (request.has_default_member_role() || !request.default_member_role_str().empty()) {
    caller.warn("Roles of members are not there yet: everybody with a token may use the environment.");
  }
  PROA_CO_TRY_VOID(check_builder_version(request.settings().image_builder_version()));
  PROA_CO_TRY_VOID(environments_.create(request.name()));
  if (!request.settings().image_builder_version().empty()) {
    PROA_CO_TRY_VOID(
        environments_.update(request.name(), {.image_builder_version = request.settings().image_builder_version()}));
  }
  co_return Empty();
}

Async<Result<Empty>> EnvironmentApi::remove(Caller, pb::EnvironmentDeleteRequest request) {
  PROA_CO_TRY_VOID(environments_.remove(request.name()));
  co_return Empty();
}

Async<Result<pb::EnvironmentListItem>> EnvironmentApi::update(Caller, pb::EnvironmentUpdateRequest request) {
  PROA_CO_TRY(const EnvironmentId id, environments_.resolve(request.current_name()));
  control::EnvironmentChange change;
  if (request.has_name()) change.name = request.name().value();
  if (request.has_web_suffix()) change.web_suffix = request.web_suffix().value();
  if (request.has_image_builder_version()) {
    PROA_CO_TRY_VOID(check_builder_version(request.image_builder_version()));
    change.image_builder_version = request.image_builder_version();
  }
  PROA_CO_TRY_VOID(environments_.update(request.current_name(), change));
  co_return write(*environments_.find(id));
}

}  // namespace proa::api::modal
