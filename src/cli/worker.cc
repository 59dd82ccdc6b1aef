// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "cli/cli.h"
#include "worker/worker_main.h"

namespace proa::cli {

void add_worker(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("worker", "A worker alone; `proa up` starts it with its launcher");
  auto options = std::make_shared<worker::WorkerOptions>();
  auto data_dir = std::make_shared<std::string>();
  verb->add_option("--data-dir", *data_dir, "Where its objects are kept")->required();
  verb->add_option("--launcher-fd", options->launcher_fd, "Descriptor of the socket it shares with proa-launcher")->required();
  verb->add_option("--server", options->server, "HOST:PORT or unix:PATH of the server")->required();
  verb->add_option("--blobs", options->blobs, "HOST:PORT or unix:PATH where the server serves blobs")->required();
  verb->add_option("--token", options->token, "Of a worker; not needed on the server's own socket");
  verb->add_option("--name", options->name, "For people");
  verb->callback([=, &chosen] {
    chosen.run = [=] {
      options->id_file = *data_dir + "/run/worker.id";
      options->objects_dir = *data_dir + "/objects";
      StreamLogger log(stderr, isatty(2) != 0 ? LogStyle::kPlain : LogStyle::kJson, std::getenv("PROA_DEBUG") != nullptr ? Severity::kDebug : Severity::kInfo, "worker");
      return worker::run_worker(*options, log);
    };
  });
}

}  // namespace proa::cli
