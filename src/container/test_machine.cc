// SPDX-License-Identifier: Apache-2.0
#include "container/test_machine.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "cas/import.h"

namespace proa::container {
namespace {

std::string cache() {
  if (const char* set = std::getenv("PROA_CACHE")) return set;
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "/root") + "/.cache/proa";
}

// As ObjectStore has it, for a copy by links.
std::string objects_directory() { return cache() + "/test-objects"; }

Digest make_rootfs(cas::ObjectStore& objects) {
  const std::string rootfs = cache() + "/test-rootfs";
  const std::string note = cache() + "/test-objects/rootfs";
  std::string hex;
  std::ifstream(note) >> hex;
  if (auto digest = Digest::from_hex(hex); digest.ok() && objects.get_tree(*digest).ok()) return *digest;
  if (!std::filesystem::exists(rootfs + "/usr/bin/python3")) {
    const std::string part = rootfs + ".part";
    std::error_code ignored;
    std::filesystem::remove_all(part, ignored);
    const std::string command = "mmdebstrap --quiet --variant=minbase --include=python3 bookworm '" + part + "' >&2";
    PROA_CHECK(std::system(command.c_str()) == 0);
    std::filesystem::rename(part, rootfs);
  }
  auto tree = cas::import_directory(objects, rootfs, {});
  PROA_CHECK(tree.ok());
  const Digest digest = objects.put_tree(*tree).value();
  std::ofstream(note) << digest.hex() << "\n";
  return digest;
}

Async<> collect(RealLoop& loop, int fd, std::string* text, bool* ended) {
  WatchedFd pipe(loop, fd);
  while (true) {
    auto piece = co_await pipe.read_some(64 << 10);
    if (!piece.ok() || piece->empty()) break;
    *text += *piece;
  }
  *ended = true;
}

}  // namespace

std::string TestMachine::obstacle() {
  if (geteuid() != 0) return "containers are made by root";
  return "";
}

TestMachine::TestMachine() {
  directory_ = std::filesystem::temp_directory_path() / ("proa-test-" + std::to_string(getpid()) + "-" + std::to_string(loop_.now().time_since_epoch().count()));
  // Closed to others, as home directories are: the way of containers to their roots must not lead through here.
  std::filesystem::create_directories(directory_);
  chmod(directory_.c_str(), 0700);
  std::filesystem::create_directories(cache());
  objects_ = cas::ObjectStore::open(objects_directory()).value();
  rootfs_ = make_rootfs(*objects_);
  start_launcher();
}

TestMachine::~TestMachine() {
  close_socket();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void TestMachine::start_launcher() {
  int ends[2];
  PROA_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  launcher_ = fork();
  if (launcher_ == 0) {
    const int socket = dup(ends[0]);  // Without close-on-exec.
    execl(PROA_LAUNCHER, PROA_LAUNCHER, "--socket-fd", std::to_string(socket).c_str(), "--state-dir", (directory_ + "/launcher").c_str(), "--objects-dir",
          objects_directory().c_str(), nullptr);
    _exit(127);
  }
  close(ends[0]);
  raw_socket_ = ends[1];
  lost_ = false;
  runtime_ = LauncherRuntime::create(loop_, ends[1], log_, [this] { lost_ = true; });
}

void TestMachine::kill_launcher() {
  kill(launcher_, SIGKILL);
  waitpid(launcher_, nullptr, 0);
  launcher_ = -1;
}

void TestMachine::close_socket() {
  runtime_.reset();
  if (launcher_ > 0) waitpid(launcher_, nullptr, 0);
  launcher_ = -1;
}

void TestMachine::turn_until(const std::function<bool()>& done, std::chrono::milliseconds at_most) {
  const Time deadline = loop_.now() + at_most;
  while (!done() && loop_.now() < deadline) {
    // A timer so that there is always something to wait for.
    loop_.at(loop_.now() + std::chrono::milliseconds(5), [] {});
    loop_.run_one();
  }
}

TaskSpec TestMachine::task(std::vector<std::string> argv) const {
  TaskSpec task;
  task.trees = {rootfs_};
  task.argv = std::move(argv);
  task.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"};
  task.hostname = "proa";
  return task;
}

Outcome TestMachine::run(TaskSpec task, SlotSpec spec) {
  Outcome outcome;
  auto slot = wait_for(runtime_->prepare(spec));
  if (!slot.ok()) {
    ADD_FAILURE() << "prepare: " << slot.error().message;
    return outcome;
  }
  Scope scope;
  bool out_ended = false;
  bool err_ended = false;
  scope.spawn(collect(loop_, slot->stdout_pipe.release(), &outcome.out, &out_ended));
  scope.spawn(collect(loop_, slot->stderr_pipe.release(), &outcome.err, &err_ended));
  const auto started = wait_for(runtime_->start(slot->id, std::move(task)));
  EXPECT_TRUE(started.ok()) << started.error().message;
  auto exit = wait_for(runtime_->wait(slot->id));
  EXPECT_TRUE(exit.ok()) << exit.error().message;
  if (exit.ok()) outcome.exit = *exit;
  turn_until([&] { return out_ended && err_ended; }, std::chrono::seconds(10));
  EXPECT_TRUE(wait_for(runtime_->remove(slot->id)).ok());
  return outcome;
}

std::string TestMachine::read_all(const OwnedFd& pipe) {
  std::string text;
  bool ended = false;
  Scope scope;
  scope.spawn(collect(loop_, dup(pipe.get()), &text, &ended));
  turn_until([&] { return ended; }, std::chrono::seconds(20));
  return text;
}

}  // namespace proa::container
