// SPDX-License-Identifier: Apache-2.0
//
// Placement: which worker should run a task that is waiting.
//
// A pure decision: given a snapshot of the fleet it answers, and touches nothing. Whoever asks (Scheduler)
// owns the fleet and makes the reservation. Kept pure so that the simulator can ask it a million times, and
// so that "why did it land there?" has an answer we can replay.
#pragma once

#include <span>

#include "base/id.h"
#include "base/result.h"
#include "control/types.h"

namespace proa::sched {

struct WorkerView {
  WorkerId id;
  control::Resources total;
  control::Resources free;
  std::uint32_t cores = 0;
  std::uint32_t starting = 0;  // Tasks that have been given to it and do not run user code yet.
  double cpu_busy = 0;         // 0 … 1.
  std::uint32_t of_function = 0;  // Tasks of the same function.
};

struct Demand {
  control::Resources need;
  // The function has no container at all: rather than to wait for ever for others that may wait for it, it shares CPU that is
  // reserved already. Memory and GPUs are never shared.
  bool may_share_cpu = false;
};

// Whether any worker has all of `need` to spare.
bool has_room(const control::Resources& need, std::span<const WorkerView> workers);

// Chooses a worker for `demand` among `workers`, or says why none will do:
//   kResourceExhausted   none has room now, or all are busy starting others; a later call may succeed.
//   kFailedPrecondition  none, however empty, could ever hold it; the message says what is too small.
//   kUnavailable         there are no workers at all.
//
// Only so many containers start at a time on a worker as it has cores: more would only make all of them
// late. A function that has as many there as cores gets more only while there is idle CPU for them. Equal candidates go to the one with least memory left, so that big tasks keep a place to land. The
// order of `workers` does not matter.
Result<WorkerId> place(const Demand& demand, std::span<const WorkerView> workers);

}  // namespace proa::sched
