// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's functions and classes: declared, looked up, bound to parameters, scaled. Translation only;
// the rules are control::Apps's.
#pragma once

#include "api/modal/convert.h"

namespace proa::api::modal {

class FunctionApi {
 public:
  FunctionApi(control::Apps& apps, control::Environments& environments, const sched::Scheduler& scheduler,
              const Handles& handles)
      : apps_(apps), environments_(environments), scheduler_(scheduler), handles_(handles) {}
  void bind(Router& router);

 private:
  Async<Result<pb::FunctionPrecreateResponse>> precreate(Caller caller, pb::FunctionPrecreateRequest request);
  Async<Result<pb::FunctionCreateResponse>> create(Caller caller, pb::FunctionCreateRequest request);
  Async<Result<pb::FunctionGetResponse>> get(Caller caller, pb::FunctionGetRequest request);
  Async<Result<pb::FunctionGetByIdResponse>> get_by_id(Caller caller, pb::FunctionGetByIdRequest request);
  Async<Result<pb::ClassCreateResponse>> create_class(Caller caller, pb::ClassCreateRequest request);
  Async<Result<pb::ClassGetResponse>> get_class(Caller caller, pb::ClassGetRequest request);
  Async<Result<pb::FunctionBindParamsResponse>> bind_params(Caller caller, pb::FunctionBindParamsRequest request);
  Async<Result<pb::FunctionUpdateSchedulingParamsResponse>> update_scaling(
      Caller caller, pb::FunctionUpdateSchedulingParamsRequest request);
  Async<Result<pb::FunctionGetSchedulingParamsResponse>> get_scaling(Caller caller,
                                                                     pb::FunctionGetSchedulingParamsRequest request);

  Result<void> check_version(EnvironmentId environment, const std::string& app, std::int32_t version) const;

  control::Apps& apps_;
  control::Environments& environments_;
  const sched::Scheduler& scheduler_;
  const Handles& handles_;
};

}  // namespace proa::api::modal
