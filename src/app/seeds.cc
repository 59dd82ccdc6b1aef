// SPDX-License-Identifier: Apache-2.0
#include "app/seeds.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/fd.h"
#include "cas/import.h"

namespace proa::app {
namespace {

using store::Table;

constexpr Duration kFailureKept = std::chrono::minutes(1);
constexpr int kMakeSeconds = 300;
constexpr std::size_t kFailuresMax = 1000;

// A mount's name becomes a file's and a program's argument.
bool plain(const std::string& name) {
  return !name.empty() && name.size() < 128 && name.front() != '-' && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '_'; });
}

// What tools/images is asked for to make the mount; empty for names that it knows nothing of.
std::vector<std::string> command_for(const std::string& name) {
  constexpr std::string_view kClient = "modal-client-mount-";
  if (name.starts_with(kClient)) return {"client_mount.py", "--modal-version", name.substr(kClient.size())};
  // What the client needs in containers, "2025.06-cp311-manylinux_2_17-x86_64".
  const auto tag = name.find("-cp3");
  if (tag == std::string::npos) return {};
  const auto platform = name.find('-', tag + 1);
  if (platform == std::string::npos) return {};
  return {"client_deps.py", "--builder", name.substr(0, tag), "--python", "3." + name.substr(tag + 4, platform - tag - 4), "--platform", name.substr(platform + 1)};
}

bool is_dependencies(const std::string& name) {
  const std::vector<std::string> command = command_for(name);
  return !command.empty() && command.front() == "client_deps.py";
}

// With posix_spawn: this process has many threads, and a fork of it may do nothing but exec.
Result<void> run_tool(const std::vector<std::string>& tool, const std::string& cache_dir) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  const OwnedFd read_end(ends[0]);
  OwnedFd write_end(ends[1]);
  std::vector<std::string> argv = {"timeout", std::to_string(kMakeSeconds)};
  argv.insert(argv.end(), tool.begin(), tool.end());
  std::vector<std::string> env = {"PROA_CACHE=" + cache_dir, "HOME=" + cache_dir};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("PROA_CACHE=") && !text.starts_with("HOME=")) env.emplace_back(text);
  }
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> out;
    for (std::string& text : strings) out.push_back(text.data());
    out.push_back(nullptr);
    return out;
  };
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), 2);
  pid_t pid = -1;
  const int failure = posix_spawnp(&pid, argv[0].c_str(), &actions, nullptr, pointers(argv).data(), pointers(env).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) return errno_error(failure, "cannot run " + argv[0]);
  write_end.reset(-1);
  std::string said;
  std::array<char, 4096> buffer{};
  for (ssize_t got = read(read_end.get(), buffer.data(), buffer.size()); got > 0; got = read(read_end.get(), buffer.data(), buffer.size())) {
    said.append(buffer.data(), static_cast<std::size_t>(got));
    if (said.size() > 8192) said.erase(0, said.size() - 4096);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (status == 0) return {};
  while (!said.empty() && said.back() == '\n') said.pop_back();
  const auto line = said.rfind('\n');
  return not_found("it could not be made: " + (said.empty() ? "the tool " + tool[1] + " did not run" : said.substr(line == std::string::npos ? 0 : line + 1)));
}

Result<Digest> import_seed(cas::ObjectStore& objects, const std::string& archive) {
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, archive, O_RDONLY));
  PROA_TRY(const cas::Tree tree, cas::import_archive(objects, fd.get(), {}));
  return objects.put_tree(tree);
}

std::vector<std::string> strings_of(const nlohmann::json& value) {
  std::vector<std::string> out;
  if (!value.is_array()) return out;
  for (const auto& each : value) {
    if (each.is_string()) out.push_back(each.get<std::string>());
  }
  return out;
}

}  // namespace

Seeds::Seeds(Loop& loop, Pool& pool, cas::ObjectStore& objects, control::Ledger& ledger, Logger& log, SeedOptions options)
    : loop_(loop), pool_(pool), objects_(objects), ledger_(ledger), log_(log), options_(std::move(options)), resolver_({}, no_registry_, *this) {}

Result<void> Seeds::load(store::Store& store) {
  return store.load(Table::kBase, [&](BytesView key, BytesView value) {
    if (auto seed = decode<Seed>(value); seed.ok()) taken_[std::string(key)] = std::move(*seed);
  });
}

Result<Seeds::Described> Seeds::describe(const std::string& directory, const std::string& name) {
  std::ifstream file(directory + "/" + name + ".json");
  if (!file) return not_found(directory + " has no " + name);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object()) return Error{Code::kDataLoss, directory + "/" + name + ".json is damaged"};
  Described out;
  const auto text = [](const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const std::string archive = text(json, "archive");
  if (archive.empty() || archive.find('/') != std::string::npos) return Error{Code::kDataLoss, directory + "/" + name + ".json names no archive"};
  out.archive = directory + "/" + archive;
  out.seed.recipe = text(json, "recipe");
  image::BaseRecord& base = out.seed.base;
  base.name = name;
  base.description = text(json, "warning");
  base.added = json.contains("added") && json["added"] == true;
  base.stands_for = strings_of(json.value("aliases", nlohmann::json::array()));
  for (std::string& pattern : strings_of(json.value("alias_patterns", nlohmann::json::array()))) base.stands_for.push_back(std::move(pattern));
  constexpr std::string_view kRun = "RUN ";
  for (const std::string& command : strings_of(json.value("extra_commands", nlohmann::json::array()))) {
    base.premade.push_back(command.starts_with(kRun) ? command.substr(kRun.size()) : command);
  }
  if (const auto config = json.find("config"); config != json.end() && config->is_object()) {
    base.config.cmd = strings_of(config->value("cmd", nlohmann::json::array()));
    base.config.entrypoint = strings_of(config->value("entrypoint", nlohmann::json::array()));
    base.config.user = text(*config, "user");
    if (const std::string workdir = text(*config, "workdir"); workdir != "/") base.config.workdir = workdir;
    if (const auto env = config->find("env"); env != config->end() && env->is_object()) {
      for (const auto& [key, value] : env->items()) {
        if (value.is_string()) image::set_env(base.config.env, key, value.get<std::string>());
      }
    }
  }
  return out;
}

Async<Result<Digest>> Seeds::take_in(std::string key, Described described) {
  log_.info("seed.taken_in", {{"name", key}});
  cas::ObjectStore* const objects = &objects_;
  auto work = [objects, archive = described.archive] { return import_seed(*objects, archive); };
  PROA_CO_TRY(const Digest tree, co_await run_in(pool_, loop_, std::move(work)));
  described.seed.base.tree = tree;
  ledger_.put(Table::kBase, key, described.seed);
  taken_[key] = std::move(described.seed);
  co_return tree;
}

Async<Result<Digest>> Seeds::once(std::string key, std::string recipe, Async<Result<Digest>> work) {
  const std::string flight = key + " " + recipe;
  while (true) {
    if (const auto found = taken_.find(key); found != taken_.end() && (recipe.empty() || found->second.recipe == recipe)) co_return found->second.base.tree;
    if (const auto failed = failures_.find(flight); failed != failures_.end() && loop_.now() < failed->second.until) co_return failed->second.error;
    const auto running = under_way_.find(flight);
    if (running == under_way_.end()) break;
    const std::shared_ptr<Signal> signal = running->second;
    co_await signal->wait();
  }
  struct Running {
    Seeds& seeds;
    std::string flight;
    std::shared_ptr<Signal> signal;
    ~Running() {
      seeds.under_way_.erase(flight);
      signal->notify();
    }
  };
  auto signal = std::make_shared<Signal>(loop_);
  under_way_.emplace(flight, signal);
  const Running running{*this, flight, signal};
  Result<Digest> result = co_await std::move(work);
  if (result.ok()) {
    failures_.erase(flight);
  } else {
    // Names come from clients.
    if (failures_.size() >= kFailuresMax) std::erase_if(failures_, [&](const auto& each) { return each.second.until <= loop_.now(); });
    if (failures_.size() >= kFailuresMax) failures_.clear();
    failures_[flight] = {result.error(), loop_.now() + kFailureKept};
  }
  co_return result;
}

Result<Seeds::Described> Seeds::describe_mount(const std::string& name) const {
  for (const std::string& cache : {options_.cache_dir, options_.own_cache_dir}) {
    if (auto described = describe(cache + "/mounts", name); described.ok()) return described;
  }
  return not_found("the mount '" + name + "' is in no cache");
}

Async<Result<Digest>> Seeds::make_mount(std::string name) {
  if (auto described = describe_mount(name); described.ok()) co_return co_await take_in("mount/" + name, std::move(*described));
  std::vector<std::string> argv = command_for(name);
  // What clients mount into images of a registry that have no Python.
  if (name.starts_with("python-build-standalone.")) {
    co_return unimplemented("add_python is for images from a registry, and these are not there yet: use modal.Image.debian_slim(), or make a base image with `proa image base add`");
  }
  if (argv.empty() || options_.tools_dir.empty()) co_return not_found("there is no mount '" + name + "' for everybody, and none can be made here");
  argv[0] = options_.tools_dir + "/" + argv[0];
  argv.insert(argv.begin(), options_.python);
  log_.info("seed.made", {{"name", name}});
  auto work = [argv, cache = options_.own_cache_dir] { return run_tool(argv, cache); };
  const Result<void> made = co_await run_in(pool_, loop_, std::move(work));
  if (!made.ok()) co_return Error{made.error().code, "the mount '" + name + "' is not there, and " + made.error().message};
  PROA_CO_TRY(Described described, describe(options_.own_cache_dir + "/mounts", name));
  co_return co_await take_in("mount/" + name, std::move(described));
}

Async<Result<Digest>> Seeds::find(std::string name) {
  if (!plain(name)) co_return not_found("'" + name.substr(0, 100) + "' is not the name of a mount");
  const std::string key = "mount/" + name;
  const bool at_hand = taken_.contains(key) || describe_mount(name).ok();
  if (!is_dependencies(name) || at_hand) co_return co_await once(key, "", make_mount(name));
  // A container is about to start, and making it takes a download. Its worker asks again.
  const std::string flight = key + " ";
  if (const auto failed = failures_.find(flight); failed != failures_.end() && loop_.now() < failed->second.until) {
    co_return failed_precondition("functions cannot run in this image without what the client needs there: " + failed->second.error.message);
  }
  if (!under_way_.contains(flight)) scope_.spawn(make_in_background(name));
  co_return unavailable("what the client needs in this image ('" + name + "') is being made");
}

Async<> Seeds::make_in_background(std::string name) {
  const auto made = co_await once("mount/" + name, "", make_mount(name));
  if (!made.ok()) log_.warning("seed.failed", {{"name", name}, {"why", made.error().message}});
}

Async<Result<Digest>> Seeds::make_ready(std::string name, image::BuildLog& log) {
  if (!plain(name)) co_return not_found("'" + name.substr(0, 100) + "' is not the name of a mount");
  if (!taken_.contains("mount/" + name)) log.write(image::LogStream::kStdout, "Preparing what the client needs in this image (" + name + ")\n");
  co_return co_await once("mount/" + name, "", make_mount(name));
}

std::vector<image::BaseRecord> Seeds::bases() const {
  std::vector<image::BaseRecord> out;
  // What somebody added goes before what we made, and what has more in it before what has less.
  for (const bool added : {true, false}) {
    for (const bool richer : {true, false}) {
      for (const auto& [key, seed] : taken_) {
        if (key.starts_with("base/") && seed.base.added == added && seed.base.premade.empty() != richer) out.push_back(seed.base);
      }
    }
  }
  return out;
}

Async<Result<void>> Seeds::take_in_bases() {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(options_.cache_dir + "/bases", ignored)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  for (const std::string& name : names) {
    const std::string key = "base/" + name;
    auto described = describe(options_.cache_dir + "/bases", name);
    if (!described.ok()) continue;
    if (const auto found = taken_.find(key); found != taken_.end() && found->second.recipe == described->seed.recipe) continue;
    const std::string recipe = described->seed.recipe;
    const auto taken = co_await once(key, recipe, take_in(key, std::move(*described)));
    if (!taken.ok()) log_.warning("seed.failed", {{"name", key}, {"why", taken.error().message}});
  }
  co_return Result<void>();
}

Async<Result<image::BaseImage>> Seeds::resolve(image::BaseRequest request, image::BuildLog& log) {
  PROA_CO_TRY_VOID(co_await take_in_bases());
  co_return co_await resolver_.resolve(std::move(request), log);
}

}  // namespace proa::app
