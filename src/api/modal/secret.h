// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's secrets. Translation only; the rules are control::Secrets's. Values go in and never out.
#pragma once

#include "api/modal/convert.h"

namespace proa::api::modal {

class SecretApi {
 public:
  SecretApi(control::Secrets& secrets, control::Environments& environments, const control::Apps& apps,
            const sched::Scheduler& scheduler)
      : secrets_(secrets), environments_(environments), apps_(apps), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  using Empty = google::protobuf::Empty;
  Async<Result<pb::SecretGetOrCreateResponse>> get_or_create(Caller caller, pb::SecretGetOrCreateRequest request);
  Async<Result<pb::SecretListResponse>> list(Caller caller, pb::SecretListRequest request);
  Async<Result<Empty>> remove(Caller caller, pb::SecretDeleteRequest request);
  Async<Result<Empty>> update(Caller caller, pb::SecretUpdateRequest request);
  Async<Result<pb::SecretGetInfoResponse>> info(Caller caller, pb::SecretGetInfoRequest request);

  pb::SecretMetadata write(const control::Secret& secret) const;

  control::Secrets& secrets_;
  control::Environments& environments_;
  const control::Apps& apps_;
  const sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
