// SPDX-License-Identifier: Apache-2.0
#include "launcher/seccomp.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

#include "base/fd.h"

namespace proa::launcher {
namespace {

// Grouped as the manual pages are. Names that this machine's libseccomp does not know are passed over.
constexpr std::array kAllowed = std::to_array<std::string_view>({
    // Processes and threads.
    "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "vfork", "futex", "futex_waitv",
    "futex_wake", "futex_wait", "futex_requeue", "get_robust_list", "set_robust_list", "get_thread_area", "set_thread_area",
    "set_tid_address", "getcpu", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set",
    "kill", "membarrier", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64", "process_mrelease", "restart_syscall", "rseq",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "setfsgid", "setfsuid", "setgid", "setgroups", "setpgid", "setpriority", "setregid", "setresgid", "setresuid",
    "setreuid", "setrlimit", "setsid", "setuid", "tgkill", "times", "tkill", "umask", "uname", "sysinfo", "wait4", "waitid",
    "waitpid", "seccomp", "ptrace", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    "process_vm_readv", "process_vm_writev", "chroot",
    // Signals.
    "alarm", "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "signalfd", "signalfd4",
    // Memory.
    "brk", "madvise", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap", "msync", "munlock",
    "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages", "get_mempolicy", "set_mempolicy",
    "mbind", "map_shadow_stack", "mseal",
    // Files.
    "access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3", "faccessat",
    "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl",
    "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate",
    "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2",
    "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink",
    "readlinkat", "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "splice", "stat",
    "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "unlink", "unlinkat",
    "utime", "utimensat", "utimes", "vmsplice", "write", "writev", "cachestat", "getxattrat", "setxattrat", "listxattrat",
    "removexattrat",
    // Waiting and time.
    "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "getitimer", "gettimeofday",
    "nanosleep", "poll", "ppoll", "pselect6", "select", "setitimer", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "getrandom",
    // Sockets; the families are restricted below.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
    "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
    // System V and POSIX IPC; the container has an IPC namespace of its own.
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv",
    "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
    // Asynchronous I/O of the old kind.
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit",
    "get_kernel_syms", "query_module", "_sysctl", "ustat",
});

// Flags of clone(2) that make namespaces.
constexpr std::uint64_t kNamespaceFlags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | 0x80 /* CLONE_NEWTIME */;

scmp_arg_cmp first_argument_is(scmp_datum_t value) { return {.arg = 0, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0}; }

Error failed(const char* what, int code) { return errno_error(-code, std::string("seccomp: ") + what); }

Result<void> add_rules(scmp_filter_ctx context) {
  for (const std::string_view name : kAllowed) {
    const int call = seccomp_syscall_resolve_name(std::string(name).c_str());
    if (call == __NR_SCMP_ERROR) continue;
    // Those of other architectures have negative numbers, and no rule of their own here.
    if (call < 0) continue;
    if (const int code = seccomp_rule_add(context, SCMP_ACT_ALLOW, call, 0); code < 0) return failed("allow", code);
  }
  int code = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, kNamespaceFlags, 0));
  if (code < 0) return failed("clone", code);
  code = seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
  if (code < 0) return failed("clone3", code);
  for (const int family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}) {
    code = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, first_argument_is(static_cast<scmp_datum_t>(family)));
    if (code < 0) return failed("socket", code);
  }
  // Linux, 32-bit uname, no randomization, and the question what it is.
  for (const std::uint64_t persona : {0x0ULL, 0x0008ULL, 0x20000ULL, 0x20008ULL, 0xffffffffULL}) {
    code = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1, first_argument_is(persona));
    if (code < 0) return failed("personality", code);
  }
  return {};
}

}  // namespace

std::span<const std::string_view> allowed_calls() { return kAllowed; }

Result<Bytes> make_filter() {
  const scmp_filter_ctx context = seccomp_init(SCMP_ACT_ERRNO(EPERM));
  if (context == nullptr) return internal_error("seccomp: no filter can be made");
  Result<void> added = add_rules(context);
  Bytes filter;
  if (added.ok()) {
    const OwnedFd memory(memfd_create("seccomp", MFD_CLOEXEC));
    if (!memory.valid()) {
      added = errno_error(errno, "seccomp: memfd");
    } else if (const int code = seccomp_export_bpf(context, memory.get()); code < 0) {
      added = failed("export", code);
    } else {
      const off_t size = lseek(memory.get(), 0, SEEK_END);
      filter.resize(static_cast<std::size_t>(size));
      if (pread(memory.get(), filter.data(), filter.size(), 0) != size) added = errno_error(errno, "seccomp: read");
    }
  }
  seccomp_release(context);
  if (!added.ok()) return added.error();
  return filter;
}

Result<void> load_filter(const Bytes& filter) {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(filter.size() / sizeof(sock_filter));
  program.filter = reinterpret_cast<sock_filter*>(const_cast<char*>(filter.data()));
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) return errno_error(errno, "seccomp");
  return {};
}

}  // namespace proa::launcher
