// SPDX-License-Identifier: Apache-2.0
//
// Where a client connects to, and connecting. For this room's .cc files only.
#pragma once

#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "rt/real_loop.h"

namespace proa::rpc {

// "host:port", "[::1]:port", "unix:/path" or "unix-abstract:name".
struct Address {
  static Result<Address> parse(const std::string& text);  // kInvalidArgument.

  std::string text;
  std::string host;  // Without brackets; "localhost" for a unix socket.
  std::string port;
  std::string path;  // Of a unix socket; an abstract one's begins with a zero.
};

struct SocketName {
  sockaddr_storage address{};
  socklen_t length = 0;
};

// The names of hosts are looked up on a thread for each attempt, since the C library only knows how to block. Whoever
// destroys a Dialer waits for it.
class Dialer {
 public:
  explicit Dialer(RealLoop& loop) : loop_(loop) {}
  ~Dialer();
  Dialer(const Dialer&) = delete;
  Dialer& operator=(const Dialer&) = delete;

  // One at a time. A non-blocking socket.
  //   kUnavailable  nobody listens there, or the name is unknown.
  Async<Result<OwnedFd>> dial(Address address);

 private:
  Async<Result<std::vector<SocketName>>> look_up(Address address);

  RealLoop& loop_;
  std::thread thread_;
};

}  // namespace proa::rpc
