// SPDX-License-Identifier: Apache-2.0
//
// Who calls: a client by its token, or a container by the worker that forwards its call. A container has no
// credentials: the worker says whose socket the call came by, and only workers are believed.
#pragma once

#include "api/router.h"
#include "control/access.h"
#include "sched/scheduler.h"

namespace proa::app {

class Authenticate final : public api::Authenticator {
 public:
  Authenticate(const control::Access& access, const sched::Scheduler& scheduler) : access_(access), scheduler_(scheduler) {}
  Result<api::Caller> authenticate(const rpc::ServerCall& call, bool needed) override;

 private:
  const control::Access& access_;
  const sched::Scheduler& scheduler_;
};

}  // namespace proa::app
