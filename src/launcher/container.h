// SPDX-License-Identifier: Apache-2.0
//
// What runs in a slot's first process, from clone to exec. It is a fork of the launcher and shares nothing
// with it but a socket: over that come the go-ahead (its user namespace has its ids now), then the root file
// system and the task. It becomes the container's process 1: it starts the program, reaps what is orphaned,
// hands signals on, and ends as the program ended.
#pragma once

#include <string>

#include "base/bytes.h"

namespace proa::launcher {

struct ContainerSetup {
  int control = -1;  // A SOCK_SEQPACKET to the launcher.
  int stdout_pipe = -1;
  int stderr_pipe = -1;
  const Bytes* seccomp_filter = nullptr;
  std::string resolv_conf;
};

// What the container's process says on `control`.
struct ContainerReport {
  enum class Stage : int { kPrepared = 1, kRunning = 2, kFailed = 3 };
  Stage stage = Stage::kPrepared;  // kPrepared: the listening API socket is passed with it.
  int code = 0;                    // kFailed: a Code.
  char text[400] = {};
};

// Never returns.
[[noreturn]] void run_container(const ContainerSetup& setup);

}  // namespace proa::launcher
