// SPDX-License-Identifier: Apache-2.0
#include "api/modal/app.h"

#include <unordered_map>

namespace proa::api::modal {
namespace {

using google::protobuf::Empty;

constexpr std::size_t kExceptionBytesMax = 1000;

std::string write_reason(const pb::AppClientDisconnectRequest& request) {
  const std::string said = request.exception().empty() ? "" : ": " + request.exception().substr(0, kExceptionBytesMax);
  switch (request.reason()) {
    case pb::APP_DISCONNECT_REASON_LOCAL_EXCEPTION: return "its client failed" + said;
    case pb::APP_DISCONNECT_REASON_KEYBOARD_INTERRUPT: return "its client was interrupted";
    case pb::APP_DISCONNECT_REASON_ENTRYPOINT_COMPLETED: return "its client was done";
    case pb::APP_DISCONNECT_REASON_DEPLOYMENT_EXCEPTION: return "its deployment failed" + said;
    case pb::APP_DISCONNECT_REASON_REMOTE_EXCEPTION: return "a function of it failed" + said;
    default: return "its client left" + said;
  }
}

std::string write_source(pb::AppStopSource source) {
  switch (source) {
    case pb::APP_STOP_SOURCE_CLI: return "stopped from the command line";
    case pb::APP_STOP_SOURCE_PYTHON_CLIENT: return "stopped by a program";
    case pb::APP_STOP_SOURCE_WEB: return "stopped from the dashboard";
    default: return "stopped";
  }
}

Result<std::optional<control::AppState>> read_published_state(pb::AppState state) {
  switch (state) {
    case pb::APP_STATE_UNSPECIFIED: return std::optional<control::AppState>();
    case pb::APP_STATE_EPHEMERAL: return std::optional(control::AppState::kEphemeral);
    case pb::APP_STATE_DETACHED: return std::optional(control::AppState::kDetached);
    case pb::APP_STATE_DEPLOYED: return std::optional(control::AppState::kDeployed);
    default: return invalid_argument("An app is not published in the state " + std::to_string(state));
  }
}

Result<control::Publication> read_publication(const pb::AppPublishRequest& request) {
  if (request.staged()) return unimplemented("Staged deployments are not there yet: deploy without --staged");
  control::Publication publication;
  PROA_TRY(publication.app, read_id<AppId>("App", request.app_id()));
  PROA_TRY(publication.state, read_published_state(request.app_state()));
  publication.name = request.name();
  for (const auto& [tag, text] : request.function_ids()) {
    PROA_TRY(publication.functions[tag], read_id<FunctionId>("Function", text));
  }
  for (const auto& [tag, text] : request.class_ids()) {
    PROA_TRY(publication.classes[tag], read_id<ClassId>("Class", text));
  }
  for (const auto& [function, definition] : request.definition_ids()) {
    // Clients also send what has no definition of its own, with nothing beside it.
    if (definition.empty() || !function.starts_with("fu-")) continue;
    PROA_TRY(const FunctionId id, read_id<FunctionId>("Function", function));
    PROA_TRY(publication.definitions[id], read_id<DefinitionId>("Definition", definition));
  }
  publication.tags = read_map(request.tags());
  publication.deployment_tag = request.deployment_tag();
  publication.client_version = request.client_version();
  if (request.has_commit_info()) publication.commit_info = serialize(request.commit_info());
  return publication;
}

}  // namespace

void AppApi::bind(Router& router) {
  router.unary("AppCreate", this, &AppApi::create);
  router.unary("AppGetByDeploymentName", this, &AppApi::by_name);
  router.unary("AppGetLayout", this, &AppApi::layout);
  router.unary("AppPublish", this, &AppApi::publish);
  router.unary("AppRollback", this, &AppApi::rollback);
  router.unary("AppHeartbeat", this, &AppApi::heartbeat);
  router.unary("AppClientDisconnect", this, &AppApi::disconnect);
  router.unary("AppGetOrCreate", this, &AppApi::get_or_create);
  router.unary("AppStop", this, &AppApi::stop);
  router.unary("AppList", this, &AppApi::list);
  router.unary("AppGetLifecycle", this, &AppApi::lifecycle);
  router.unary("AppDeploymentHistory", this, &AppApi::history);
  router.unary("AppSetTags", this, &AppApi::set_tags);
  router.unary("AppGetTags", this, &AppApi::get_tags);
  router.unary("AppGetInfo", this, &AppApi::info);
}

Result<const control::App*> AppApi::find(const std::string& text) const {
  PROA_TRY(const AppId id, read_id<AppId>("App", text));
  return apps_.require(id);
}

std::string AppApi::app_url(const Caller& caller, AppId app) const {
  const bool for_person = view_key_ && caller.kind == Caller::Kind::kClient;
  return page_url(caller, "/apps/" + app.text() + (for_person ? "?key=" + view_key_(app) : ""));
}

Async<Result<pb::AppCreateResponse>> AppApi::create(Caller caller, pb::AppCreateRequest request) {
  control::NewApp app{
      .description = request.description(), .tags = read_map(request.tags()), .created_by = author(caller)};
  PROA_CO_TRY(app.environment, environments_.resolve(request.environment_name()));
  switch (request.app_state()) {
    case pb::APP_STATE_UNSPECIFIED:
    case pb::APP_STATE_EPHEMERAL: app.state = control::AppState::kEphemeral; break;
    case pb::APP_STATE_DETACHED: app.state = control::AppState::kDetached; break;
    case pb::APP_STATE_INITIALIZING: app.state = control::AppState::kInitializing; break;
    default: co_return invalid_argument("An app does not begin in the state " + std::to_string(request.app_state()));
  }
  PROA_CO_TRY(const AppId id, apps_.create(std::move(app)));
  pb::AppCreateResponse response;
  response.set_app_id(id.text());
  const std::string url = app_url(caller, id);
  response.set_app_page_url(url);
  response.set_app_logs_url(url);
  co_return response;
}

Async<Result<pb::AppGetByDeploymentNameResponse>> AppApi::by_name(Caller, pb::AppGetByDeploymentNameRequest request) {
  PROA_CO_TRY(const EnvironmentId environment, environments_.resolve(request.environment_name()));
  pb::AppGetByDeploymentNameResponse response;
  response.set_environment_name(environments_.name_of(environment));
  response.set_previous_app_id(apps_.previous(environment, request.name()).text());
  const auto found = apps_.get(environment, request.name(), control::Lookup::kExisting);
  if (!found.ok() && found.error().code != Code::kNotFound) co_return found.error();
  if (found.ok()) {
    response.set_app_id(found->text());
    *response.mutable_lifecycle() = handles_.lifecycle(*apps_.find(*found));
  }
  co_return response;
}

Async<Result<pb::AppGetLayoutResponse>> AppApi::layout(Caller, pb::AppGetLayoutRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  pb::AppGetLayoutResponse response;
  *response.mutable_app_layout() = handles_.layout(*app);
  co_return response;
}

Async<Result<pb::AppPublishResponse>> AppApi::publish(Caller caller, pb::AppPublishRequest request) {
  PROA_CO_TRY(control::Publication publication, read_publication(request));
  publication.deployed_by = author(caller);
  if (publication.client_version.empty()) publication.client_version = caller.client_version;
  const AppId app = publication.app;
  PROA_CO_TRY(const control::Published published, apps_.publish(std::move(publication)));
  pb::AppPublishResponse response;
  response.set_url(app_url(caller, app));
  response.set_deployed_at(write_time(published.at));
  co_return response;
}

Async<Result<pb::AppRollbackResponse>> AppApi::rollback(Caller caller, pb::AppRollbackRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  const AppId id = app->id;
  // Below 0 it counts back from what runs now.
  const std::int64_t version =
      request.version() > 0 ? request.version() : std::int64_t{app->version} + request.version();
  if (version <= 0 || request.version() == 0) co_return not_found("There is no such version of the app to go back to");
  PROA_CO_TRY(const control::Published published,
              apps_.rollback(id, static_cast<std::uint32_t>(version), author(caller)));
  pb::AppRollbackResponse response;
  response.set_url(app_url(caller, id));
  response.set_deployed_at(write_time(published.at));
  co_return response;
}

Async<Result<Empty>> AppApi::heartbeat(Caller, pb::AppHeartbeatRequest request) {
  PROA_CO_TRY(const AppId id, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY_VOID(apps_.heartbeat(id));
  co_return Empty();
}

Async<Result<Empty>> AppApi::disconnect(Caller, pb::AppClientDisconnectRequest request) {
  PROA_CO_TRY(const AppId id, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY_VOID(apps_.client_disconnect(id, write_reason(request)));
  co_return Empty();
}

Async<Result<pb::AppGetOrCreateResponse>> AppApi::get_or_create(Caller caller, pb::AppGetOrCreateRequest request) {
  pb::AppGetOrCreateResponse response;
  AppId id;
  if (const auto named = AppId::parse(request.app_name()); named.ok()) {
    PROA_CO_TRY_VOID(apps_.require(*named));
    id = *named;
  } else {
    PROA_CO_TRY(const EnvironmentId environment,
                environment_of(caller, request.environment_name(), environments_, apps_, scheduler_));
    PROA_CO_TRY(const control::Creation creation, read_creation(request.object_creation_type()));
    if (creation != control::Creation::kLookup && creation != control::Creation::kCreateIfMissing) {
      co_return invalid_argument("An app is looked up, or created if it is missing, and nothing else");
    }
    const auto lookup =
        creation == control::Creation::kLookup ? control::Lookup::kExisting : control::Lookup::kCreateIfMissing;
    PROA_CO_TRY(id, apps_.get(environment, request.app_name(), lookup, author(caller)));
  }
  response.set_app_id(id.text());
  *response.mutable_handle_metadata() = handles_.app(*apps_.find(id));
  co_return response;
}

Async<Result<Empty>> AppApi::stop(Caller, pb::AppStopRequest request) {
  PROA_CO_TRY(const AppId id, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY_VOID(apps_.stop(id, write_source(request.source())));
  co_return Empty();
}

Async<Result<pb::AppListResponse>> AppApi::list(Caller, pb::AppListRequest request) {
  PROA_CO_TRY(const EnvironmentId environment, environments_.resolve(request.environment_name()));
  std::unordered_map<AppId, std::int32_t> running;
  for (const sched::TaskView& task : scheduler_.tasks({})) ++running[task.app];
  pb::AppListResponse response;
  for (const AppId id : apps_.list(environment)) {
    const control::App& app = *apps_.find(id);
    auto& item = *response.add_apps();
    item.set_app_id(id.text());
    item.set_description(app.name.empty() ? app.description : app.name);
    item.set_state(write_app_state(app.state));
    item.set_created_at(write_time(app.created));
    if (!app.live()) item.set_stopped_at(write_time(app.stopped));
    item.set_n_running_tasks(running[id]);
    item.set_name(app.name);
    *item.mutable_metadata() = handles_.app(app);
  }
  co_return response;
}

Async<Result<pb::AppGetLifecycleResponse>> AppApi::lifecycle(Caller, pb::AppGetLifecycleRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  pb::AppGetLifecycleResponse response;
  *response.mutable_lifecycle() = handles_.lifecycle(*app);
  co_return response;
}

Async<Result<pb::AppDeploymentHistoryResponse>> AppApi::history(Caller, pb::AppDeploymentHistoryRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  pb::AppDeploymentHistoryResponse response;
  response.set_production_app_version(app->version);
  for (const control::Deployment& deployment : apps_.deployments(app->id)) {
    pb::AppDeploymentHistory& item = *response.add_app_deployment_histories();
    item.set_app_id(app->id.text());
    item.set_version(deployment.version);
    item.set_client_version(deployment.client_version);
    item.set_deployed_at(write_time(deployment.deployed));
    item.set_deployed_by(deployment.deployed_by);
    item.set_tag(deployment.tag);
    item.set_rollback_version(deployment.rollback_of);
    item.set_rollback_allowed(app->live() && deployment.version != app->version);
    item.set_deployment_type(deployment.rollback_of == 0 ? pb::DEPLOYMENT_TYPE_STANDARD : pb::DEPLOYMENT_TYPE_ROLLBACK);
    if (!deployment.commit_info.empty() && !item.mutable_commit_info()->ParseFromString(deployment.commit_info))
      item.clear_commit_info();
  }
  co_return response;
}

Async<Result<Empty>> AppApi::set_tags(Caller, pb::AppSetTagsRequest request) {
  PROA_CO_TRY(const AppId id, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY_VOID(apps_.set_tags(id, read_map(request.tags())));
  co_return Empty();
}

Async<Result<pb::AppGetTagsResponse>> AppApi::get_tags(Caller, pb::AppGetTagsRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  pb::AppGetTagsResponse response;
  for (const auto& [key, value] : app->tags) (*response.mutable_tags())[key] = value;
  co_return response;
}

Async<Result<pb::AppGetInfoResponse>> AppApi::info(Caller, pb::AppGetInfoRequest request) {
  PROA_CO_TRY(const control::App* app, find(request.app_id()));
  pb::AppGetInfoResponse response;
  *response.mutable_info() = handles_.app(*app);
  for (const auto& [tag, id] : app->functions) {
    const auto definition = handles_.definition(id, Handles::Which::kCurrent);
    if (!definition.ok()) continue;
    auto& summary = (*response.mutable_function_info_summaries())[id.text()];
    if (definition->resources().has_gpu_config()) *summary.add_gpu_config() = definition->resources().gpu_config();
    if (definition->has_schedule()) *summary.mutable_schedule() = definition->schedule();
    summary.set_web_function(definition->has_webhook_config() &&
                             definition->webhook_config().type() != pb::WEBHOOK_TYPE_UNSPECIFIED);
    summary.set_requires_proxy_auth(definition->webhook_config().requires_proxy_auth());
  }
  co_return response;
}

}  // namespace proa::api::modal
