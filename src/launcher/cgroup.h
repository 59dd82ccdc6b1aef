// SPDX-License-Identifier: Apache-2.0
//
// Cgroups: limits and accounts of a slot's processes. Two drivers, for version 1 (a directory in each of
// the cpu, cpuacct, memory and pids hierarchies) and version 2 (one directory); which is there is found out
// at the start. Without either, containers run unlimited, and the worker is told so.
//
// `root` is /sys/fs/cgroup but for tests, which use a tree of plain files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace proa::launcher {

struct CgroupLimits {
  std::int64_t cpu_milli_max = 0;  // 0: none.
  std::int64_t cpu_milli_weight = 0;
  std::int64_t memory_bytes_max = 0;
  std::int32_t pids_max = 0;
};

struct CgroupUsage {
  std::int64_t cpu_micros = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t memory_bytes_peak = 0;
  std::int64_t oom_kills = 0;
};

class Cgroups {
 public:
  virtual ~Cgroups() = default;
  virtual int version() const = 0;
  // `name` is a plain file name.
  virtual Result<void> create(const std::string& name, const CgroupLimits& limits) = 0;
  virtual Result<void> add(const std::string& name, int pid) = 0;
  virtual CgroupUsage usage(const std::string& name) = 0;
  // Kills whatever is in it. Does not wait.
  virtual void kill_all(const std::string& name) = 0;
  // False while processes are in it.
  virtual bool remove(const std::string& name) = 0;
  // Names under ours, as an earlier launcher left them.
  virtual std::vector<std::string> list() = 0;
  // Takes away what all of them were in; does nothing while one is left.
  virtual void close() = 0;
};

// `group` is the name under which all ours are, one for each data directory.
std::unique_ptr<Cgroups> find_cgroups(const std::string& root, const std::string& group);

}  // namespace proa::launcher
