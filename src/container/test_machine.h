// SPDX-License-Identifier: Apache-2.0
//
// TestMachine: a launcher of its own, in a directory of its own, with a Debian root file system in its object
// store; and the calls of Runtime as plain blocking ones. For tests that start real containers, as root.
//
// The root file system is made once by mmdebstrap and kept in ${PROA_CACHE:-~/.cache/proa}/test-rootfs, its objects
// beside it in test-objects.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cas/object_store.h"
#include "container/launcher_runtime.h"

namespace proa::container {

// What a finished program left.
struct Outcome {
  Exit exit;
  std::string out;
  std::string err;
};

class TestMachine {
 public:
  // Why containers cannot be tried here, or "".
  static std::string obstacle();

  TestMachine();
  ~TestMachine();
  TestMachine(const TestMachine&) = delete;
  TestMachine& operator=(const TestMachine&) = delete;

  LauncherRuntime& runtime() { return *runtime_; }
  RealLoop& loop() { return loop_; }
  cas::ObjectStore& objects() { return *objects_; }
  const Digest& rootfs() const { return rootfs_; }
  const std::string& directory() const { return directory_; }
  pid_t launcher() const { return launcher_; }
  bool lost() const { return lost_; }
  int raw_socket() const { return raw_socket_; }  // The worker's end.

  // Ends the launcher as `how` says and starts another on the same directory.
  void start_launcher();
  void kill_launcher();
  void close_socket();

  template <class T>
  T wait_for(Async<T> work) {
    std::optional<T> result;
    Scope scope;
    scope.spawn(store(std::move(work), &result));
    while (!result) loop_.run_one();
    return std::move(*result);
  }
  void turn_until(const std::function<bool()>& done, std::chrono::milliseconds at_most);

  TaskSpec task(std::vector<std::string> argv) const;
  TaskSpec shell(const std::string& script) const { return task({"/bin/sh", "-c", script}); }
  TaskSpec python(const std::string& script) const { return task({"/usr/bin/python3", "-c", script}); }
  // Prepares, starts, waits, reads what it says, removes.
  Outcome run(TaskSpec task, SlotSpec spec = {.network = Network::kNone});
  // What the slot's program says until it closes its output.
  std::string read_all(const OwnedFd& pipe);

 private:
  template <class T>
  static Async<> store(Async<T> work, std::optional<T>* result) {
    result->emplace(co_await std::move(work));
  }

  RealLoop loop_;
  NullLogger log_;
  std::string directory_;
  std::unique_ptr<cas::ObjectStore> objects_;
  Digest rootfs_;
  std::unique_ptr<LauncherRuntime> runtime_;
  pid_t launcher_ = -1;
  int raw_socket_ = -1;
  bool lost_ = false;
};

}  // namespace proa::container
