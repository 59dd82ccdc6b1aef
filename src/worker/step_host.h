// SPDX-License-Identifier: Apache-2.0
//
// StepHost: runs commands of image builds on this worker. Each gets a container of its own; its output goes to
// the server as it comes, and what it wrote becomes a tree in the object store. Its memory, processes and time are
// limited; a step that is ended for one of these says so in the build's log.
//
// On the worker's loop. Destroying it ends the steps that run.
#pragma once

#include <map>
#include <memory>

#include "cas/object_store.h"
#include "container/runtime.h"
#include "rt/loop.h"
#include "rt/pool.h"
#include "sched/peer.h"
#include "worker/seams.h"

namespace proa::worker {

// What one step may use, whatever its order says.
struct StepLimits {
  std::int64_t memory_bytes_max = 0;  // 0 is no limit.
  std::int32_t pids_max = 4096;       // A compiler for each of many cores, and no fork bomb.
  Duration time_max = std::chrono::hours(2);
};

// Half of the machine's memory, and at least 1 GiB: a build is not to push containers out, and installs what it
// must. At most 64 GiB.
StepLimits step_limits_for(std::int64_t machine_memory_bytes);
StepLimits step_limits_of_this_machine();

class StepHost final : public StepRunner {
 public:
  StepHost(Loop& loop, Pool& pool, container::Runtime& runtime, Pipes& pipes, cas::ObjectStore& objects,
           sched::StepCalls& server, StepLimits limits = step_limits_of_this_machine())
      : loop_(loop),
        pool_(pool),
        runtime_(runtime),
        pipes_(pipes),
        objects_(objects),
        server_(server),
        limits_(limits) {}

  void run(sched::StepId step) override;
  void cancel(const sched::StepId& step) override;

 private:
  Async<> serve(sched::StepId step);
  Async<Result<sched::StepResult>> execute(sched::StepOrder order);
  Async<Result<sched::StepResult>> execute_in(container::SlotId slot, sched::StepOrder order);
  Async<> pump(sched::StepId step, control::LogStream stream, std::unique_ptr<Pipe> pipe, std::shared_ptr<int> open);
  // Says in the build's log why a step was ended, if it was.
  Async<> explain(sched::StepResult result, Duration timeout);
  Async<> put_output(sched::StepOutput output);
  Async<> remove_slot(container::SlotId slot);

  Loop& loop_;
  Pool& pool_;
  container::Runtime& runtime_;
  Pipes& pipes_;
  cas::ObjectStore& objects_;
  sched::StepCalls& server_;
  StepLimits limits_;
  std::map<sched::StepId, std::unique_ptr<Scope>> running_;
  Scope cleanup_;
};

}  // namespace proa::worker
