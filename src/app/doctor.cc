// SPDX-License-Identifier: Apache-2.0
#include "app/doctor.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace proa::app {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool contains_word(const std::string& path, const std::string& word) {
  std::ifstream file(path);
  std::string each;
  while (file >> each) {
    if (each == word) return true;
  }
  return false;
}

bool in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::stringstream rest(std::string(path != nullptr ? path : "") + ":/usr/sbin:/sbin");
  std::string directory;
  while (std::getline(rest, directory, ':')) {
    if (access((directory + "/" + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

// Whether a child can make these namespaces.
bool can_unshare(int flags) {
  const pid_t pid = fork();
  if (pid == 0) _exit(unshare(flags) == 0 ? 0 : 1);
  int status = 0;
  return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Finding kernel() {
  utsname name{};
  uname(&name);
  int major = 0;
  int minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  // Overlay mounts from descriptors (6.13), data-only layers (6.5) and files as erofs devices (6.12).
  const bool enough = major > 6 || (major == 6 && minor >= 13);
  return {"kernel", enough ? Grade::kGood : Grade::kBad, std::string("Linux ") + name.release,
          enough ? "" : "Linux 6.13 or newer is needed: overlay mounts whose layers are given as descriptors, and erofs images without a loop device"};
}

Finding root() {
  if (geteuid() == 0) return {"user", Grade::kGood, "root: the launcher keeps it, server and worker run as an unprivileged user", ""};
  return {"user", Grade::kBad, "not root", "run as root: this version cannot start containers without"};
}

Finding file_systems() {
  std::string missing;
  for (const char* name : {"overlay", "erofs", "tmpfs"}) {
    if (!contains_word("/proc/filesystems", name)) missing += std::string(missing.empty() ? "" : ", ") + name;
  }
  if (missing.empty()) return {"filesystems", Grade::kGood, "overlay, erofs, tmpfs", ""};
  return {"filesystems", Grade::kLess, "not listed by the kernel yet: " + missing, "if they are modules they load when first used; else `modprobe " + missing + "`"};
}

Finding namespaces() {
  if (can_unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) {
    return {"namespaces", Grade::kGood, "user, mount, pid, net, ipc, uts", ""};
  }
  return {"namespaces", Grade::kBad, "cannot be made", "allow user namespaces: sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone"};
}

Finding cgroups() {
  const std::string controllers = first_line("/sys/fs/cgroup/cgroup.controllers");
  if (controllers.find("memory") != std::string::npos) return {"cgroups", Grade::kGood, "version 2 with " + controllers, ""};
  if (std::filesystem::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")) {
    return {"cgroups", Grade::kGood, "version 1 (cpu, memory and pids limits hold)", ""};
  }
  return {"cgroups", Grade::kLess, "no memory controller", "limits on CPU, memory and processes do not hold: mount cgroup version 2 at /sys/fs/cgroup"};
}

Finding network() {
  if (!in_path("nft")) return {"network", Grade::kLess, "the program nft is not there", "containers have no network: install nftables"};
  return {"network", Grade::kGood, "nftables; IPv4 forwarding is " + std::string(first_line("/proc/sys/net/ipv4/ip_forward") == "1" ? "on" : "off and will be switched on"), ""};
}

Finding disk(const std::string& data_dir) {
  std::filesystem::path place = std::filesystem::absolute(data_dir);
  while (!std::filesystem::exists(place) && place.has_parent_path()) place = place.parent_path();
  struct statvfs about {};
  if (statvfs(place.c_str(), &about) != 0) return {"disk", Grade::kBad, "cannot look at " + place.string(), "choose another --data-dir"};
  const double gib = static_cast<double>(about.f_bavail) * static_cast<double>(about.f_frsize) / (1 << 30);
  char text[64];
  std::snprintf(text, sizeof text, "%.1f GiB free for ", gib);
  return {"disk", gib >= 5 ? Grade::kGood : Grade::kLess, text + data_dir, gib >= 5 ? "" : "images of a few packages need 5 GiB"};
}

Finding gpu() {
  if (std::filesystem::exists("/dev/nvidiactl")) return {"gpu", Grade::kLess, "an NVIDIA GPU", "this version does not give GPUs to containers yet"};
  return {"gpu", Grade::kGood, "none", ""};
}

Finding launcher(const std::string& program) {
  const std::string path = std::filesystem::path(program).parent_path() / "proa-launcher";
  if (access(path.c_str(), X_OK) == 0) return {"launcher", Grade::kGood, path, ""};
  return {"launcher", Grade::kBad, path + " is not there", "install it beside this program"};
}

}  // namespace

const char* grade_name(Grade grade) {
  switch (grade) {
    case Grade::kGood: return "ok";
    case Grade::kLess: return "less";
    case Grade::kBad: return "missing";
  }
  return "";
}

std::vector<Finding> examine(const DoctorOptions& options) {
  return {kernel(), root(), file_systems(), namespaces(), cgroups(), network(), disk(options.data_dir), gpu(), launcher(options.program)};
}

}  // namespace proa::app
