// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's containers as seen from outside: listed, described, stopped. Translation only.
#pragma once

#include "api/modal/convert.h"

namespace proa::api::modal {

class TaskApi {
 public:
  TaskApi(control::Environments& environments, const control::Apps& apps, sched::Scheduler& scheduler)
      : environments_(environments), apps_(apps), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  Async<Result<pb::TaskListResponse>> list(Caller caller, pb::TaskListRequest request);
  Async<Result<pb::TaskGetInfoResponse>> info(Caller caller, pb::TaskGetInfoRequest request);
  Async<Result<pb::ContainerStopResponse>> stop(Caller caller, pb::ContainerStopRequest request);

  control::Environments& environments_;
  const control::Apps& apps_;
  sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
