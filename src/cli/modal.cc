// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "cli/cli.h"

namespace proa::cli {
namespace {

// Reads `export NAME='value'` lines, as the server writes them.
std::map<std::string, std::string> read_client_env(const std::string& path) {
  std::map<std::string, std::string> out;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    constexpr std::string_view kExport = "export ";
    if (!line.starts_with(kExport)) continue;
    const auto equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string value = line.substr(equals + 1);
    // What stands behind the quotes is for a shell.
    if (value.starts_with('\'')) value = value.substr(1, value.find('\'', 1) - 1);
    out[line.substr(kExport.size(), equals - kExport.size())] = value;
  }
  return out;
}

std::optional<std::string> find_program(const std::string& name, const std::string& program) {
  if (const char* set = std::getenv("PROA_MODAL_CLI"); set != nullptr && *set != '\0') return set;
  // In a checkout, `./dev setup` puts it beside the build.
  const auto beside = std::filesystem::path(program).parent_path() / "../../venv/bin" / name;
  if (std::filesystem::exists(beside)) return beside.lexically_normal().string();
  const char* path = std::getenv("PATH");
  std::string rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    const std::string candidate = rest.substr(0, colon) + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    if (colon == std::string::npos) break;
    rest = rest.substr(colon + 1);
  }
  return std::nullopt;
}

int hand_over(const std::string& data_dir, const std::string& program, const std::vector<std::string>& arguments) {
  const std::string env_path = data_dir + "/client.env";
  const auto settings = read_client_env(env_path);
  const auto url = settings.find("MODAL_SERVER_URL");
  if (url == settings.end()) {
    std::fprintf(stderr, "proa: %s is not there or cannot be read: is `proa up --data-dir %s` running, and are you its owner?\n", env_path.c_str(), data_dir.c_str());
    return 1;
  }
  // Somebody who set another address meant it, and code must not go where it was not meant to go.
  if (const char* set = std::getenv("MODAL_SERVER_URL"); set != nullptr && url->second != set) {
    std::fprintf(stderr, "proa: MODAL_SERVER_URL is set to %s, and this server is %s: `proa modal` talks to no other. Unset it, or choose the server with --data-dir.\n", set,
                 url->second.c_str());
    return 1;
  }
  const auto client = find_program("modal", program);
  if (!client) {
    std::fprintf(stderr, "proa: the official client is not installed: `pip install modal` (1.6.4 is the version that is tested), or set PROA_MODAL_CLI to its `modal` program\n");
    return 1;
  }
  // Nothing of the user's own configuration: a forgotten profile would send code elsewhere.
  for (char** entry = environ; *entry != nullptr;) {
    const std::string name(*entry, std::strchr(*entry, '=') != nullptr ? static_cast<std::size_t>(std::strchr(*entry, '=') - *entry) : std::strlen(*entry));
    const bool drop = name.starts_with("MODAL_") && name != "MODAL_ENVIRONMENT" && name != "MODAL_FORCE_BUILD" && name != "MODAL_IGNORE_CACHE" &&
                      name != "MODAL_LOGLEVEL" && name != "MODAL_TRACEBACK" && name != "MODAL_IMAGE_BUILDER_VERSION";
    if (drop) {
      unsetenv(name.c_str());
      entry = environ;
    } else {
      ++entry;
    }
  }
  for (const auto& [name, value] : settings) {
    const char* const path = name == "PYTHONPATH" ? std::getenv("PYTHONPATH") : nullptr;
    setenv(name.c_str(), (path != nullptr && *path != '\0' ? value + ":" + path : value).c_str(), 1);
  }
  setenv("MODAL_CONFIG_PATH", (data_dir + "/run/no-modal-config.toml").c_str(), 1);
  std::vector<char*> argv;
  argv.push_back(const_cast<char*>(client->c_str()));
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  std::fprintf(stderr, "proa: cannot run %s: %s\n", argv[0], std::strerror(errno));
  return 127;
}

}  // namespace

void add_modal(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("modal", "Run the official Modal command line against this server and no other, as in `proa modal run app.py`");
  auto data_dir = std::make_shared<std::string>(default_data_dir());
  verb->add_option("--data-dir", *data_dir, "Of the server to talk to")->capture_default_str();
  verb->prefix_command();
  verb->callback([=, &chosen] { chosen.run = [=, program_path = chosen.program] { return hand_over(*data_dir, program_path, verb->remaining()); }; });
}

}  // namespace proa::cli
