// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's greetings, tokens and logins. Translation only; the rules are control::Access's.
#pragma once

#include "api/modal/convert.h"
#include "control/access.h"

namespace proa::api::modal {

class TokenApi {
 public:
  TokenApi(Loop& loop, control::Access& access) : loop_(loop), access_(access) {}
  void bind(Router& router);

 private:
  using Empty = google::protobuf::Empty;
  Async<Result<pb::ClientHelloResponse>> hello(Caller caller, Empty request);
  Async<Result<pb::AuthTokenGetResponse>> auth_token(Caller caller, pb::AuthTokenGetRequest request);
  Async<Result<pb::WorkspaceNameLookupResponse>> workspace_name(Caller caller, Empty request);
  Async<Result<pb::TokenFlowCreateResponse>> begin_login(Caller caller, pb::TokenFlowCreateRequest request);
  Async<Result<pb::TokenFlowWaitResponse>> wait_login(Caller caller, pb::TokenFlowWaitRequest request);
  Async<Result<pb::TokenInfoGetResponse>> info(Caller caller, pb::TokenInfoGetRequest request);
  Async<Result<Empty>> remove(Caller caller, pb::TokenDeleteRequest request);

  Loop& loop_;
  control::Access& access_;
};

}  // namespace proa::api::modal
