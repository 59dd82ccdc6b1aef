// SPDX-License-Identifier: Apache-2.0
//
// LauncherRuntime: the Runtime that asks proa-launcher, over the socket that the two were started with. When
// that breaks, every wait ends with kUnavailable: the containers are gone with the launcher.
#pragma once

#include <memory>

#include "base/log.h"
#include "container/runtime.h"
#include "rt/real_loop.h"

namespace proa::container {

// What the machine gives, as the launcher found it.
struct Capabilities {
  int cgroups = 0;  // Version; 0 is none.
  bool network = false;
  std::string less;  // What is missing, for a person.
};

class LauncherRuntime : public Runtime {
 public:
  // Takes over `socket_fd`. `on_lost` is called once, when the launcher has gone.
  static std::unique_ptr<LauncherRuntime> create(RealLoop& loop, int socket_fd, Logger& log, std::function<void()> on_lost);
  virtual Async<Result<Capabilities>> hello() = 0;
};

}  // namespace proa::container
