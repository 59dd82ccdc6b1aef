// SPDX-License-Identifier: Apache-2.0
//
// The smaller seams of a worker: pipes that can be read on the loop, the machine's load, and the doors
// through which containers speak. Each has a real implementation for RealLoop and a fake in tests.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "container/runtime.h"
#include "rt/async.h"
#include "sched/peer.h"

namespace proa::worker {

class Task;

// The read end of a container's stdout or stderr.
class Pipe {
 public:
  virtual ~Pipe() = default;
  // Up to `bytes_max` bytes, at least one; empty at the end.
  virtual Async<Result<std::string>> read_some(std::size_t bytes_max) = 0;
};

class Pipes {
 public:
  virtual ~Pipes() = default;
  virtual std::unique_ptr<Pipe> open(container::OwnedFd fd) = 0;
};

class LoadProbe {
 public:
  virtual ~LoadProbe() = default;
  // Since the last call.
  virtual sched::Load sample() = 0;
};

// What serves one container's sockets. Its destruction closes them and ends all calls under way on them.
// Runs commands of image builds; see StepHost.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual void run(sched::StepId step) = 0;
  virtual void cancel(const sched::StepId& step) = 0;
};

class Door {
 public:
  virtual ~Door() = default;
};

class Face {
 public:
  virtual ~Face() = default;
  // Begins to serve the container of `task`. The door keeps the task's value alive, not its container.
  virtual std::unique_ptr<Door> open(std::shared_ptr<Task> task, container::OwnedFd api_listener,
                                     container::OwnedFd blob_listener) = 0;
};

}  // namespace proa::worker
