// SPDX-License-Identifier: Apache-2.0
//
// BlobRelay: carries the TCP connections of one container's blob port to the server's port, byte by byte.
// The server checks the URLs' signatures; the relay looks at nothing.
//
// On the worker's loop. Destroying it closes all its connections.
#pragma once

#include <cstddef>
#include <string>

#include "base/log.h"
#include "rt/real_loop.h"

namespace proa::worker {

class BlobRelay {
 public:
  // `server` is "host:port" with a numeric host, or "unix:/path".
  BlobRelay(RealLoop& loop, Logger& log, std::string server)
      : loop_(loop), log_(log), server_(std::move(server)), ended_(loop) {}
  BlobRelay(const BlobRelay&) = delete;
  BlobRelay& operator=(const BlobRelay&) = delete;

  // Accepts on `listener`, which it owns, for ever; never more than so many connections at a time.
  Async<> serve(int listener, std::size_t connections_max);

 private:
  Async<> carry(int client);
  Async<> carry_between(int client, int server);

  RealLoop& loop_;
  Logger& log_;
  std::string server_;
  Signal ended_;
  Scope scope_;
};

}  // namespace proa::worker
