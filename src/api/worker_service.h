// SPDX-License-Identifier: Apache-2.0
//
// WorkerService: the server's end of the workers' protocol (sched/peer.h), as a service of the router. Only
// local connections and those with a worker's token reach it.
#pragma once

#include <functional>
#include <memory>

#include "rpc/server.h"
#include "sched/scheduler.h"

namespace proa::api {

class WorkerService final : public rpc::Handler {
 public:
  // Where a worker's log lines go; the scheduler has no use for them.
  using PutLogs = std::function<Async<Result<void>>(std::vector<sched::LogLine>)>;
  WorkerService(Loop& loop, sched::Scheduler& scheduler, sched::StepCalls& steps, PutLogs put_logs)
      : loop_(loop), scheduler_(scheduler), steps_(steps), put_logs_(std::move(put_logs)) {}

  static constexpr const char* kPrefix = "/proa.worker.v1.Worker/";
  // Checks that the caller is a worker; the token is compared in constant time.
  void require_token(std::string token) { token_ = std::move(token); }

  Async<Result<void>> handle(rpc::ServerCall& call) override;

 private:
  Async<Result<void>> session(rpc::ServerCall& call);
  Async<Result<Bytes>> answer(std::string method, Bytes request);
  Result<void> check(const rpc::ServerCall& call) const;

  Loop& loop_;
  sched::Scheduler& scheduler_;
  sched::StepCalls& steps_;
  PutLogs put_logs_;
  std::string token_;
};

}  // namespace proa::api
