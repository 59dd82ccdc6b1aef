// SPDX-License-Identifier: Apache-2.0
//
// ContainerFace: serves the sockets of all containers of a worker. A connection belongs to the task whose
// socket it came by, whatever it says; credentials in its metadata are dropped.
//
// What concerns the worker (hello, heartbeat, inputs, outputs, results) is answered here, by a WireFace that
// knows the messages. All else goes to the server as it is, with the task's identity, and is tried again
// while the server is away, so that a container does not notice. TCP connections to a container's blob port
// become connections to where the server has its blobs.
//
// On the worker's loop. Each container has bounds of its own: connections, calls, bytes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "rt/real_loop.h"
#include "worker/rpc/server_connection.h"
#include "worker/seams.h"
#include "worker/task.h"

namespace proa::worker {

// What a wire keeps for one container between its calls.
struct ContainerState {
  std::shared_ptr<Task> task;
  std::size_t calls = 0;  // Under way.
  std::shared_ptr<rpc::ByteBudget> budget;
  // The last answer to a call for inputs, by the key of the call: a repeated call means it was not heard.
  std::string inputs_key;
  Bytes inputs_answer;
};

// The calls of one wire that a worker answers itself.
class WireFace {
 public:
  enum class Route : std::uint8_t {
    kLocal,          // serve() answers.
    kForward,        // One request, one answer: may be tried again.
    kForwardStream,  // One request, many answers.
    kRefuse,         // Not for containers.
  };
  virtual ~WireFace() = default;
  // "/package.Service/": whose calls it takes.
  virtual std::string_view prefix() const = 0;
  // `method` without the prefix.
  virtual Route route(const Task& task, std::string_view method) const = 0;
  // The answer to a local call, whole. `key` is the call's idempotency key, or "".
  virtual Async<Result<Bytes>> serve(std::shared_ptr<ContainerState> container, std::string method, Bytes request,
                                     std::string key) = 0;
};

struct ContainerLimits {
  std::size_t calls_max = 1000;
  std::size_t bytes_max = 256 << 20;
  std::size_t blob_connections_max = 64;
  // How long a call waits for a server that is away.
  Duration server_absence_max = std::chrono::seconds(60);
};

class ContainerFace final : public Face, private rpc::Handler {
 public:
  static Result<std::unique_ptr<ContainerFace>> create(RealLoop& loop, Logger& log, ServerAddress server,
                                                       ContainerLimits limits);
  ContainerFace(const ContainerFace&) = delete;
  ContainerFace& operator=(const ContainerFace&) = delete;
  ~ContainerFace() override;

  void add_wire(std::unique_ptr<WireFace> wire) { wires_.push_back(std::move(wire)); }

  // Ends all calls. Before the tasks that serve them go; nothing may be opened after it.
  void close() { rpc_server_.reset(); }

  std::unique_ptr<Door> open(std::shared_ptr<Task> task, container::OwnedFd api_listener,
                             container::OwnedFd blob_listener) override;

 private:
  class OpenDoor;

  ContainerFace(RealLoop& loop, Logger& log, ServerAddress server, ContainerLimits limits,
                std::unique_ptr<rpc::Client> client);

  Async<Result<void>> handle(rpc::ServerCall& call) override;
  Async<Result<void>> serve_local(rpc::ServerCall& call, WireFace& wire, std::shared_ptr<ContainerState> container,
                                  std::string method);
  Async<Result<void>> forward(rpc::ServerCall& call, std::shared_ptr<ContainerState> container);
  Async<Result<void>> forward_stream(rpc::ServerCall& call, std::shared_ptr<ContainerState> container);
  rpc::Metadata forwarded_metadata(const rpc::ServerCall& call, const Task& task) const;

  RealLoop& loop_;
  Logger& log_;
  ServerAddress server_;
  ContainerLimits limits_;
  std::unique_ptr<rpc::Client> client_;
  std::vector<std::unique_ptr<WireFace>> wires_;
  std::map<std::string, std::shared_ptr<ContainerState>, std::less<>> containers_;  // By their task's id.
  std::unique_ptr<rpc::Server> rpc_server_;  // Last: its calls use all the above.
};

}  // namespace proa::worker
