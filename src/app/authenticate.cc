// SPDX-License-Identifier: Apache-2.0
#include "app/authenticate.h"

#include <algorithm>
#include <cctype>

#include "container/runtime.h"

namespace proa::app {
namespace {

// What a client says it is when it runs in a container.
constexpr std::string_view kContainerClient = "3";
// Where a container finds blobs: its worker carries what is sent there to this server.
const std::string kContainerUrl = "http://127.0.0.1:" + std::to_string(container::kBlobPort);

// The peer's word for this server, as far as it can be a host and port: it becomes part of URLs.
std::string plain_host(const std::string& host) {
  const bool plain = host.size() <= 256 && std::all_of(host.begin(), host.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '-' || c == ':' || c == '[' || c == ']'; });
  return plain ? host : "localhost";
}

std::string text_of(const rpc::ServerCall& call, std::string_view key) { return std::string(call.metadata(key).value_or("")); }

}  // namespace

Result<api::Caller> Authenticate::authenticate(const rpc::ServerCall& call, bool needed) {
  api::Caller caller;
  caller.client_version = text_of(call, "x-modal-client-version");
  caller.client_type = text_of(call, "x-modal-client-type");
  caller.idempotency_key = text_of(call, "x-idempotency-key");
  caller.base_url = (call.connection().secure ? "https://" : "http://") + plain_host(call.host());
  if (call.connection().kind == rpc::ConnectionInfo::Kind::kLocal) {
    const auto task = call.metadata("x-proa-task");
    if (!task) return unauthenticated("a local call must name the task it is made for");
    PROA_TRY(caller.task, TaskId::parse(*task));
    const auto known = scheduler_.task(caller.task);
    if (!known) return unauthenticated("the container " + caller.task.text() + " is not known to this server");
    caller.kind = api::Caller::Kind::kContainer;
    caller.base_url = kContainerUrl;
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
