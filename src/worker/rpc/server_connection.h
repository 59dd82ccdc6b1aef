// SPDX-License-Identifier: Apache-2.0
//
// ServerConnection: the ServerLink over gRPC. The stream, and the calls for what is big, go by connections of
// their own, so that nothing big stands in the way of a small message. docs/formats/worker-protocol.md has
// the bytes.
//
// On the worker's loop. It connects again for ever, at first within milliseconds: a server that restarts is
// back in half a second.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "base/log.h"
#include "rpc/client.h"
#include "rt/real_loop.h"
#include "worker/server_link.h"

namespace proa::worker {

struct ServerAddress {
  std::string address;  // "host:port" or "unix:/path".
  std::string blobs;    // Where its blobs are served by HTTP, likewise. Nothing else may be there: containers' bytes go to it unseen.
  std::string token;    // Of a worker; not needed on the server's own socket.
};

class ServerConnection final : public ServerLink, public sched::StepCalls, private sched::WorkerCalls {
 public:
  // kInvalidArgument for an address that is none.
  static Result<std::unique_ptr<ServerConnection>> create(RealLoop& loop, Random& random, Logger& log,
                                                          ServerAddress server);
  ServerConnection(const ServerConnection&) = delete;
  ServerConnection& operator=(const ServerConnection&) = delete;
  ~ServerConnection() override;

  void start(Listener& listener) override;
  void send(sched::Report report) override;
  sched::WorkerCalls& calls() override { return *this; }
  Async<Result<sched::StepOrder>> fetch_step(sched::StepId step) override;
  Async<Result<void>> put_step_output(sched::StepOutput output) override;
  Async<Result<void>> finish_step(sched::StepResult result) override;

 private:
  ServerConnection(Loop& loop, Random& random, Logger& log, ServerAddress server,
                   std::unique_ptr<rpc::Client> stream_client, std::unique_ptr<rpc::Client> call_client);

  Async<> run();
  Async<> session();
  Async<> write(rpc::Stream* stream);
  Async<Result<Bytes>> call(std::string method, Bytes request, Duration limit);
  rpc::Metadata metadata() const;

  Async<Result<sched::TaskOrder>> fetch_task(TaskId task) override;
  Async<Result<control::Arguments>> fetch_arguments(sched::LeaseId lease) override;
  Async<Result<void>> put_outputs(WorkerId worker, std::vector<sched::Output> outputs) override;
  Async<Result<void>> put_logs(WorkerId worker, std::vector<sched::LogLine> lines) override;

  Loop& loop_;
  Random& random_;
  Logger& log_;
  ServerAddress server_;
  std::unique_ptr<rpc::Client> stream_client_;
  std::unique_ptr<rpc::Client> call_client_;
  Listener* listener_ = nullptr;
  bool up_ = false;
  std::string last_error_;  // Not said again in the log while it stays the same.
  std::vector<sched::Report> waiting_;
  Signal changed_;
  Scope scope_;
};

}  // namespace proa::worker
