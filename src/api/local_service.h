// SPDX-License-Identifier: Apache-2.0
//
// LocalService: what the owner of this machine may ask of the running server, through its own socket. Whoever may open
// that socket may ask; nobody else reaches this, and no container, though their workers use the same socket.
//
// Requests and answers are records of base/codec; both ends are the same program. On the server's loop.
#pragma once

#include <string>

#include "base/clock.h"
#include "control/access.h"
#include "rpc/server.h"

namespace proa::api {

// The answer to "LoginCode", whose request is empty.
struct LoginCode {
  std::string code;  // "XXXX-XXXX-XXXX": approves one login.
  Time expires;

  static void fields(auto& visit, auto& self) { visit(1, self.code), visit(2, self.expires); }
  friend bool operator==(const LoginCode&, const LoginCode&) = default;
};

class LocalService final : public rpc::Handler {
 public:
  struct Parts {
    Loop& loop;
    control::Access& access;
  };
  explicit LocalService(Parts parts) : parts_(parts) {}

  static constexpr const char* kPrefix = "/proa.local.v1.Local/";

  Async<Result<void>> handle(rpc::ServerCall& call) override;

 private:
  Async<Result<Bytes>> answer(std::string method, Bytes request);

  Parts parts_;
};

}  // namespace proa::api
