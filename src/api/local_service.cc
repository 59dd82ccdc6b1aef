// SPDX-License-Identifier: Apache-2.0
#include "api/local_service.h"

#include "base/codec.h"

namespace proa::api {

Async<Result<void>> LocalService::handle(rpc::ServerCall& call) {
  // A worker names the task when it passes on what a container sent.
  if (call.connection().kind != rpc::ConnectionInfo::Kind::kLocal || call.metadata("x-proa-task")) {
    co_return permission_denied("this service is for the server's own socket, run/server.sock in its data directory");
  }
  const std::string method = call.method().substr(std::string_view(kPrefix).size());
  PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(std::chrono::seconds(60)));
  if (!request) co_return invalid_argument("the request is missing");
  PROA_CO_TRY(Bytes response, co_await answer(method, std::move(*request)));
  call.write_last(std::move(response));
  co_return Result<void>();
}

Async<Result<Bytes>> LocalService::answer(std::string method, Bytes) {
  if (method == "LoginCode") {
    std::string code = parts_.access.create_login_code();
    co_return encode(
        LoginCode{.code = std::move(code), .expires = parts_.loop.now() + parts_.access.login_code_life()});
  }
  co_return unimplemented("this server has no method " + method + " for local processes: is it an older version?");
}

}  // namespace proa::api
