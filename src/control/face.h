// SPDX-License-Identifier: Apache-2.0
//
// Face: what a wire must say for its functions to run in containers.
//
// The core keeps a function's definition in the form of the wire it came by, unread. When a container is to
// be started, the face of that wire says with which program and files; the core adds image, limits, network
// and secrets. Each api/ adapter implements one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/digest.h"
#include "base/id.h"
#include "base/result.h"
#include "control/types.h"
#include "rt/async.h"

namespace proa::control {

struct RunnerQuestion {
  TaskId task;
  FunctionId function;
  std::string environment;  // Name.
  std::string image_builder_version;
  std::string python_tag;   // Of the image, as "cp311"; "" without Python.
  bool musl = false;
};

struct RunnerPlan {
  std::vector<std::string> argv;
  std::vector<std::pair<std::string, std::string>> env;  // Wins over the image's, loses to secrets where a user may set it.
  // Lists of directories that come before what the image or a secret has under the name.
  std::vector<std::pair<std::string, std::string>> env_before;
  std::map<std::string, Bytes> files;  // Into the container's private directory.
  std::vector<Digest> trees;           // Laid over the image, below the function's own mounts.
  std::string default_working_directory = "/";
};

class Face {
 public:
  virtual ~Face() = default;
  // kNotFound if the function has gone, kFailedPrecondition with what stands in the way (no Python …).
  virtual Async<Result<RunnerPlan>> runner(RunnerQuestion question) = 0;
};

}  // namespace proa::control
