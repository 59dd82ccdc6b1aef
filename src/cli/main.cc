// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/cli.h"

namespace proa::cli {

std::string default_data_dir() {
  if (const char* set = std::getenv("PROA_DATA_DIR"); set != nullptr && *set != '\0') return set;
  if (geteuid() == 0) return "/var/lib/proa";
  if (const char* home = std::getenv("XDG_DATA_HOME"); home != nullptr && *home != '\0') return std::string(home) + "/proa";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : ".") + "/.local/share/proa";
}

namespace {

int run(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App program("Proa: serverless compute on your own machines.\n\nStart with `proa up`, then run an app with the official client through `proa modal run app.py`.", "proa");
  program.set_version_flag("--version", std::string("proa ") + PROA_VERSION);
  program.require_subcommand(1);
  Chosen chosen;
  std::error_code failure;
  chosen.program = std::filesystem::read_symlink("/proc/self/exe", failure).string();
  add_up(program, chosen);
  add_modal(program, chosen);
  add_image(program, chosen);
  add_doctor(program, chosen);
  add_login_code(program, chosen);
  add_server(program, chosen);
  add_worker(program, chosen);
  CLI11_PARSE(program, argc, argv);
  return chosen.run();
}

}  // namespace
}  // namespace proa::cli

int main(int argc, char** argv) { return proa::cli::run(argc, argv); }
