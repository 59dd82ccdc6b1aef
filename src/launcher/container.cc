// SPDX-License-Identifier: Apache-2.0
#include "launcher/container.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/codec.h"
#include "base/fd.h"
#include "launcher/messages.h"
#include "launcher/protocol.h"
#include "launcher/seccomp.h"

namespace proa::launcher {
namespace {

// What container engines give by default, less NET_RAW and MKNOD.
constexpr std::array kCapabilities = {CAP_CHOWN,  CAP_DAC_OVERRIDE,     CAP_FSETID,     CAP_FOWNER, CAP_SETGID,      CAP_SETUID,
                                      CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_KILL,  CAP_AUDIT_WRITE, CAP_SETFCAP};
constexpr std::array kMaskedFiles = {"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                     "/proc/sysrq-trigger", "/proc/kmsg", "/proc/kallsyms", "/proc/interrupts"};
constexpr std::array kMaskedDirectories = {"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel", "/sys/fs"};
constexpr std::array kReadOnly = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"};
constexpr std::array kDevices = {"null", "zero", "full", "random", "urandom", "tty"};
constexpr const char* kPrivate = "/__proa";

int move_mount(int from, const char* to) { return static_cast<int>(syscall(SYS_move_mount, from, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH)); }
int clone_mount(const char* path) { return static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)); }

class Container {
 public:
  explicit Container(const ContainerSetup& setup) : setup_(setup) {}
  [[noreturn]] void run();

 private:
  [[noreturn]] void fail(Code code, const std::string& what);
  void need(bool good, const std::string& what) {
    if (!good) fail(errno == ENOENT ? Code::kNotFound : errno == ENOSPC ? Code::kResourceExhausted : Code::kInternal, what + ": " + std::strerror(errno));
  }
  void report(ContainerReport::Stage stage, int fd);
  void wait_for_ids();
  void make_private_directory();
  void take_devices();
  void wait_for_task();
  void enter_root();
  void mount_kernel_views();
  void mount_devices();
  void hide();
  void write_files();
  static void bind_file(const std::string& name, const char* target);
  [[noreturn]] void become_init();
  [[noreturn]] void exec_program(int status_pipe);
  void restrict_self();
  void restrict_init();

  const ContainerSetup& setup_;
  StartRecord task_;
  int root_ = -1;     // The overlay, as a mount.
  int private_ = -1;  // A tmpfs, as a mount; then at kPrivate.
  std::array<int, kDevices.size()> devices_{};
};

void Container::fail(Code code, const std::string& what) {
  ContainerReport report;
  report.stage = ContainerReport::Stage::kFailed;
  report.code = static_cast<int>(code);
  std::snprintf(report.text, sizeof report.text, "%s", what.c_str());
  send_with_fds(setup_.control, &report, sizeof report, nullptr, 0);
  _exit(127);
}

void Container::report(ContainerReport::Stage stage, int fd) {
  ContainerReport message;
  message.stage = stage;
  if (!send_with_fds(setup_.control, &message, sizeof message, &fd, fd >= 0 ? 1 : 0)) _exit(127);
}

void Container::run() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_DUMPABLE, 0);
  setsid();
  umask(022);
  wait_for_ids();
  need(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "cannot make the mounts private");
  make_private_directory();
  take_devices();
  wait_for_task();
  enter_root();
  mount_kernel_views();
  mount_devices();
  write_files();
  hide();
  need(umount2(".", MNT_DETACH) == 0, "cannot let go of the host's root");
  need(chdir("/") == 0, "cannot go to the root");
  become_init();
}

// The launcher writes the id maps and makes the network, then says go.
void Container::wait_for_ids() {
  char go = 0;
  std::size_t none = 0;
  if (receive_with_fds(setup_.control, &go, 1, nullptr, none) != 1) _exit(0);
  need(setgroups(0, nullptr) == 0 && setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0, "cannot become the container's root");
  // Only now that the launcher has put this process into its cgroup: what is its own becomes the root that it sees.
  need(unshare(CLONE_NEWCGROUP) == 0, "cannot have a cgroup namespace");
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // A change of ids clears it.
  prctl(PR_SET_DUMPABLE, 0);
}

// The API socket is made now, so that the worker can listen before there is a task.
void Container::make_private_directory() {
  const int context = static_cast<int>(syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  need(context >= 0, "fsopen tmpfs");
  need(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "112m", 0) == 0, "tmpfs size");
  need(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "mode", "0755", 0) == 0, "tmpfs mode");
  need(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0, "tmpfs");
  private_ = static_cast<int>(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  need(private_ >= 0, "fsmount tmpfs");
  close(context);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/api.sock", private_);
  umask(0);
  need(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "cannot make the API socket");
  umask(022);
  need(listen(listener, 128) == 0, "cannot listen on the API socket");
  report(ContainerReport::Stage::kPrepared, listener);
  close(listener);
}

void Container::take_devices() {
  for (std::size_t i = 0; i < kDevices.size(); ++i) {
    devices_[i] = clone_mount((std::string("/dev/") + kDevices[i]).c_str());
    need(devices_[i] >= 0, std::string("cannot take /dev/") + kDevices[i]);
  }
}

void Container::wait_for_task() {
  char go = 0;
  int fds[2] = {-1, -1};
  std::size_t count = 2;
  if (receive_with_fds(setup_.control, &go, 1, fds, count) != 1 || count != 2) _exit(0);
  root_ = fds[0];
  struct stat about {};
  need(fstat(fds[1], &about) == 0, "cannot read the task");
  Bytes encoded(static_cast<std::size_t>(about.st_size), '\0');
  for (std::size_t at = 0; at < encoded.size();) {
    const ssize_t got = pread(fds[1], encoded.data() + at, encoded.size() - at, static_cast<off_t>(at));
    need(got > 0, "cannot read the task");
    at += static_cast<std::size_t>(got);
  }
  close(fds[1]);
  auto task = decode<StartRecord>(encoded);
  if (!task.ok()) fail(Code::kInvalidArgument, task.error().message);
  task_ = std::move(*task);
}

void Container::enter_root() {
  // Any directory will do, but the ways to most are closed to this process, which is nobody on the host.
  int there = -1;
  for (const char* place : {"/tmp", "/mnt", "/run", "/var"}) {
    if ((there = move_mount(root_, place)) == 0 && (there = chdir(place)) == 0) break;
  }
  need(there == 0, "cannot mount the root");
  need(syscall(SYS_pivot_root, ".", ".") == 0, "cannot make it the root");
  // From here on "/" is the container's and "." the host's, until it is let go of.
  if (!task_.hostname.empty()) (void)sethostname(task_.hostname.c_str(), task_.hostname.size());
}

void make_directory(const char* path, mode_t mode) {
  if (mkdir(path, mode) == 0) (void)chmod(path, mode);
}

void Container::mount_kernel_views() {
  make_directory("/proc", 0555);
  need(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0, "cannot mount /proc");
  make_directory("/sys", 0555);
  // Without it programs fall back to what /proc says; some kernels do not let it be mounted.
  (void)mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, nullptr);
  make_directory("/tmp", 01777);
}

void Container::mount_devices() {
  make_directory("/dev", 0755);
  need(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=65536k") == 0, "cannot mount /dev");
  for (std::size_t i = 0; i < kDevices.size(); ++i) {
    const std::string path = std::string("/dev/") + kDevices[i];
    const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0666);
    need(fd >= 0, "cannot make " + path);
    close(fd);
    need(move_mount(devices_[i], path.c_str()) == 0, "cannot mount " + path);
    close(devices_[i]);
  }
  make_directory("/dev/pts", 0755);
  if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") == 0) (void)symlink("pts/ptmx", "/dev/ptmx");
  make_directory("/dev/shm", 01777);
  need(mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") == 0, "cannot mount /dev/shm");
  (void)symlink("/proc/self/fd", "/dev/fd");
  (void)symlink("/proc/self/fd/0", "/dev/stdin");
  (void)symlink("/proc/self/fd/1", "/dev/stdout");
  (void)symlink("/proc/self/fd/2", "/dev/stderr");
}

// Over what the image has there. A link that leads nowhere, as images of systems with a resolver daemon have
// it, gives way to a file.
void Container::bind_file(const std::string& name, const char* target) {
  const std::string source = std::string(kPrivate) + "/" + name;
  if (mount(source.c_str(), target, nullptr, MS_BIND, nullptr) == 0) return;
  struct stat about {};
  if (lstat(target, &about) != 0 || !S_ISLNK(about.st_mode) || unlink(target) != 0) return;
  const int fd = open(target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return;
  close(fd);
  (void)mount(source.c_str(), target, nullptr, MS_BIND, nullptr);
}

void Container::write_files() {
  make_directory(kPrivate, 0755);
  need(move_mount(private_, kPrivate) == 0, "cannot mount the private directory");
  close(private_);
  task_.files["resolv.conf"] = setup_.resolv_conf;
  task_.files["hostname"] = task_.hostname + "\n";
  task_.files["hosts"] = "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 " + task_.hostname + "\n";
  for (const auto& [name, content] : task_.files) {
    const std::string path = std::string(kPrivate) + "/" + name;
    const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444);
    need(fd >= 0, "cannot make the private file " + name);
    for (std::size_t at = 0; at < content.size();) {
      const ssize_t put = write(fd, content.data() + at, content.size() - at);
      need(put > 0, "cannot write the private file " + name);
      at += static_cast<std::size_t>(put);
    }
    close(fd);
  }
  constexpr unsigned long kReadOnlyFlags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
  need(mount(nullptr, kPrivate, nullptr, kReadOnlyFlags, nullptr) == 0, "cannot write-protect the private directory");
  bind_file("resolv.conf", "/etc/resolv.conf");
  bind_file("hostname", "/etc/hostname");
  bind_file("hosts", "/etc/hosts");
  if (task_.working_directory.empty()) task_.working_directory = "/";
  for (std::size_t slash = task_.working_directory.find('/', 1); ; slash = task_.working_directory.find('/', slash + 1)) {
    (void)mkdir(task_.working_directory.substr(0, slash).c_str(), 0755);
    if (slash == std::string::npos) break;
  }
}

void Container::hide() {
  for (const char* path : kMaskedFiles) {
    if (access(path, F_OK) == 0) need(mount("/dev/null", path, nullptr, MS_BIND, nullptr) == 0, std::string("cannot mask ") + path);
  }
  for (const char* path : kMaskedDirectories) {
    if (access(path, F_OK) == 0) need(mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0") == 0, std::string("cannot mask ") + path);
  }
  for (const char* path : kReadOnly) {
    if (access(path, F_OK) != 0) continue;
    need(mount(path, path, nullptr, MS_BIND | MS_REC, nullptr) == 0, std::string("cannot bind ") + path);
    need(mount(nullptr, path, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0, std::string("cannot write-protect ") + path);
  }
}

// --- The program and process 1 ----------------------------------------------------------------------------

void Container::restrict_self() {
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if (std::find(kCapabilities.begin(), kCapabilities.end(), capability) == kCapabilities.end()) (void)prctl(PR_CAPBSET_DROP, capability);
  }
  (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  need(setgroups(0, nullptr) == 0, "cannot set groups");
  need(setresgid(task_.gid, task_.gid, task_.gid) == 0 && setresuid(task_.uid, task_.uid, task_.uid) == 0, "cannot become the image's user");
  if (task_.uid == 0) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, 2> data{};
    for (const int capability : kCapabilities) {
      auto& word = data[static_cast<std::size_t>(capability / 32)];
      word.effective |= 1U << (capability % 32);
      word.permitted |= 1U << (capability % 32);
    }
    need(syscall(SYS_capset, &header, data.data()) == 0, "cannot set capabilities");
  }
  rlimit files{.rlim_cur = 65'536, .rlim_max = 65'536};
  rlimit now{};
  if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_max < files.rlim_max) files = {now.rlim_max, now.rlim_max};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  const rlimit no_core{.rlim_cur = 0, .rlim_max = 0};
  (void)setrlimit(RLIMIT_CORE, &no_core);
  need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "cannot set no_new_privs");
  const auto loaded = load_filter(*setup_.seccomp_filter);
  if (!loaded.ok()) fail(Code::kInternal, loaded.error().message);
}

// Process 1 goes on as the container's root, beside a program that may be anyone: it keeps the right to signal it.
void Container::restrict_init() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  data[0].effective = data[0].permitted = 1U << CAP_KILL;
  need(syscall(SYS_capset, &header, data.data()) == 0, "cannot drop capabilities");
  need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "cannot set no_new_privs");
  const auto loaded = load_filter(*setup_.seccomp_filter);
  if (!loaded.ok()) fail(Code::kInternal, loaded.error().message);
}

void Container::exec_program(int status_pipe) {
  setsid();
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null, 0);
  dup2(setup_.stdout_pipe, 1);
  dup2(setup_.stderr_pipe, 2);
  fcntl(status_pipe, F_SETFD, FD_CLOEXEC);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  std::vector<char*> argv;
  std::vector<char*> env;
  std::string path = "/usr/local/bin:/usr/bin:/bin";
  for (std::string& argument : task_.argv) argv.push_back(argument.data());
  for (std::string& variable : task_.env) {
    if (variable.starts_with("PATH=")) path = variable.substr(5);
    env.push_back(variable.data());
  }
  argv.push_back(nullptr);
  env.push_back(nullptr);
  const auto give_up = [&](const std::string& what) {
    (void)!write(status_pipe, what.data(), what.size());
    _exit(126);
  };
  restrict_self();
  // As its own user: where it may not go, it is told so.
  if (chdir(task_.working_directory.c_str()) != 0) give_up("cannot enter the working directory " + task_.working_directory + ": " + std::strerror(errno));
  close_range(3, static_cast<unsigned>(status_pipe) - 1, 0);
  close_range(static_cast<unsigned>(status_pipe) + 1, ~0U, 0);
  if (task_.argv[0].find('/') != std::string::npos) {
    execve(argv[0], argv.data(), env.data());
    give_up("cannot run " + task_.argv[0] + ": " + std::strerror(errno));
  }
  int found = ENOENT;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t colon = std::min(path.find(':', start), path.size());
    const std::string candidate = path.substr(start, colon - start) + "/" + task_.argv[0];
    execve(candidate.c_str(), argv.data(), env.data());
    if (errno != ENOENT && errno != ENOTDIR) found = errno;
    start = colon + 1;
  }
  give_up("cannot run " + task_.argv[0] + " (looked for in " + path + "): " + std::strerror(found));
  _exit(126);
}

void Container::become_init() {
  int status[2];
  need(pipe2(status, O_CLOEXEC) == 0, "pipe");
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, nullptr);
  const pid_t program = fork();
  need(program >= 0, "cannot start the program");
  if (program == 0) exec_program(status[1]);
  restrict_init();
  close(status[1]);
  close(setup_.stdout_pipe);
  close(setup_.stderr_pipe);
  std::array<char, 380> why{};
  const ssize_t told = read(status[0], why.data(), why.size() - 1);
  if (told > 0) fail(Code::kInvalidArgument, why.data());
  report(ContainerReport::Stage::kRunning, -1);
  close_range(0, ~0U, 0);
  while (true) {
    siginfo_t signal{};
    const int number = sigwaitinfo(&all, &signal);
    if (number != SIGCHLD) {
      if (number > 0) kill(program, number);
      continue;
    }
    int ended = 0;
    for (pid_t pid = waitpid(-1, &ended, WNOHANG); pid > 0; pid = waitpid(-1, &ended, WNOHANG)) {
      // The rest of the container ends with its process 1.
      if (pid == program) _exit(WIFSIGNALED(ended) ? 128 + WTERMSIG(ended) : WEXITSTATUS(ended));
    }
  }
}

}  // namespace

void run_container(const ContainerSetup& setup) { Container(setup).run(); }

}  // namespace proa::launcher
