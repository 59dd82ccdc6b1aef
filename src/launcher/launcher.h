// SPDX-License-Identifier: Apache-2.0
//
// Launcher: makes and ends containers for one worker. The only part that keeps root: one thread, one socket,
// no network, no library that reads foreign bytes but our own. It believes nothing the worker says.
//
// Its state directory: slots/N/{u,w} (what containers write), meta/DIGEST.erofs (trees, made here), mnt/ (where
// they are mounted in its own mount namespace, which goes with it), trash/ (what is being deleted).
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace proa::launcher {

struct LauncherOptions {
  int socket = -1;  // SOCK_SEQPACKET; the worker has the other end.
  std::string state_dir;
  std::string objects_dir;
  std::uint32_t uid_base = 0;  // Slot i has the 65,536 ids from base + i × 65,536; 0: a range that no other launcher has.
  std::vector<std::string> allowed_networks;
  std::string cgroup_root = "/sys/fs/cgroup";
};

// Serves until the worker's end of the socket is closed or SIGTERM comes; then everything that runs is killed.
Result<void> run_launcher(const LauncherOptions& options, Logger& log);

}  // namespace proa::launcher
