// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's environments. Translation only; the rules are control::Environments's.
#pragma once

#include "api/modal/convert.h"

namespace proa::api::modal {

class EnvironmentApi {
 public:
  EnvironmentApi(control::Environments& environments, const control::Apps& apps, const sched::Scheduler& scheduler)
      : environments_(environments), apps_(apps), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  using Empty = google::protobuf::Empty;
  Async<Result<pb::EnvironmentGetOrCreateResponse>> get_or_create(Caller caller,
                                                                  pb::EnvironmentGetOrCreateRequest request);
  Async<Result<pb::EnvironmentListResponse>> list(Caller caller, Empty request);
  Async<Result<Empty>> create(Caller caller, pb::EnvironmentCreateRequest request);
  Async<Result<Empty>> remove(Caller caller, pb::EnvironmentDeleteRequest request);
  Async<Result<pb::EnvironmentListItem>> update(Caller caller, pb::EnvironmentUpdateRequest request);

  pb::EnvironmentListItem write(const control::Environment& environment) const;

  control::Environments& environments_;
  const control::Apps& apps_;
  const sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
