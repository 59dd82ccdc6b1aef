// SPDX-License-Identifier: Apache-2.0
//
// Wire: how bytes go through a connected, non-blocking socket: as they are, or inside TLS. For this room's .cc files
// only. The socket belongs to whoever calls.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <string>

#include "base/result.h"

namespace proa::rpc {

class Wire {
 public:
  virtual ~Wire() = default;

  // Like read(2) and write(2): a count, 0 at the end, -1 with errno (EAGAIN: not now).
  virtual ssize_t read(int fd, char* into, std::size_t bytes_max) = 0;
  virtual ssize_t write(int fd, const char* from, std::size_t bytes) = 0;
  // Whether all that was written has left this process. If not: again when the socket can be written.
  virtual bool flush(int fd) = 0;
  // Whether bytes may be in here that the socket tells nothing of: then only EAGAIN says that all was read.
  virtual bool buffers() const = 0;
};

std::unique_ptr<Wire> plain_wire();

// The client's end of TLS, HTTP/2 inside.
class TlsWire : public Wire {
 public:
  enum class Step { kDone, kRead, kWrite };  // What the socket must be ready for before the next step.

  // `ca_pem` empty: the system's roots. `name` is what the certificate must be for: a name, or an IP address.
  //   kInvalidArgument  the roots cannot be read.
  static Result<std::unique_ptr<TlsWire>> create(const std::string& ca_pem, const std::string& name);
  // Until it is done nothing else may be called.
  //   kUnavailable  the other side is not who it should be, or speaks no HTTP/2, or has gone.
  virtual Result<Step> handshake(int fd) = 0;
};

}  // namespace proa::rpc
