// SPDX-License-Identifier: Apache-2.0
#include "app/authenticate.h"

namespace proa::app {
namespace {

// What a client says it is when it runs in a container.
constexpr std::string_view kContainerClient = "3";

std::string text_of(const rpc::ServerCall& call, std::string_view key) { return std::string(call.metadata(key).value_or("")); }

}  // namespace

Result<api::Caller> Authenticate::authenticate(const rpc::ServerCall& call, bool needed) {
  api::Caller caller;
  caller.client_version = text_of(call, "x-modal-client-version");
  caller.client_type = text_of(call, "x-modal-client-type");
  caller.idempotency_key = text_of(call, "x-idempotency-key");
  caller.host = call.host();
  if (call.connection().kind == rpc::ConnectionInfo::Kind::kLocal) {
    const auto task = call.metadata("x-proa-task");
    if (!task) return unauthenticated("a local call must name the task it is made for");
    PROA_TRY(caller.task, TaskId::parse(*task));
    const auto known = scheduler_.task(caller.task);
    if (!known) return unauthenticated("the container " + caller.task.text() + " is not known to this server");
    caller.kind = api::Caller::Kind::kContainer;
    return caller;
  }
  if (caller.client_type == kContainerClient) return unauthenticated("containers reach this server by their own socket only");
  const auto id = call.metadata("x-modal-token-id");
  const auto secret = call.metadata("x-modal-token-secret");
  if (!id || !secret) {
    if (!needed) return caller;
    if (call.metadata("x-modal-oauth-client-id")) return unauthenticated("this server knows tokens only: unset MODAL_OAUTH_* and set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET");
    return unauthenticated("a token is missing: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, as in the server's client.env");
  }
  auto identity = access_.authenticate(*id, *secret);
  if (!identity.ok()) {
    if (needed) return identity.error();
    return caller;
  }
  caller.kind = api::Caller::Kind::kClient;
  caller.user = identity->user;
  caller.token = identity->token;
  return caller;
}

}  // namespace proa::app
