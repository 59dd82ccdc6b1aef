// SPDX-License-Identifier: Apache-2.0
//
// proa-launcher: started by `proa up` or by whoever runs a worker, with one end of a socket pair.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "launcher/launcher.h"

int main(int argc, char** argv) {
  proa::launcher::LauncherOptions options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    const char* value = argv[i + 1];
    if (flag == "--socket-fd") {
      options.socket = std::atoi(value);
    } else if (flag == "--state-dir") {
      options.state_dir = value;
    } else if (flag == "--objects-dir") {
      options.objects_dir = value;
    } else if (flag == "--uid-base") {
      options.uid_base = static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10));
    } else if (flag == "--allow-network") {
      options.allowed_networks.emplace_back(value);
    } else {
      std::fprintf(stderr, "proa-launcher: unknown flag %s\n", argv[i]);
      return 2;
    }
  }
  if (options.socket < 0 || options.state_dir.empty() || options.objects_dir.empty()) {
    std::fprintf(stderr, "usage: proa-launcher --socket-fd N --state-dir DIR --objects-dir DIR [--uid-base N] [--allow-network CIDR]…\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  // SIGTERM ends it like the end of its socket does: its mounts go with its namespace, its containers with it.
  proa::StreamLogger log(stderr, isatty(2) != 0 ? proa::LogStyle::kPlain : proa::LogStyle::kJson, proa::Severity::kInfo, "launcher");
  const auto done = proa::launcher::run_launcher(options, log);
  if (!done.ok()) {
    log.error("launcher.failed", {{"why", done.error().message}});
    return 1;
  }
  return 0;
}
