// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>

#include "app/server.h"
#include "cli/cli.h"

namespace proa::cli {
namespace {

std::string default_cache_dir() {
  if (const char* set = std::getenv("PROA_CACHE"); set != nullptr && *set != '\0') return set;
  return "/var/cache/proa";
}

// In a checkout the tools are in the tree; installed, beside the program.
std::string default_tools_dir(const std::string& program) {
  const auto bin = std::filesystem::path(program).parent_path();
  for (const auto& place : {bin / "../../../tools/images", bin / "../share/proa/tools/images"}) {
    if (std::filesystem::exists(place)) return place.lexically_normal().string();
  }
  return "";
}

}  // namespace

void add_server(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("server", "The server alone; `proa up` starts it with its sockets");
  auto options = std::make_shared<app::ServerOptions>();
  options->cache_dir = default_cache_dir();
  options->tools_dir = default_tools_dir(chosen.program);
  verb->add_option("--data-dir", options->data_dir, "Where its state is kept")->required();
  verb->add_option("--listen-fd", options->listen_fd, "Descriptor of the listening socket")->required();
  verb->add_option("--local-fd", options->local_fd, "Descriptor of the unix socket for local processes")->required();
  verb->add_option("--containers-fd", options->containers_fd, "Descriptor of the unix socket for what containers send to their blob port")->required();
  verb->add_option("--tls-certificate-fd", options->tls_certificate_fd, "Descriptor of the TLS certificate, PEM");
  verb->add_option("--tls-key-fd", options->tls_key_fd, "Descriptor of its key, PEM");
  verb->add_option("--trust-file", options->trust_file, "CA bundle that clients are told to trust");
  verb->add_option("--build-mirrors", options->mirrors_file, "How builds reach package mirrors, as tools/images/host_settings.py writes it; default: mirrors.json in the cache");
  verb->add_option("--ready-fd", options->ready_fd, "Descriptor that gets a byte when it serves");
  verb->add_option("--url", options->url, "How clients reach it")->required();
  verb->add_option("--cache-dir", options->cache_dir, "Base images and mounts, as tools/images makes them")->capture_default_str();
  verb->add_option("--tools-dir", options->tools_dir, "The programs that make them");
  verb->callback([=, &chosen] {
    chosen.run = [=] {
      if (options->mirrors_file.empty()) options->mirrors_file = options->cache_dir + "/mirrors.json";
      StreamLogger log(stderr, isatty(2) != 0 ? LogStyle::kPlain : LogStyle::kJson, std::getenv("PROA_DEBUG") != nullptr ? Severity::kDebug : Severity::kInfo, "server");
      return app::run_server(*options, log);
    };
  });
}

}  // namespace proa::cli
