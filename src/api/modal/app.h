// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's apps: from AppCreate to AppStop. Translation only; the rules are control::Apps's.
#pragma once

#include "api/modal/convert.h"

namespace proa::api::modal {

class AppApi {
 public:
  AppApi(control::Apps& apps, control::Environments& environments, sched::Scheduler& scheduler, const Handles& handles)
      : apps_(apps), environments_(environments), scheduler_(scheduler), handles_(handles) {}
  void bind(Router& router);
  // Makes the key without which an app's page is not shown. Containers are given addresses without one.
  void set_view_key(std::function<std::string(AppId)> make) { view_key_ = std::move(make); }

 private:
  using Empty = google::protobuf::Empty;
  Async<Result<pb::AppCreateResponse>> create(Caller caller, pb::AppCreateRequest request);
  Async<Result<pb::AppGetByDeploymentNameResponse>> by_name(Caller caller, pb::AppGetByDeploymentNameRequest request);
  Async<Result<pb::AppGetLayoutResponse>> layout(Caller caller, pb::AppGetLayoutRequest request);
  Async<Result<pb::AppPublishResponse>> publish(Caller caller, pb::AppPublishRequest request);
  Async<Result<pb::AppRollbackResponse>> rollback(Caller caller, pb::AppRollbackRequest request);
  Async<Result<Empty>> heartbeat(Caller caller, pb::AppHeartbeatRequest request);
  Async<Result<Empty>> disconnect(Caller caller, pb::AppClientDisconnectRequest request);
  Async<Result<pb::AppGetOrCreateResponse>> get_or_create(Caller caller, pb::AppGetOrCreateRequest request);
  Async<Result<Empty>> stop(Caller caller, pb::AppStopRequest request);
  Async<Result<pb::AppListResponse>> list(Caller caller, pb::AppListRequest request);
  Async<Result<pb::AppGetLifecycleResponse>> lifecycle(Caller caller, pb::AppGetLifecycleRequest request);
  Async<Result<pb::AppDeploymentHistoryResponse>> history(Caller caller, pb::AppDeploymentHistoryRequest request);
  Async<Result<Empty>> set_tags(Caller caller, pb::AppSetTagsRequest request);
  Async<Result<pb::AppGetTagsResponse>> get_tags(Caller caller, pb::AppGetTagsRequest request);
  Async<Result<pb::AppGetInfoResponse>> info(Caller caller, pb::AppGetInfoRequest request);

  Result<const control::App*> find(const std::string& id) const;
  std::string app_url(const Caller& caller, AppId app) const;

  control::Apps& apps_;
  control::Environments& environments_;
  sched::Scheduler& scheduler_;
  const Handles& handles_;
  std::function<std::string(AppId)> view_key_;
};

}  // namespace proa::api::modal
