// SPDX-License-Identifier: Apache-2.0
//
// Runtime: the one door between a worker and the kernel's idea of a container.
//
// LauncherRuntime drives our launcher; FakeRuntime is what the worker's own tests use; it can be told to be
// slow, to die, or to lose an exit code. Code above this header must not be able to tell which one it has.
//
// Two steps, because everything that can be made before a task is known is made before: a slot is
// namespaces, a network, a cgroup and a process that waits. A slot serves at most one task in its life.
//
// Runs on the worker's loop. A call that is abandoned (its Async destroyed before it is done) leaves the
// slot as the last finished step left it; remove() is how one cleans up after that.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/fd.h"
#include "base/result.h"
#include "rt/async.h"

namespace proa::container {

// Names a slot of this runtime; never used again. 0 is no slot.
using SlotId = std::uint64_t;

enum class Network : std::uint8_t {
  kInternet,  // eth0 to the internet and the configured private ranges; not to other containers or the host.
  kNone,      // Loopback only. The API socket and the blob endpoint work all the same.
};

struct Limits {
  std::int64_t cpu_milli_max = 0;     // 1000 is one core; 0 is no limit.
  std::int64_t cpu_milli_weight = 0;  // The request: its share when the machine is full.
  std::int64_t memory_bytes_max = 0;  // 0 is no limit.
  std::int32_t pids_max = 0;          // 0 is the runtime's default.
};

struct SlotSpec {
  Limits limits;
  Network network = Network::kInternet;
};

using proa::OwnedFd;

// A prepared slot and its ends that the worker holds.
struct Slot {
  SlotId id = 0;
  OwnedFd api_listener;   // Unix stream socket, listening; inside it is kApiSocketPath.
  OwnedFd blob_listener;  // TCP socket, listening on 127.0.0.1:kBlobPort of the slot's network namespace.
  OwnedFd stdout_pipe;    // Read ends.
  OwnedFd stderr_pipe;
  std::string address;    // IPv4 of eth0, "" without one.
};

// Paths and port inside every container.
constexpr std::string_view kPrivateDirectory = "/__proa";
constexpr std::string_view kApiSocketPath = "/__proa/api.sock";
constexpr std::uint16_t kBlobPort = 7180;

// A file put into kPrivateDirectory before the program starts: read-only, mode 0444.
struct PrivateFile {
  std::string name;  // A single path component.
  std::string content;
};

struct TaskSpec {
  // Trees laid over one another, the first lowest; each is in the object store. Their union, with a private
  // writable layer on top, is the container's root.
  std::vector<Digest> trees;
  std::vector<std::string> argv;  // argv[0] is looked up in PATH of `env`.
  std::vector<std::string> env;   // "NAME=value".
  std::string working_directory = "/";  // Made if it is not there.
  std::uint32_t uid = 0;  // As seen inside.
  std::uint32_t gid = 0;
  std::vector<PrivateFile> files;
  std::string hostname;
};

// How the container's first process ended.
struct Exit {
  int code = 0;      // As a shell gives it; 128 + n for signal n.
  bool oom = false;  // The kernel killed something in its cgroup for memory.
  friend bool operator==(const Exit&, const Exit&) = default;
};

struct Usage {
  std::int64_t cpu_micros = 0;
  std::int64_t memory_bytes = 0;       // Now.
  std::int64_t memory_bytes_peak = 0;
};

class Runtime {
 public:
  virtual ~Runtime() = default;

  // Makes a slot for any task that fits `spec`.
  //   kResourceExhausted   no uid range, memory budget or address is free; `message` names which.
  virtual Async<Result<Slot>> prepare(SlotSpec spec) = 0;

  // Runs the task in the slot. At most once for each slot.
  //   kNotFound            a tree is not in the object store.
  //   kFailedPrecondition  the slot has run a task, or its process is gone.
  //   kInvalidArgument     the program is not there or cannot be run; `message` says which.
  virtual Async<Result<void>> start(SlotId slot, TaskSpec task) = 0;

  // Sends `signal` to the container's first process.
  virtual Async<Result<void>> signal(SlotId slot, int signal) = 0;

  // Finishes when the container has ended, however it ended. Any number may wait.
  //   kNotFound            no such slot.
  virtual Async<Result<Exit>> wait(SlotId slot) = 0;

  // Asks the container to stop (SIGINT), and after `grace` makes it. Finishes once it has ended.
  virtual Async<Result<void>> stop(SlotId slot, std::chrono::milliseconds grace) = 0;

  virtual Async<Result<Usage>> usage(SlotId slot) = 0;

  // After the container has ended: what it wrote over its trees, as a stream of the form of
  // docs/formats/layer-stream.md, read from the descriptor until its end.
  virtual Async<Result<OwnedFd>> export_upper(SlotId slot) = 0;

  // Gives back all that prepare() took. Works from any state, on an id never seen too, so that it can be
  // retried until it succeeds.
  virtual Async<Result<void>> remove(SlotId slot) = 0;
};

}  // namespace proa::container
