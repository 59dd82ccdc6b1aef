// SPDX-License-Identifier: Apache-2.0
//
// StepHost: runs commands of image builds on this worker. Each gets a container of its own; its output goes to
// the server as it comes, and what it wrote becomes a tree in the object store.
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

class StepHost final : public StepRunner {
 public:
  StepHost(Loop& loop, Pool& pool, container::Runtime& runtime, Pipes& pipes, cas::ObjectStore& objects,
           sched::StepCalls& server)
      : loop_(loop), pool_(pool), runtime_(runtime), pipes_(pipes), objects_(objects), server_(server) {}

  void run(sched::StepId step) override;
  void cancel(const sched::StepId& step) override;

 private:
  Async<> serve(sched::StepId step);
  Async<Result<sched::StepResult>> execute(sched::StepOrder order);
  Async<Result<sched::StepResult>> execute_in(container::SlotId slot, sched::StepOrder order);
  Async<> pump(sched::StepId step, control::LogStream stream, std::unique_ptr<Pipe> pipe, std::shared_ptr<int> open);
  Async<> remove_slot(container::SlotId slot);

  Loop& loop_;
  Pool& pool_;
  container::Runtime& runtime_;
  Pipes& pipes_;
  cas::ObjectStore& objects_;
  sched::StepCalls& server_;
  std::map<sched::StepId, std::unique_ptr<Scope>> running_;
  Scope cleanup_;
};

}  // namespace proa::worker
