// SPDX-License-Identifier: Apache-2.0
//
// The server's composition root: everything that a server is made of, constructed and connected.
#pragma once

#include <string>

#include "base/log.h"

namespace proa::app {

struct ServerOptions {
  std::string data_dir;
  int listen_fd = -1;     // The one port.
  int local_fd = -1;      // A unix socket that only our own processes can reach.
  int containers_fd = -1; // A unix socket to which workers carry what containers send to their blob port.
  int tls_certificate_fd = -1;  // PEM files; -1 is no TLS.
  int tls_key_fd = -1;
  int ready_fd = -1;   // Gets a byte when the server serves; -1 is nobody.
  std::string url;     // How clients reach it, "http://HOST:PORT".
  std::string trust_file;  // PEM bundle that clients must trust, for client.env; empty is what they trust anyway.
  std::string mirrors_file;  // How builds reach package mirrors, docs/operate/mirrors.md; need not be there.
  std::string cache_dir;  // Base images and mounts, as tools/images makes them.
  std::string tools_dir;  // tools/images.
};

// Until SIGTERM or SIGINT (0), or until it cannot go on (1).
int run_server(const ServerOptions& options, Logger& log);

}  // namespace proa::app
