// SPDX-License-Identifier: Apache-2.0
//
// HostRuntime: for tests, a Runtime whose containers are plain processes of this machine, with no walls at
// all. "@" in a task's environment stands for the slot's own directory, which has the sockets and files that
// a container finds in kPrivateDirectory.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "container/runtime.h"
#include "rt/real_loop.h"

namespace proa::worker {

class HostRuntime final : public container::Runtime {
 public:
  HostRuntime(RealLoop& loop, std::filesystem::path directory) : loop_(loop), directory_(std::move(directory)) {}
  ~HostRuntime() override {
    for (auto& [id, slot] : slots_) {
      if (slot.pid > 0 && !slot.exit) {
        ::kill(slot.pid, SIGKILL);
        ::waitpid(slot.pid, nullptr, 0);
      }
    }
  }

  Async<Result<container::Slot>> prepare(container::SlotSpec) override {
    const container::SlotId id = next_++;
    State& state = slots_[id];
    state.directory = directory_ / std::to_string(id);
    std::filesystem::create_directories(state.directory);
    container::Slot slot;
    slot.id = id;
    slot.api_listener = listen_at(state.directory / "api.sock");
    slot.blob_listener = listen_at(state.directory / "blob.sock");
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) co_return errno_error(errno, "pipe");
    slot.stdout_pipe = OwnedFd(ends[0]);
    state.out = OwnedFd(ends[1]);
    if (::pipe2(ends, O_CLOEXEC) != 0) co_return errno_error(errno, "pipe");
    slot.stderr_pipe = OwnedFd(ends[0]);
    state.err = OwnedFd(ends[1]);
    co_return slot;
  }

  Async<Result<void>> start(container::SlotId id, container::TaskSpec task) override {
    State& state = slots_.at(id);
    for (const container::PrivateFile& file : task.files) {
      std::ofstream(state.directory / file.name, std::ios::binary) << file.content;
    }
    std::vector<std::string> env;
    for (std::string one : task.env) {
      if (const auto at = one.find('@'); at != std::string::npos) one.replace(at, 1, state.directory.string());
      env.push_back(std::move(one));
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, state.out.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, state.err.get(), 2);
    const int error = posix_spawn(&state.pid, task.argv[0].c_str(), &actions, nullptr, pointers(task.argv).data(),
                                  pointers(env).data());
    posix_spawn_file_actions_destroy(&actions);
    state.out.reset(-1);
    state.err.reset(-1);
    if (error != 0) co_return invalid_argument(task.argv[0] + ": " + std::strerror(error));
    co_return Result<void>();
  }

  Async<Result<void>> signal(container::SlotId id, int signal) override {
    ::kill(slots_.at(id).pid, signal);
    co_return Result<void>();
  }

  Async<Result<container::Exit>> wait(container::SlotId id) override {
    State& state = slots_.at(id);
    if (state.exit) co_return *state.exit;
    WatchedFd ended(loop_, static_cast<int>(::syscall(SYS_pidfd_open, state.pid, 0)));
    co_await ended.readable();
    int status = 0;
    ::waitpid(state.pid, &status, 0);
    state.exit = container::Exit{.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
    co_return *state.exit;
  }

  Async<Result<void>> stop(container::SlotId id, std::chrono::milliseconds grace) override {
    if (grace.count() > 0) {
      ::kill(slots_.at(id).pid, SIGINT);
      co_await sleep_for(loop_, grace);
    }
    if (!slots_.at(id).exit) ::kill(slots_.at(id).pid, SIGKILL);
    co_return Result<void>();
  }

  Async<Result<container::Usage>> usage(container::SlotId) override { co_return container::Usage(); }
  Async<Result<OwnedFd>> export_upper(container::SlotId) override { co_return unimplemented("not on the host"); }
  Async<Result<void>> remove(container::SlotId) override { co_return Result<void>(); }

  std::filesystem::path directory_of(container::SlotId id) const { return slots_.at(id).directory; }

 private:
  struct State {
    std::filesystem::path directory;
    OwnedFd out;
    OwnedFd err;
    pid_t pid = 0;
    std::optional<container::Exit> exit;
  };

  static OwnedFd listen_at(const std::filesystem::path& path) {
    OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strncpy(name.sun_path, path.c_str(), sizeof name.sun_path - 1);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) != 0 || ::listen(fd.get(), 64) != 0)
      return {};
    return fd;
  }
  static std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> list;
    for (std::string& word : words) list.push_back(word.data());
    list.push_back(nullptr);
    return list;
  }

  RealLoop& loop_;
  std::filesystem::path directory_;
  std::map<container::SlotId, State> slots_;
  container::SlotId next_ = 1;
};

}  // namespace proa::worker
