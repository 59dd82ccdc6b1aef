// SPDX-License-Identifier: Apache-2.0
#include "api/modal/token.h"

namespace proa::api::modal {
namespace {

using google::protobuf::Empty;

// Clients ask for the next one after half of it.
constexpr Duration kAuthTokenLife = std::chrono::minutes(20);
constexpr Duration kLoginPollMax = std::chrono::seconds(40);

}  // namespace

void TokenApi::bind(Router& router) {
  router.unary("ClientHello", this, &TokenApi::hello);
  router.unary("AuthTokenGet", this, &TokenApi::auth_token);
  router.unary("WorkspaceNameLookup", this, &TokenApi::workspace_name);
  router.unary("TokenFlowCreate", this, &TokenApi::begin_login);
  router.unary("TokenFlowWait", this, &TokenApi::wait_login);
  router.unary("TokenInfoGet", this, &TokenApi::info);
  router.unary("TokenDelete", this, &TokenApi::remove);
}

Async<Result<pb::ClientHelloResponse>> TokenApi::hello(Caller, Empty) { co_return pb::ClientHelloResponse(); }

Async<Result<pb::AuthTokenGetResponse>> TokenApi::auth_token(Caller caller, pb::AuthTokenGetRequest) {
  pb::AuthTokenGetResponse response;
  response.set_token(access_.sign(control::kPurposeApi, caller.identity(), kAuthTokenLife));
  co_return response;
}

Async<Result<pb::WorkspaceNameLookupResponse>> TokenApi::workspace_name(Caller, Empty) {
  pb::WorkspaceNameLookupResponse response;
  response.set_username(access_.workspace().name);
  response.set_workspace_name(access_.workspace().name);
  co_return response;
}

Async<Result<pb::TokenFlowCreateResponse>> TokenApi::begin_login(Caller caller, pb::TokenFlowCreateRequest request) {
  PROA_CO_TRY(const control::Login login, access_.begin_login(std::chrono::seconds(request.expires_in_seconds())));
  pb::TokenFlowCreateResponse response;
  response.set_token_flow_id(login.id.text());
  response.set_web_url(page_url(caller, "/login/" + login.id.text()));
  response.set_code(login.code);
  response.set_wait_secret(login.wait_secret);
  co_return response;
}

Async<Result<pb::TokenFlowWaitResponse>> TokenApi::wait_login(Caller, pb::TokenFlowWaitRequest request) {
  PROA_CO_TRY(const TokenFlowId login, read_id<TokenFlowId>("Login", request.token_flow_id()));
  const Time deadline = loop_.now() + read_poll(static_cast<double>(request.timeout()), kLoginPollMax);
  PROA_CO_TRY(const auto credentials, co_await access_.wait_login(login, request.wait_secret(), deadline));
  pb::TokenFlowWaitResponse response;
  if (credentials) {
    response.set_token_id(credentials->id.text());
    response.set_token_secret(credentials->secret);
    response.set_workspace_username(access_.workspace().name);
  } else {
    response.set_timeout(true);
  }
  co_return response;
}

Async<Result<pb::TokenInfoGetResponse>> TokenApi::info(Caller caller, pb::TokenInfoGetRequest) {
  const control::Token* const token = access_.find(caller.token);
  if (token == nullptr) co_return not_found("The token of this call is not known any more");
  pb::TokenInfoGetResponse response;
  response.set_token_id(token->id.text());
  response.set_token_name(token->name);
  response.set_workspace_id(access_.workspace().id.text());
  response.set_workspace_name(access_.workspace().name);
  response.mutable_user_identity()->set_user_id(token->user);
  response.mutable_user_identity()->set_username(token->user);
  write_timestamp(token->created, *response.mutable_created_at());
  if (token->expires != Time()) write_timestamp(token->expires, *response.mutable_expires_at());
  co_return response;
}

Async<Result<Empty>> TokenApi::remove(Caller, pb::TokenDeleteRequest request) {
  PROA_CO_TRY(const TokenId id, read_id<TokenId>("Token", request.token_id()));
  PROA_CO_TRY_VOID(access_.remove_token(id));
  co_return Empty();
}

}  // namespace proa::api::modal
