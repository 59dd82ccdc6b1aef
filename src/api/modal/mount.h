// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's mounts. Translation only; the rules are control::Mounts's.
#pragma once

#include "api/modal/convert.h"
#include "control/mounts.h"

namespace proa::api::modal {

class MountApi {
 public:
  MountApi(control::Mounts& mounts, control::Environments& environments, const control::Apps& apps,
           const sched::Scheduler& scheduler)
      : mounts_(mounts), environments_(environments), apps_(apps), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  Async<Result<pb::MountBatchedCheckExistenceResponse>> check_existence(Caller caller,
                                                                        pb::MountBatchedCheckExistenceRequest request);
  Async<Result<pb::MountPutFileResponse>> put_file(Caller caller, pb::MountPutFileRequest request);
  Async<Result<pb::MountGetOrCreateResponse>> get_or_create(Caller caller, pb::MountGetOrCreateRequest request);

  control::Mounts& mounts_;
  control::Environments& environments_;
  const control::Apps& apps_;
  const sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
