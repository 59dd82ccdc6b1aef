// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/cli.h"

namespace proa::cli {
namespace {

namespace fs = std::filesystem;

struct AddOptions {
  std::string cache_dir;
  std::string tools_dir;
  std::string prefix;
  std::string suite = "bookworm";
  std::vector<std::string> names;
  bool no_tools = false;
  bool again = false;
};

std::vector<std::string> strings_of(const nlohmann::json& json, const char* key) {
  std::vector<std::string> out;
  const auto found = json.find(key);
  if (found == json.end() || !found->is_array()) return out;
  for (const auto& each : *found) {
    if (each.is_string()) out.push_back(each.get<std::string>());
  }
  return out;
}

std::string string_of(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::string joined(const std::vector<std::string>& parts, const char* between) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : between) + part;
  return out;
}

// Runs the tool with its words going to the terminal; what it answers is given back. -1 if it cannot be run.
int run_tool(std::vector<std::string> argv, const std::string& cache_dir, std::string& answer) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  setenv("PROA_CACHE", cache_dir.c_str(), 1);
  std::vector<char*> pointers;
  for (std::string& text : argv) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  pid_t pid = -1;
  const int failure = posix_spawnp(&pid, argv[0].c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (failure == 0) {
    std::array<char, 4096> buffer{};
    for (ssize_t got = read(ends[0], buffer.data(), buffer.size()); got > 0;
         got = read(ends[0], buffer.data(), buffer.size())) {
      answer.append(buffer.data(), static_cast<std::size_t>(got));
    }
  }
  close(ends[0]);
  if (failure != 0) return -1;
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int add_base(const AddOptions& options) {
  const std::string tool = options.tools_dir + "/from_prefix.py";
  if (!fs::exists(tool)) {
    std::fprintf(
        stderr,
        "proa: bases are made by tools/images/from_prefix.py, and it is not in '%s': say where with --tools-dir\n",
        options.tools_dir.c_str());
    return 1;
  }
  std::error_code failure;
  fs::create_directories(options.cache_dir, failure);
  if (access(options.cache_dir.c_str(), W_OK) != 0) {
    std::fprintf(stderr,
                 "proa: a base goes into the cache %s, which this user cannot write: run it as its owner, or choose "
                 "the server's --cache-dir\n",
                 options.cache_dir.c_str());
    return 1;
  }
  std::vector<std::string> argv = {"python3", tool, "--python", options.prefix, "--suite", options.suite};
  for (const std::string& name : options.names) argv.insert(argv.end(), {"--name", name});
  if (options.no_tools) argv.emplace_back("--no-tools");
  if (options.again) argv.emplace_back("--again");
  std::string answer;
  const int status = run_tool(std::move(argv), options.cache_dir, answer);
  if (status < 0) std::fprintf(stderr, "proa: python3 is needed to make a base, and cannot be run\n");
  if (status != 0) return 1;
  std::istringstream lines(answer);
  std::string line;
  while (std::getline(lines, line)) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) continue;
    std::printf("%s answers to %s\n", string_of(json, "name").c_str(),
                joined(strings_of(json, "aliases"), ", ").c_str());
  }
  std::printf(
      "A server that uses the cache %s finds it with its next image build; images that are built already stay as they "
      "are.\n",
      options.cache_dir.c_str());
  return 0;
}

int list_bases(const std::string& cache_dir, bool as_json) {
  std::vector<std::pair<std::string, nlohmann::json>> bases;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(cache_dir + "/bases", failure)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    auto json = nlohmann::json::parse(file, nullptr, false);
    if (json.is_object()) bases.emplace_back(entry.path().stem().string(), std::move(json));
  }
  std::sort(bases.begin(), bases.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  if (as_json) {
    auto all = nlohmann::json::array();
    for (auto& [name, json] : bases) all.push_back(std::move(json));
    std::printf("%s\n", all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return 0;
  }
  if (bases.empty()) {
    std::fprintf(stderr, "proa: there are no bases in %s: tools/images/ensure makes the first ones\n",
                 cache_dir.c_str());
    return 1;
  }
  for (const auto& [name, json] : bases) {
    const auto size = fs::file_size(cache_dir + "/bases/" + string_of(json, "archive"), failure);
    const std::string archive = failure ? "its archive is missing" : std::to_string(size >> 20) + " MiB";
    std::printf("%s (%s): %s\n", name.c_str(), archive.c_str(), string_of(json, "warning").c_str());
    std::vector<std::string> names = strings_of(json, "aliases");
    for (std::string& pattern : strings_of(json, "alias_patterns")) names.push_back(std::move(pattern));
    std::printf("    answers to %s\n", joined(names, ", ").c_str());
    for (const std::string& note : strings_of(json, "notes")) std::printf("    %s\n", note.c_str());
  }
  return 0;
}

std::string default_cache_dir() {
  if (const char* set = std::getenv("PROA_CACHE"); set != nullptr && *set != '\0') return set;
  return "/var/cache/proa";
}

// In a checkout the tools are in the tree; installed, beside the program.
std::string default_tools_dir(const std::string& program) {
  const auto bin = fs::path(program).parent_path();
  for (const auto& place : {bin / "../../../tools/images", bin / "../share/proa/tools/images"}) {
    if (fs::exists(place)) return place.lexically_normal().string();
  }
  return "";
}

}  // namespace

void add_image(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand("image", "Base images of this machine");
  verb->require_subcommand(1);
  auto* base = verb->add_subcommand("base", "What image builds start from where no registry is asked");
  base->require_subcommand(1);

  auto options = std::make_shared<AddOptions>();
  options->cache_dir = default_cache_dir();
  options->tools_dir = default_tools_dir(chosen.program);
  auto* add = base->add_subcommand(
      "add", "Make a base from a Python of this machine, as pyenv, uv or conda lay one out (a minute or two)");
  add->add_option("--python", options->prefix, "Its prefix: the directory that has bin/python3.N")->required();
  add->add_option("--name", options->names,
                  "What it answers to, instead of python:VERSION-slim and the like; may be repeated");
  add->add_option("--suite", options->suite, "Release of Debian under it: bookworm or trixie")->capture_default_str();
  add->add_flag("--no-tools", options->no_tools, "Only the slim base, without the one with compilers and uv");
  add->add_flag("--again", options->again, "Make it though it is there");
  add->add_option("--cache-dir", options->cache_dir, "That of the server")->capture_default_str();
  add->add_option("--tools-dir", options->tools_dir, "The programs that make bases");
  add->callback([=, &chosen] { chosen.run = [=] { return add_base(*options); }; });

  auto cache_dir = std::make_shared<std::string>(default_cache_dir());
  auto as_json = std::make_shared<bool>(false);
  auto* list = base->add_subcommand("list", "The bases that there are, and what each answers to");
  list->add_option("--cache-dir", *cache_dir, "That of the server")->capture_default_str();
  list->add_flag("--json", *as_json, "All that is known of them, for programs");
  list->callback([=, &chosen] { chosen.run = [=] { return list_bases(*cache_dir, *as_json); }; });
}

}  // namespace proa::cli
