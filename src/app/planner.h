// SPDX-License-Identifier: Apache-2.0
//
// Planner: everything a container needs, gathered: its function's image and mounts as trees, the secrets,
// and what its wire's face says about the program to run. The one place where images, mounts, secrets and
// faces meet.
#pragma once

#include <map>
#include <string>

#include "cas/object_store.h"
#include "control/apps.h"
#include "control/environments.h"
#include "control/face.h"
#include "control/images.h"
#include "control/mounts.h"
#include "control/secrets.h"
#include "rt/pool.h"
#include "sched/scheduler.h"

namespace proa::app {

class Planner final : public sched::TaskPlanner {
 public:
  struct Parts {
    Loop& loop;
    Pool& pool;
    cas::ObjectStore& objects;
    control::Apps& apps;
    control::Environments& environments;
    control::Images& images;
    control::Mounts& mounts;
    control::Secrets& secrets;
  };
  explicit Planner(Parts parts) : parts_(parts) {}
  void add_face(std::string name, control::Face& face) { faces_[std::move(name)] = &face; }

  // kNotFound, kFailedPrecondition: the function, its image or one of its mounts is not there any more.
  Async<Result<sched::TaskOrder>> plan(TaskId task, FunctionId function) override;

 private:
  // The mounts of a function as one tree: two of them may lie in one directory.
  Async<Result<Digest>> merged(std::vector<Digest> trees);

  Parts parts_;
  std::map<std::string, control::Face*, std::less<>> faces_;
  std::map<std::vector<Digest>, Digest> merged_;  // Bounded; see merged().
};

}  // namespace proa::app
