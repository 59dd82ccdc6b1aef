// SPDX-License-Identifier: Apache-2.0
#include "sched/placement.h"

#include <algorithm>
#include <string>

namespace proa::sched {
namespace {

// Above this a further container of a function that has its share would only take its CPU from the others.
constexpr double kBusy = 0.9;

bool holds(const control::Resources& room, const control::Resources& need) {
  return room.cpu_milli >= need.cpu_milli && room.memory_bytes >= need.memory_bytes && room.gpus >= need.gpus;
}

std::string describe(const control::Resources& resources) {
  std::string text = std::to_string(resources.cpu_milli / 1000) + "." + std::to_string(resources.cpu_milli % 1000 / 100) + " cores and " +
                     std::to_string(resources.memory_bytes >> 20) + " MiB of memory";
  if (resources.gpus > 0) text += " and " + std::to_string(resources.gpus) + " GPUs";
  return text;
}

bool better(const WorkerView& a, const WorkerView& b) {
  if (a.starting != b.starting) return a.starting < b.starting;
  if (a.free.memory_bytes != b.free.memory_bytes) return a.free.memory_bytes < b.free.memory_bytes;
  return a.id < b.id;
}

}  // namespace

bool has_room(const control::Resources& need, std::span<const WorkerView> workers) {
  return std::any_of(workers.begin(), workers.end(), [&](const WorkerView& worker) { return holds(worker.free, need); });
}

Result<WorkerId> place(const Demand& demand, std::span<const WorkerView> workers) {
  const control::Resources& need = demand.need;
  if (workers.empty()) return unavailable("no worker is connected");
  const WorkerView* best = nullptr;
  bool ever = false;
  bool room = false;
  for (const WorkerView& worker : workers) {
    if (!holds(worker.total, need)) continue;
    ever = true;
    control::Resources free = worker.free;
    if (demand.may_share_cpu) free.cpu_milli = worker.total.cpu_milli;
    if (!holds(free, need)) continue;
    room = true;
    if (worker.starting >= std::max(worker.cores, 1U)) continue;
    if (worker.of_function >= std::max(worker.cores, 1U) && worker.cpu_busy > kBusy) continue;
    if (best == nullptr || better(worker, *best)) best = &worker;
  }
  if (best != nullptr) return best->id;
  if (!ever) {
    control::Resources largest;
    for (const WorkerView& worker : workers) {
      if (worker.total.memory_bytes > largest.memory_bytes) largest = worker.total;
    }
    return failed_precondition("it needs " + describe(need) + ", and the largest worker has " + describe(largest) + " in all");
  }
  if (!room) return resource_exhausted("all workers are full: it needs " + describe(need));
  return resource_exhausted("all workers are busy starting containers or have no CPU to spare");
}

}  // namespace proa::sched
