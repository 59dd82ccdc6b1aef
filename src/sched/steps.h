// SPDX-License-Identifier: Apache-2.0
//
// Steps: the server's half of running a build's commands on workers. Implements image::StepRunner: a step is
// given to a connected worker, which fetches its order, sends its output as it comes, and at the end the tree
// of what it wrote.
//
// Nothing of it is stored: a step dies with its server, and its build begins again. On the server's loop.
#pragma once

#include <map>
#include <memory>

#include "image/step_runner.h"
#include "rt/loop.h"
#include "sched/scheduler.h"

namespace proa::sched {

class Steps final : public image::StepRunner, public StepCalls {
 public:
  // Reads a tree that a worker has put into the store.
  using ReadTree = std::function<Async<Result<cas::Tree>>(Digest)>;
  Steps(Loop& loop, Random& random, Scheduler& scheduler, ReadTree read_tree) : loop_(loop), random_(random), scheduler_(scheduler), read_tree_(std::move(read_tree)) {}

  // kUnavailable: no worker is connected, or the one that ran it was lost.
  Async<Result<image::StepOutcome>> run(image::StepSpec spec, image::BuildLog& log) override;

  Async<Result<StepOrder>> fetch_step(StepId step) override;
  Async<Result<void>> put_step_output(StepOutput output) override;
  Async<Result<void>> finish_step(StepResult result) override;
  // Its worker is gone.
  void worker_lost(WorkerId worker);

 private:
  struct Running {
    explicit Running(Loop& loop) : changed(loop) {}
    StepOrder order;
    WorkerId worker;
    image::BuildLog* log = nullptr;
    std::optional<Result<StepResult>> result;
    Signal changed;
  };

  Loop& loop_;
  Random& random_;
  Scheduler& scheduler_;
  ReadTree read_tree_;
  std::map<StepId, std::shared_ptr<Running>> running_;
};

}  // namespace proa::sched
