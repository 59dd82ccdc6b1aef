// SPDX-License-Identifier: Apache-2.0
#include "launcher/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace proa::launcher {
namespace {

constexpr std::int64_t kPeriodMicros = 100'000;

Result<void> write_file(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno_error(errno, path);
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int code = errno;
  close(fd);
  if (!written) return errno_error(code, path);
  return {};
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::int64_t read_number(const std::string& path) { return std::atoll(read_file(path).c_str()); }

// The number behind `key` in a file of "key number" lines.
std::int64_t read_field(const std::string& path, const std::string& key) {
  std::istringstream lines(read_file(path));
  std::string name;
  std::int64_t value = 0;
  while (lines >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

Result<void> make_directory(const std::string& path) {
  if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return errno_error(errno, "cannot make the cgroup " + path);
  return {};
}

void kill_in(const std::string& directory) {
  std::istringstream pids(read_file(directory + "/cgroup.procs"));
  for (pid_t pid = 0; pids >> pid;) {
    if (pid > 1) kill(pid, SIGKILL);
  }
}

std::vector<std::string> directories_in(const std::string& path) {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    if (entry.is_directory(ignored)) out.push_back(entry.path().filename().string());
  }
  return out;
}

// CPU shares for a weight in thousandths of a core: 1024 is one core's.
std::int64_t shares(std::int64_t milli) { return std::clamp<std::int64_t>(milli * 1024 / 1000, 2, 262'144); }

class CgroupsV1 final : public Cgroups {
 public:
  CgroupsV1(std::string root, std::string group) : root_(std::move(root)), group_(std::move(group)) {}
  int version() const override { return 1; }

  Result<void> open() {
    for (const char* controller : kControllers) PROA_TRY_VOID(make_directory(root_ + "/" + controller + "/" + group_));
    return {};
  }

  Result<void> create(const std::string& name, const CgroupLimits& limits) override {
    for (const char* controller : kControllers) PROA_TRY_VOID(make_directory(path(controller, name)));
    if (limits.memory_bytes_max > 0) {
      const std::string bytes = std::to_string(limits.memory_bytes_max);
      PROA_TRY_VOID(write_file(path("memory", name) + "/memory.limit_in_bytes", bytes));
      // Not there where the kernel counts no swap.
      (void)write_file(path("memory", name) + "/memory.memsw.limit_in_bytes", bytes).ok();
    }
    if (limits.cpu_milli_max > 0) {
      PROA_TRY_VOID(write_file(path("cpu", name) + "/cpu.cfs_period_us", std::to_string(kPeriodMicros)));
      PROA_TRY_VOID(write_file(path("cpu", name) + "/cpu.cfs_quota_us", std::to_string(std::max<std::int64_t>(1000, limits.cpu_milli_max * kPeriodMicros / 1000))));
    }
    if (limits.cpu_milli_weight > 0) PROA_TRY_VOID(write_file(path("cpu", name) + "/cpu.shares", std::to_string(shares(limits.cpu_milli_weight))));
    if (limits.pids_max > 0) PROA_TRY_VOID(write_file(path("pids", name) + "/pids.max", std::to_string(limits.pids_max)));
    return {};
  }

  Result<void> add(const std::string& name, int pid) override {
    for (const char* controller : kControllers) PROA_TRY_VOID(write_file(path(controller, name) + "/cgroup.procs", std::to_string(pid)));
    return {};
  }

  CgroupUsage usage(const std::string& name) override {
    CgroupUsage usage;
    usage.cpu_micros = read_number(path("cpuacct", name) + "/cpuacct.usage") / 1000;
    usage.memory_bytes = read_number(path("memory", name) + "/memory.usage_in_bytes");
    usage.memory_bytes_peak = read_number(path("memory", name) + "/memory.max_usage_in_bytes");
    usage.oom_kills = read_field(path("memory", name) + "/memory.oom_control", "oom_kill");
    return usage;
  }

  void kill_all(const std::string& name) override { kill_in(path("pids", name)); }

  bool remove(const std::string& name) override {
    bool gone = true;
    for (const char* controller : kControllers) gone = (rmdir(path(controller, name).c_str()) == 0 || errno == ENOENT) && gone;
    return gone;
  }

  std::vector<std::string> list() override { return directories_in(root_ + "/pids/" + group_); }
  void close() override {
    for (const char* controller : kControllers) rmdir((root_ + "/" + controller + "/" + group_).c_str());
  }

 private:
  static constexpr const char* kControllers[] = {"cpu", "cpuacct", "memory", "pids"};
  std::string path(const std::string& controller, const std::string& name) const { return root_ + "/" + controller + "/" + group_ + "/" + name; }
  std::string root_;
  std::string group_;
};

class CgroupsV2 final : public Cgroups {
 public:
  CgroupsV2(std::string root, std::string group) : root_(std::move(root) + "/" + group) , parent_(root_.substr(0, root_.rfind('/'))) {}
  int version() const override { return 2; }

  Result<void> open() {
    (void)write_file(parent_ + "/cgroup.subtree_control", "+cpu +memory +pids").ok();
    PROA_TRY_VOID(make_directory(root_));
    return write_file(root_ + "/cgroup.subtree_control", "+cpu +memory +pids");
  }

  Result<void> create(const std::string& name, const CgroupLimits& limits) override {
    PROA_TRY_VOID(make_directory(path(name)));
    if (limits.memory_bytes_max > 0) {
      PROA_TRY_VOID(write_file(path(name) + "/memory.max", std::to_string(limits.memory_bytes_max)));
      (void)write_file(path(name) + "/memory.swap.max", "0").ok();
      (void)write_file(path(name) + "/memory.oom.group", "0").ok();
    }
    if (limits.cpu_milli_max > 0) {
      PROA_TRY_VOID(write_file(path(name) + "/cpu.max", std::to_string(std::max<std::int64_t>(1000, limits.cpu_milli_max * kPeriodMicros / 1000)) + " " + std::to_string(kPeriodMicros)));
    }
    if (limits.cpu_milli_weight > 0) {
      // Shares to weight as the kernel's own documentation has it: 1 + (shares − 2) × 9999 / 262142.
      const std::int64_t weight = 1 + (shares(limits.cpu_milli_weight) - 2) * 9999 / 262'142;
      PROA_TRY_VOID(write_file(path(name) + "/cpu.weight", std::to_string(weight)));
    }
    if (limits.pids_max > 0) PROA_TRY_VOID(write_file(path(name) + "/pids.max", std::to_string(limits.pids_max)));
    return {};
  }

  Result<void> add(const std::string& name, int pid) override { return write_file(path(name) + "/cgroup.procs", std::to_string(pid)); }

  CgroupUsage usage(const std::string& name) override {
    CgroupUsage usage;
    usage.cpu_micros = read_field(path(name) + "/cpu.stat", "usage_usec");
    usage.memory_bytes = read_number(path(name) + "/memory.current");
    usage.memory_bytes_peak = read_number(path(name) + "/memory.peak");
    usage.oom_kills = read_field(path(name) + "/memory.events", "oom_kill");
    return usage;
  }

  void kill_all(const std::string& name) override {
    if (!write_file(path(name) + "/cgroup.kill", "1").ok()) kill_in(path(name));
  }
  bool remove(const std::string& name) override { return rmdir(path(name).c_str()) == 0 || errno == ENOENT; }
  std::vector<std::string> list() override { return directories_in(root_); }
  void close() override { rmdir(root_.c_str()); }

 private:
  std::string path(const std::string& name) const { return root_ + "/" + name; }
  std::string root_;
  std::string parent_;
};

}  // namespace

std::unique_ptr<Cgroups> find_cgroups(const std::string& root, const std::string& group) {
  const std::string controllers = " " + read_file(root + "/cgroup.controllers") + " ";
  if (controllers.find(" memory") != std::string::npos) {
    auto found = std::make_unique<CgroupsV2>(root, group);
    if (found->open().ok()) return found;
  }
  std::error_code ignored;
  if (std::filesystem::exists(root + "/memory/memory.limit_in_bytes", ignored)) {
    auto found = std::make_unique<CgroupsV1>(root, group);
    if (found->open().ok()) return found;
  }
  return nullptr;
}

}  // namespace proa::launcher
