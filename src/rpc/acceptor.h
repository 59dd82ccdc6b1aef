// SPDX-License-Identifier: Apache-2.0
//
// Acceptor: one port for everything. It accepts connections and looks at their first bytes, without taking them:
// HTTP/2 with prior knowledge, a TLS greeting, or else HTTP/1.1. What then happens is the routes' business.
//
// On its loop. A connection that does not show in time what it is, is closed, and so is the one that has been
// undecided longest when there are too many.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "base/fd.h"
#include "base/log.h"
#include "base/result.h"
#include "rpc/connection.h"
#include "rt/real_loop.h"

namespace proa::rpc {

class Acceptor {
 public:
  using Sink = std::function<void(OwnedFd, ConnectionInfo)>;
  // A connection for which there is no route is closed.
  struct Routes {
    Sink grpc;
    Sink http;
    Sink tls;  // Whoever ends the TLS gives what is inside to adopt().
  };
  struct Limits {
    Duration first_bytes = std::chrono::seconds(10);
    std::size_t undecided_max = 2048;
  };

  Acceptor(RealLoop& loop, Routes routes, Logger& log, Limits limits);
  Acceptor(RealLoop& loop, Routes routes, Logger& log);
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Accepts from `listener`, which listens already. `info` holds for each connection; its address is filled in.
  void listen(OwnedFd listener, ConnectionInfo info);
  // Sorts a connection that somebody else accepted. On the loop, like the others.
  void adopt(OwnedFd connection, ConnectionInfo info);

 private:
  struct Undecided;
  Async<> accept_from(std::shared_ptr<WatchedFd> listener, ConnectionInfo info);
  Async<> sort(std::shared_ptr<Undecided> connection);

  RealLoop& loop_;
  const Routes routes_;
  Logger& log_;
  const Limits limits_;
  std::deque<std::weak_ptr<Undecided>> undecided_;  // In the order they came.
  Scope scope_;
};

// A TCP socket that listens on "host:port" (port 0: any), or a unix socket for "unix:/path", whose file is replaced.
//   kInvalidArgument, kFailedPrecondition (in use), or what the kernel says.
Result<OwnedFd> listen_on(const std::string& address);

}  // namespace proa::rpc
