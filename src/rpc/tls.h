// SPDX-License-Identifier: Apache-2.0
//
// TlsEnd: where TLS ends. gRPC serves descriptors without TLS only, so what comes in encrypted is relayed: the
// socket on one side, a pair of sockets in this process on the other, whose far end is handed on like any
// connection that was just accepted.
//
// On its loop, which may be one of its own: encryption is the only work there. A relay ends when either side does.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/log.h"
#include "base/result.h"
#include "rpc/connection.h"
#include "rt/real_loop.h"

namespace proa::rpc {

struct TlsKeys {
  std::string certificate_pem;  // The chain, own certificate first.
  std::string key_pem;
};

class TlsEnd {
 public:
  // Gets what is inside a connection, with `secure` set. On the relay's loop.
  using Sink = std::function<void(OwnedFd, ConnectionInfo)>;
  struct Limits {
    Duration handshake = std::chrono::seconds(10);
    std::size_t connections_max = 8192;
  };

  //   kInvalidArgument  certificate or key cannot be read, or are not a pair.
  static Result<std::unique_ptr<TlsEnd>> create(RealLoop& loop, TlsKeys keys, Logger& log, Sink inside, Limits limits);
  static Result<std::unique_ptr<TlsEnd>> create(RealLoop& loop, TlsKeys keys, Logger& log, Sink inside);
  ~TlsEnd();
  TlsEnd(const TlsEnd&) = delete;
  TlsEnd& operator=(const TlsEnd&) = delete;

  // A connection whose first bytes are a TLS greeting. On the loop.
  void add_connection(OwnedFd connection, ConnectionInfo info);
  // For connections from now on. Errors as with create(), and then the old keys stay.
  Result<void> replace_keys(TlsKeys keys);

 private:
  struct State;
  explicit TlsEnd(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace proa::rpc
