// SPDX-License-Identifier: Apache-2.0
//
// rpc::Server: gRPC as bytes. It hands every call, of whatever method and shape, to one Handler on a loop; what
// the bytes mean is the handler's business (api/router.h). It opens no port: connections are accepted elsewhere
// (rpc/acceptor.h) and given to it by descriptor, with what is known of the peer.
//
// Nothing of a call's body is read before the handler asks for it, so credentials are checked on the metadata
// alone. A handler is one coroutine; when the peer resets the call, its deadline passes, or its connection ends,
// the coroutine is destroyed where it waits.
//
// All of it is on the loop, save add_connection(), which posts. What a connection has to say is written once in a
// turn of the loop, however many calls say it. A ServerCall stays valid until its coroutine is over.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rpc/budget.h"
#include "rpc/connection.h"
#include "rpc/probe.h"
#include "rt/real_loop.h"

namespace proa::rpc {

namespace server_detail {
struct CallState;
struct ServerState;
}  // namespace server_detail

// One call, as its handler sees it. On the loop only.
class ServerCall {
 public:
  explicit ServerCall(server_detail::CallState& state) : state_(state) {}
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

  const std::string& method() const;  // As on the wire: "/package.Service/Method".
  // The first value under `key` (lower case), or nothing. The view lives as long as the call.
  std::optional<std::string_view> metadata(std::string_view key) const;
  // All of it, for whoever forwards the call.
  std::vector<std::pair<std::string, std::string>> all_metadata() const;
  const std::string& host() const;  // What the peer calls us (":authority").
  const ConnectionInfo& connection() const;
  Time deadline() const;  // kNever if the peer gave none.

  // The next message, or nothing once the peer has sent all. At most one read at a time; after a budget was set,
  // waits while it is used up. What was read counts against the budget until the call is over.
  //   kDeadlineExceeded  `patience` passed without a message.
  Async<Result<std::optional<Bytes>>> read(Duration patience = Duration::max());
  // Sends a message; true once all but a little (64 KiB) of what was written has left for the peer (waiting is the
  // back-pressure), false if the peer has gone.
  // At most one write at a time, which may go beside a read.
  Async<bool> write(Bytes message);
  // The last message, sent in one piece with an OK status when the handler ends well. At most once.
  void write_last(Bytes message);

  void add_trailer(std::string_view name, std::string_view value);  // Before the handler ends.
  void set_status_details(Bytes details);                           // "grpc-status-details-bin" of an error.
  void set_budget(std::shared_ptr<ByteBudget> budget);              // Before the first read.

 private:
  server_detail::CallState& state_;
};

class Handler {
 public:
  virtual ~Handler() = default;
  // Serves one call from metadata to status. `call` outlives the coroutine.
  virtual Async<Result<void>> handle(ServerCall& call) = 0;
};

struct ServerOptions {
  std::size_t message_bytes_max = 128 << 20;  // One message; more is RESOURCE_EXHAUSTED. Clients send up to 100 MiB.
  std::size_t metadata_bytes_max = 64 << 10;
  // Of one connection. Each parked long poll is a stream and clients wait when there are no more.
  int streams_max = 20'000;
  std::size_t connections_max = 16'384;
  std::size_t connections_per_address_max = 4'096;
  std::size_t connections_per_container_max = 64;  // A client has one, or a few.
  // How soon a peer that went away without a word is noticed. 0 is off (unix sockets need none).
  Duration keepalive_time = std::chrono::seconds(120);
  Duration keepalive_timeout = std::chrono::seconds(60);
};

class Server {
 public:
  // Starts serving. `loop` and `handler` outlive the server.
  static Result<std::unique_ptr<Server>> create(RealLoop& loop, Handler& handler, ServerOptions options = {});
  // On the loop. Destroys the handlers still running; their peers see UNAVAILABLE.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves HTTP/2 with prior knowledge on the connected socket `fd`, which it owns from here on, also when it
  // fails. Nothing may have been read from it. Any thread.
  //   kResourceExhausted  too many connections, from this address or in all.
  Result<void> add_connection(int fd, ConnectionInfo info);

  const ServerProbe& probe() const;

 private:
  explicit Server(std::shared_ptr<server_detail::ServerState> state) : state_(std::move(state)) {}
  std::shared_ptr<server_detail::ServerState> state_;
};

}  // namespace proa::rpc
