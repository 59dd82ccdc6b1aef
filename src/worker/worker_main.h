// SPDX-License-Identifier: Apache-2.0
//
// run_worker: the whole of a worker, from its options to its end. The command line calls it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/log.h"
#include "control/types.h"

namespace proa::worker {

struct WorkerOptions {
  std::string server;        // "host:port" or "unix:/path".
  std::string blobs;         // Where containers' blob ports lead: "host:port" or "unix:/path".
  std::string token;         // Of a worker; not needed on the server's own socket.
  int launcher_fd = -1;      // The socket shared with proa-launcher.
  std::string id_file;       // Where the worker's id is kept, so that it is the same after a restart; "" is nowhere.
  std::string objects_dir;   // The object store, for what image builds write.
  std::string name;          // For people; "" is the host's name.
  control::Resources total;  // What it offers; 0 fields are what the machine has.
  std::size_t prepared_slots = 2;
  std::int64_t stop_grace_seconds = 10;  // For the containers, at SIGTERM.
};

// Until SIGTERM or SIGINT (0), or until the launcher has gone (1). Blocks those signals' default.
int run_worker(const WorkerOptions& options, Logger& log);

}  // namespace proa::worker
