// SPDX-License-Identifier: Apache-2.0
//
// Supervisor: what `proa up` is. It holds the data directory's lock and the listening sockets, and keeps
// the server, the worker and the launcher running as children. Connections that arrive while the server
// starts anew wait in the backlog of the socket, which stays open here.
//
// It is small on purpose: it reads no network and runs nobody's code, so that it does not die. The worker
// and its launcher share a socket and live and die together; the server lives alone. If the supervisor is
// killed, the kernel ends its children, and the next `up` begins where they stopped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace proa::app {

struct UpOptions {
  std::string data_dir;
  std::string host = "127.0.0.1";
  std::uint16_t port = 7100;
  std::string public_url;  // How clients reach it, "https://name[:port]"; empty: by host and port.
  enum class Tls { kNone, kOwn, kFiles };
  Tls tls = Tls::kNone;
  std::string tls_certificate;  // kFiles: PEM, the chain.
  std::string tls_key;
  std::string program;                    // This program's own path, to start the children from.
  std::vector<std::string> server_flags;  // Handed on as they are.
  std::vector<std::string> worker_flags;
  std::string user = "proa";  // Whom server and worker become if this is root.
  bool run_worker = true;
};

// Runs until SIGTERM or SIGINT, then stops the children and returns the exit status. Prints
// "ready URL" on stdout each time the server begins to serve for the first time in this run.
//   1 with a sentence on stderr: the directory is in use, or the address is taken.
int run_supervisor(const UpOptions& options, Logger& log);

}  // namespace proa::app
