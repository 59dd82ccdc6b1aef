// SPDX-License-Identifier: Apache-2.0
#include "launcher/launcher.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <optional>

#include "base/fd.h"
#include "cas/tree.h"
#include "launcher/cgroup.h"
#include "launcher/container.h"
#include "launcher/erofs.h"
#include "launcher/erofs_mount.h"
#include "launcher/export.h"
#include "launcher/network.h"
#include "launcher/messages.h"
#include "launcher/protocol.h"
#include "launcher/ranges.h"
#include "launcher/seccomp.h"

namespace proa::launcher {
namespace {

constexpr std::uint32_t kSlotsMax = 2000;
constexpr std::uint32_t kIdsPerSlot = 65'536;
// Above what administrators and directory services give out; launchers on one machine share what there is.
constexpr std::uint32_t kIdsFirst = 1'000'000'000;
constexpr std::uint32_t kIdRanges = 24;  // × 2000 × 65,536 stays below 2³².
constexpr std::int32_t kPidsDefault = 4096;
constexpr std::size_t kTreeBytesMax = 1ULL << 30;
constexpr std::size_t kMountedTreesMax = 512;
constexpr std::size_t kImagesMax = 4096;  // Kept in meta/; a few hundred bytes for each file of a tree.
constexpr std::size_t kImageJobsMax = 2;
constexpr int kTrashMillis = 200;         // How long what is to be deleted may wait for more of the kind.
constexpr std::uint16_t kBlobPort = 7180;

enum class State { kPreparing, kPrepared, kStarting, kRunning, kEnded };

struct Slot {
  std::uint64_t id = 0;
  std::uint32_t index = 0;
  State state = State::kPreparing;
  pid_t pid = -1;
  OwnedFd pidfd;
  OwnedFd control;
  OwnedFd blob_listener;
  OwnedFd stdout_read;
  OwnedFd stderr_read;
  std::uint32_t ipv4 = 0;
  bool networked = false;
  std::uint64_t waiting_request = 0;  // The kPrepare or kStart that is not answered yet.
  std::string cgroup;
  std::vector<Request> removals;  // That wait for its end.
  std::vector<Digest> trees;      // Of its task, while images of them are made.
  OwnedFd record;
};

// A child that makes the image of a tree.
struct ImageJob {
  pid_t pid = -1;
  OwnedFd pidfd;
  OwnedFd complaint;  // What it says if it cannot: a Code as one byte, and text.
};

std::string hex4(const std::string& text) {
  std::uint32_t hash = 2166136261U;  // FNV-1a.
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  char out[8];
  std::snprintf(out, sizeof out, "%04x", (hash ^ (hash >> 16U)) & 0xFFFFU);
  return out;
}

Result<void> make_directory(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return errno_error(errno, "cannot make " + path);
  return {};
}

Result<void> write_text(const std::string& path, const std::string& text) {
  const OwnedFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid() || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return errno_error(errno, "cannot write " + path);
  return {};
}

Result<void> config_fd(int context, const char* key, int fd) {
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_FD, key, nullptr, fd) != 0) return errno_error(errno, std::string("overlay ") + key);
  return {};
}
Result<void> config_text(int context, const char* key, const char* value) {
  if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0) != 0) return errno_error(errno, std::string("overlay ") + key);
  return {};
}

// What containers need to be there to mount something over it: below all trees, so that it is seen only where
// they do not have it, and is no part of what a container wrote.
Result<cas::Tree> skeleton() {
  using cas::EntryKind;
  std::vector<cas::TreeEntry> entries;
  for (const char* path : {"__proa", "dev", "etc"}) entries.push_back({.path = path, .kind = EntryKind::kDirectory, .mode = 0755});
  for (const char* path : {"proc", "sys"}) entries.push_back({.path = path, .kind = EntryKind::kDirectory, .mode = 0555});
  entries.push_back({.path = "tmp", .kind = EntryKind::kDirectory, .mode = 01777});
  for (const char* path : {"etc/hostname", "etc/hosts", "etc/resolv.conf"}) entries.push_back({.path = path, .kind = EntryKind::kFile, .mode = 0644});
  return cas::make_tree(std::move(entries));
}

// In a child: nothing else of the launcher's may stay open.
void keep_open(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned lowest = 3;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > lowest) close_range(lowest, number - 1, 0);
    lowest = std::max(lowest, number + 1);
  }
  close_range(lowest, ~0U, 0);
}

void wipe(std::string& text) { explicit_bzero(text.data(), text.size()); }

// A task's secrets are in its variables and files; processes forked later must not inherit them.
void wipe(StartRecord& task) {
  for (std::string& variable : task.env) wipe(variable);
  for (std::string& argument : task.argv) wipe(argument);
  for (auto& [name, content] : task.files) wipe(content);
}

class Launcher {
 public:
  Launcher(const LauncherOptions& options, Logger& log) : options_(options), log_(log), instance_(hex4(options.state_dir)) {}
  ~Launcher();
  Result<void> open();
  void run();

 private:
  void clean_up_after_earlier();
  bool read_request();
  void handle(const Request& request, OwnedFd fd);
  void hello(const Request& request);
  void prepare(const Request& request);
  Result<void> make_slot(Slot& slot, const Request& request);
  void start(const Request& request, OwnedFd record);
  Result<void> start_task(Slot& slot, OwnedFd record);
  Result<bool> continue_start(Slot& slot);
  void give_up_start(Slot& slot, const Error& error);
  Result<void> start_image(const Digest& digest);
  void image_ended(const Digest& digest);
  Result<OwnedFd> make_root(const Slot& slot, const std::vector<Digest>& trees);
  Result<std::string> mounted_tree(const Digest& digest);
  Result<void> make_image(const cas::Tree& tree, const std::string& image);
  void prune_images();
  void empty_trash();
  std::string image_path(const Digest& digest) const { return options_.state_dir + "/meta/" + digest.hex() + ".erofs"; }
  void export_upper(const Request& request);
  void usage(const Request& request, Slot& slot);
  void remove(const Request& request);
  void control_ready(Slot& slot);
  void process_ended(Slot& slot);
  void reply(const Request& request, const Result<void>& result);
  void send(const Message& message, const int* fds = nullptr, std::size_t count = 0);
  void finish_removal(Slot& slot);
  void release(Slot& slot);
  void kill_everything();
  std::uint32_t id_base(const Slot& slot) const { return id_base_ + slot.index * kIdsPerSlot; }
  std::string slot_directory(const Slot& slot) const { return options_.state_dir + "/slots/" + std::to_string(slot.index); }

  const LauncherOptions& options_;
  Logger& log_;
  std::string instance_;
  Bytes filter_;
  std::unique_ptr<Cgroups> cgroups_;
  std::unique_ptr<Network> network_;
  std::string less_;  // What this machine does not give, for the worker to show.
  OwnedFd objects_;
  OwnedFd signals_;
  IdRange ids_;
  std::uint32_t id_base_ = 0;
  Digest skeleton_;
  std::map<std::uint64_t, std::unique_ptr<Slot>> slots_;
  std::deque<std::uint32_t> free_indices_;  // Used before; the one that was given back first comes first.
  std::uint32_t next_index_ = 0;
  std::uint64_t next_slot_ = 1;
  std::map<Digest, std::uint64_t> mounted_;  // Tree → when it was last used.
  std::uint64_t uses_ = 0;
  std::vector<pid_t> exporters_;
  std::vector<pid_t> janitor_;  // At most one: deletes what is in trash/.
  bool trash_ = false;
  bool closing_ = false;
  std::size_t images_ = 0;
  std::map<Digest, ImageJob> image_jobs_;
  std::vector<std::string> graveyard_;  // Cgroups that still had processes when they were to go.
};

Launcher::~Launcher() { kill_everything(); }

Result<void> Launcher::open() {
  if (unshare(CLONE_NEWNS) != 0) return errno_error(errno, "cannot have a mount namespace of its own (is this root?)");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return errno_error(errno, "cannot make the mounts private");
  PROA_TRY(filter_, make_filter());
  PROA_TRY_VOID(make_directory(options_.state_dir, 0711));
  for (const char* name : {"slots", "meta", "mnt", "trash"}) PROA_TRY_VOID(make_directory(options_.state_dir + "/" + name, 0700));
  sigset_t handled;
  sigemptyset(&handled);
  sigaddset(&handled, SIGTERM);
  sigprocmask(SIG_BLOCK, &handled, nullptr);
  signals_ = OwnedFd(signalfd(-1, &handled, SFD_CLOEXEC));
  if (!signals_.valid()) return errno_error(errno, "signalfd");
  objects_ = OwnedFd(::open(options_.objects_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!objects_.valid()) return errno_error(errno, "cannot open the objects at " + options_.objects_dir);
  cgroups_ = find_cgroups(options_.cgroup_root, "proa-" + instance_);
  if (!cgroups_) less_ += "no cgroups: limits on CPU, memory and processes do not hold. ";
  clean_up_after_earlier();
  id_base_ = options_.uid_base;
  if (id_base_ == 0) {
    PROA_TRY(ids_, claim_range("ids", kIdRanges, 0));
    id_base_ = kIdsFirst + ids_.number * kSlotsMax * kIdsPerSlot;
  }
  PROA_TRY(const cas::Tree bottom, skeleton());
  skeleton_ = cas::tree_digest(bottom);
  PROA_TRY_VOID(make_image(bottom, image_path(skeleton_)));
  prune_images();
  auto network = Network::open({.instance = instance_, .allowed = options_.allowed_networks});
  if (network.ok()) {
    network_ = std::move(*network);
    less_ += network_->note();
  } else {
    less_ += "containers have no network: " + network.error().message + ". ";
  }
  return {};
}

void Launcher::clean_up_after_earlier() {
  std::error_code ignored;
  if (cgroups_) {
    for (int attempt = 0; attempt < 200; ++attempt) {
      bool all_gone = true;
      for (const std::string& name : cgroups_->list()) {
        cgroups_->kill_all(name);
        all_gone = cgroups_->remove(name) && all_gone;
      }
      if (all_gone) break;
      usleep(10'000);
    }
  }
  for (const char* name : {"/slots", "/trash"}) {
    for (const auto& entry : std::filesystem::directory_iterator(options_.state_dir + name, ignored)) std::filesystem::remove_all(entry.path(), ignored);
  }
}

void Launcher::send(const Message& message, const int* fds, std::size_t count) {
  (void)send_with_fds(options_.socket, &message, sizeof message, fds, count);
}

void Launcher::reply(const Request& request, const Result<void>& result) {
  Message message;
  message.id = request.id;
  message.slot = request.slot;
  if (!result.ok()) {
    message.code = static_cast<std::int32_t>(result.error().code);
    std::snprintf(message.text.data(), message.text.size(), "%s", result.error().message.c_str());
  }
  send(message);
}

bool Launcher::read_request() {
  Request request;
  int fds[kPassedFdsMax] = {-1, -1, -1, -1};
  std::size_t count = kPassedFdsMax;
  const ssize_t got = receive_with_fds(options_.socket, &request, sizeof request, fds, count);
  OwnedFd first(count > 0 ? fds[0] : -1);
  for (std::size_t i = 1; i < count; ++i) close(fds[i]);
  if (got <= 0) return false;
  if (got != sizeof request || request.version != kVersion) {
    log_.warning("launcher.refused", {{"why", "a message that is no request of this version"}});
    return true;
  }
  handle(request, std::move(first));
  return true;
}

void Launcher::handle(const Request& request, OwnedFd fd) {
  switch (request.op) {
    case Op::kHello: return hello(request);
    case Op::kPrepare: return prepare(request);
    case Op::kStart: return start(request, std::move(fd));
    case Op::kExport: return export_upper(request);
    case Op::kRemove: return remove(request);
    case Op::kSignal:
    case Op::kKill:
    case Op::kUsage: break;
    default: return reply(request, invalid_argument("an operation that the launcher does not know"));
  }
  const auto found = slots_.find(request.slot);
  if (found == slots_.end()) return reply(request, not_found("no such slot"));
  Slot& slot = *found->second;
  if (request.op == Op::kUsage) return usage(request, slot);
  if (slot.state == State::kEnded) return reply(request, {});
  if (request.op == Op::kKill) {
    (void)syscall(SYS_pidfd_send_signal, slot.pidfd.get(), SIGKILL, nullptr, 0);
    return reply(request, {});
  }
  if (request.signal < 1 || request.signal >= NSIG) return reply(request, invalid_argument("no such signal"));
  (void)syscall(SYS_pidfd_send_signal, slot.pidfd.get(), request.signal, nullptr, 0);
  reply(request, {});
}

void Launcher::hello(const Request& request) {
  Message message;
  message.id = request.id;
  message.cgroups = cgroups_ ? static_cast<std::uint32_t>(cgroups_->version()) : 0;
  message.network = network_ ? 1 : 0;
  std::snprintf(message.text.data(), message.text.size(), "%s", less_.c_str());
  send(message);
}

// --- Preparing --------------------------------------------------------------------------------------------

void Launcher::prepare(const Request& request) {
  if (slots_.size() >= kSlotsMax) return reply(request, resource_exhausted("all " + std::to_string(kSlotsMax) + " slots of this machine are in use"));
  auto slot = std::make_unique<Slot>();
  slot->id = next_slot_++;
  if (next_index_ < kSlotsMax) {
    slot->index = next_index_++;
  } else {
    slot->index = free_indices_.front();
    free_indices_.pop_front();
  }
  slot->waiting_request = request.id;
  slot->cgroup = "s" + std::to_string(slot->id) + "-" + std::to_string(getpid());
  const auto made = make_slot(*slot, request);
  if (!made.ok()) {
    release(*slot);
    return reply(request, made);
  }
  slots_.emplace(slot->id, std::move(slot));
}

Result<void> Launcher::make_slot(Slot& slot, const Request& request) {
  std::error_code ignored;
  const std::string directory = slot_directory(slot);
  std::filesystem::remove_all(directory, ignored);
  PROA_TRY_VOID(make_directory(directory, 0700));
  for (const char* name : {"/u", "/w"}) {
    PROA_TRY_VOID(make_directory(directory + name, 0755));
    if (chown((directory + name).c_str(), id_base(slot), id_base(slot)) != 0) return errno_error(errno, "cannot give away " + directory);
  }
  CgroupLimits limits{.cpu_milli_max = std::max<std::int64_t>(request.cpu_milli_max, 0), .cpu_milli_weight = std::max<std::int64_t>(request.cpu_milli_weight, 0),
                      .memory_bytes_max = std::max<std::int64_t>(request.memory_bytes_max, 0), .pids_max = request.pids_max > 0 ? request.pids_max : kPidsDefault};
  if (cgroups_) PROA_TRY_VOID(cgroups_->create(slot.cgroup, limits));

  int control[2];
  int out[2];
  int err[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) != 0) return errno_error(errno, "socketpair");
  slot.control = OwnedFd(control[0]);
  const OwnedFd child_control(control[1]);
  if (pipe2(out, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  slot.stdout_read = OwnedFd(out[0]);
  const OwnedFd stdout_write(out[1]);
  if (pipe2(err, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  slot.stderr_read = OwnedFd(err[0]);
  const OwnedFd stderr_write(err[1]);

  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  const auto pid = static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid < 0) return errno_error(errno, "cannot make a container's process");
  if (pid == 0) {
    keep_open({child_control.get(), stdout_write.get(), stderr_write.get()});
    ContainerSetup setup;
    setup.control = child_control.get();
    setup.stdout_pipe = stdout_write.get();
    setup.stderr_pipe = stderr_write.get();
    setup.seccomp_filter = &filter_;
    setup.resolv_conf = network_ && request.network == 1 ? network_->resolv_conf() : "";
    run_container(setup);
  }
  slot.pid = pid;
  slot.pidfd = OwnedFd(pidfd);
  const std::string process = "/proc/" + std::to_string(pid);
  const std::string map = "0 " + std::to_string(id_base(slot)) + " " + std::to_string(kIdsPerSlot);
  PROA_TRY_VOID(write_text(process + "/uid_map", map));
  PROA_TRY_VOID(write_text(process + "/gid_map", map));
  if (cgroups_) PROA_TRY_VOID(cgroups_->add(slot.cgroup, pid));
  if (request.network == 1) {
    if (!network_) return failed_precondition("this machine gives containers no network: " + less_);
    PROA_TRY(slot.ipv4, network_->attach(slot.index, pid));
    slot.networked = true;
  } else {
    PROA_TRY_VOID(loopback_up(pid));
  }
  PROA_TRY(const int listener, listen_inside(pid, kBlobPort));
  slot.blob_listener = OwnedFd(listener);
  if (!send_with_fds(slot.control.get(), "g", 1, nullptr, 0)) return internal_error("the container's process is gone");
  return {};
}

// --- Starting ---------------------------------------------------------------------------------------------

void Launcher::start(const Request& request, OwnedFd record) {
  const auto found = slots_.find(request.slot);
  if (found == slots_.end()) return reply(request, not_found("no such slot"));
  Slot& slot = *found->second;
  if (slot.state != State::kPrepared) return reply(request, failed_precondition("the slot has had its task, or its process is gone"));
  slot.state = State::kStarting;
  slot.waiting_request = request.id;
  const auto started = start_task(slot, std::move(record));
  if (!started.ok()) give_up_start(slot, started.error());
}

void Launcher::give_up_start(Slot& slot, const Error& error) {
  Request request;
  request.id = std::exchange(slot.waiting_request, 0);
  request.slot = slot.id;
  slot.trees.clear();
  slot.record.reset(-1);
  reply(request, error);
  (void)syscall(SYS_pidfd_send_signal, slot.pidfd.get(), SIGKILL, nullptr, 0);
}

Result<void> Launcher::start_task(Slot& slot, OwnedFd record) {
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  struct stat about {};
  if (!record.valid() || (fcntl(record.get(), F_GET_SEALS) & kSeals) != kSeals || fstat(record.get(), &about) != 0) {
    return invalid_argument("a task comes in a sealed memfd");
  }
  if (about.st_size <= 0 || static_cast<std::size_t>(about.st_size) > kStartBytesMax) {
    return invalid_argument("a task with its files has at most " + std::to_string(kStartBytesMax >> 20) + " MiB");
  }
  Bytes encoded(static_cast<std::size_t>(about.st_size), '\0');
  for (std::size_t at = 0; at < encoded.size();) {
    const ssize_t got = pread(record.get(), encoded.data() + at, encoded.size() - at, static_cast<off_t>(at));
    if (got <= 0) return errno_error(errno, "cannot read the task");
    at += static_cast<std::size_t>(got);
  }
  auto task = decode<StartRecord>(encoded);
  wipe(encoded);
  if (!task.ok()) return task.error();
  const Result<void> good = check_start(*task);
  slot.trees = std::move(task->trees);
  slot.record = std::move(record);
  wipe(*task);
  PROA_TRY_VOID(good);
  PROA_TRY_VOID(continue_start(slot));
  return {};
}

// True if the task was handed over, false if it waits for images. Called again when one is ready.
Result<bool> Launcher::continue_start(Slot& slot) {
  bool all_there = true;
  for (const Digest& tree : slot.trees) {
    if (mounted_.contains(tree) || access(image_path(tree).c_str(), F_OK) == 0) continue;
    all_there = false;
    if (image_jobs_.size() < kImageJobsMax) PROA_TRY_VOID(start_image(tree));
  }
  if (!all_there) return false;
  PROA_TRY(const OwnedFd root, make_root(slot, slot.trees));
  const int fds[2] = {root.get(), slot.record.get()};
  if (!send_with_fds(slot.control.get(), "s", 1, fds, 2)) return failed_precondition("the slot's process is gone");
  slot.trees.clear();
  slot.record.reset(-1);
  return true;
}

// --- Images -----------------------------------------------------------------------------------------------

// What the child does. It has no rights, and nothing but the tree to read and the image to write: the bytes come
// from whoever can write objects.
Result<void> make_image_from(const Digest& digest, int object, int image) {
  PROA_TRY(const Bytes encoded, read_all(object, kTreeBytesMax, "the tree " + digest.hex()));
  if (sha256(encoded) != digest) return Error{Code::kDataLoss, "the object " + digest.hex() + " is not what its name says"};
  PROA_TRY(const cas::Tree tree, cas::decode_tree(encoded));
  PROA_TRY(const Bytes bytes, write_erofs(tree));
  PROA_TRY_VOID(write_all(image, bytes, "the image of a tree"));
  if (fsync(image) != 0) return errno_error(errno, "cannot keep the image of a tree");
  return {};
}

Result<void> Launcher::start_image(const Digest& digest) {
  if (image_jobs_.contains(digest)) return {};
  const std::string hex = digest.hex();
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  const OwnedFd object(static_cast<int>(syscall(SYS_openat2, objects_.get(), (hex.substr(0, 2) + "/" + hex.substr(2)).c_str(), &how, sizeof how)));
  struct stat about {};
  if (!object.valid() || fstat(object.get(), &about) != 0 || !S_ISREG(about.st_mode)) return not_found("the tree " + hex + " is not in the object store");
  if (static_cast<std::size_t>(about.st_size) > kTreeBytesMax) return invalid_argument("the tree " + hex + " is too large");
  PROA_TRY(const OwnedFd image, open_file(AT_FDCWD, image_path(digest) + ".new", O_CREAT | O_TRUNC | O_WRONLY, 0600));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  ImageJob job;
  job.complaint = OwnedFd(ends[0]);
  const OwnedFd complain(ends[1]);
  job.pid = fork();
  if (job.pid < 0) return errno_error(errno, "fork");
  if (job.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    keep_open({object.get(), image.get(), complain.get()});
    constexpr unsigned kNobody = 65'534;
    if (setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 || setresuid(kNobody, kNobody, kNobody) != 0) _exit(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // A change of ids clears it.
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    const Result<void> made = make_image_from(digest, object.get(), image.get());
    if (made.ok()) _exit(0);
    const std::string text = static_cast<char>(made.error().code) + made.error().message.substr(0, 400);
    (void)!write(complain.get(), text.data(), text.size());
    _exit(1);
  }
  job.pidfd = OwnedFd(static_cast<int>(syscall(SYS_pidfd_open, job.pid, 0)));
  image_jobs_.emplace(digest, std::move(job));
  return {};
}

void Launcher::image_ended(const Digest& digest) {
  const ImageJob job = std::move(image_jobs_.at(digest));
  image_jobs_.erase(digest);
  int status = 0;
  waitpid(job.pid, &status, 0);
  const std::string path = image_path(digest);
  std::optional<Error> error;
  if (status == 0 && rename((path + ".new").c_str(), path.c_str()) == 0) {
    if (++images_ > kImagesMax) prune_images();
  } else {
    unlink((path + ".new").c_str());
    std::array<char, 512> text{};
    const ssize_t size = read(job.complaint.get(), text.data(), text.size() - 1);
    error = size > 0 ? Error{static_cast<Code>(text[0]), text.data() + 1} : internal_error("the image of the tree " + digest.hex() + " cannot be made");
  }
  for (auto& [id, slot] : slots_) {
    if (slot->state != State::kStarting || !slot->record.valid()) continue;
    if (error && std::find(slot->trees.begin(), slot->trees.end(), digest) != slot->trees.end()) {
      give_up_start(*slot, *error);
    } else if (const auto went_on = continue_start(*slot); !went_on.ok()) {
      give_up_start(*slot, went_on.error());
    }
  }
}

Result<void> Launcher::make_image(const cas::Tree& tree, const std::string& image) {
  PROA_TRY(const Bytes bytes, write_erofs(tree));
  const std::string temporary = image + ".new";
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, temporary, O_CREAT | O_TRUNC | O_WRONLY, 0600));
  PROA_TRY_VOID(write_all(fd.get(), bytes, temporary));
  if (fsync(fd.get()) != 0 || rename(temporary.c_str(), image.c_str()) != 0) return errno_error(errno, "cannot keep " + image);
  return {};
}

// Leaves three quarters of what may be there, the newest. What is mounted stays mounted without its name.
void Launcher::prune_images() {
  std::error_code ignored;
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> images;
  for (const auto& entry : std::filesystem::directory_iterator(options_.state_dir + "/meta", ignored)) {
    if (entry.path().extension() == ".new") {
      std::filesystem::remove(entry.path(), ignored);
    } else if (entry.path().stem() != skeleton_.hex()) {
      images.emplace_back(entry.last_write_time(ignored), entry.path());
    }
  }
  images_ = images.size();
  if (images_ <= kImagesMax) return;
  std::sort(images.begin(), images.end());
  for (; images_ > kImagesMax * 3 / 4; --images_) std::filesystem::remove(images[images.size() - images_].second, ignored);
}

// The tree as a mounted image, in this process's own mount namespace. The image is there.
Result<std::string> Launcher::mounted_tree(const Digest& digest) {
  const std::string hex = digest.hex();
  const std::string mount_point = options_.state_dir + "/mnt/" + hex;
  if (const auto found = mounted_.find(digest); found != mounted_.end()) {
    found->second = ++uses_;
    return mount_point;
  }
  const std::string image = image_path(digest);
  PROA_TRY_VOID(make_directory(mount_point, 0700));
  PROA_TRY(const OwnedFd mounted, mount_erofs_image(image));
  if (syscall(SYS_move_mount, mounted.get(), "", AT_FDCWD, mount_point.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return errno_error(errno, "cannot mount the image of the tree " + hex);
  }
  if (mounted_.size() >= kMountedTreesMax) {
    // The one not used for longest. Containers that still use it keep it alive.
    const auto oldest = std::min_element(mounted_.begin(), mounted_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    umount2((options_.state_dir + "/mnt/" + oldest->first.hex()).c_str(), MNT_DETACH);
    rmdir((options_.state_dir + "/mnt/" + oldest->first.hex()).c_str());
    mounted_.erase(oldest);
  }
  mounted_.emplace(digest, ++uses_);
  return mount_point;
}

Result<OwnedFd> Launcher::make_root(const Slot& slot, const std::vector<Digest>& trees) {
  const OwnedFd user_namespace(::open(("/proc/" + std::to_string(slot.pid) + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC));
  if (!user_namespace.valid()) return errno_error(errno, "the slot's process is gone");
  const OwnedFd context(static_cast<int>(syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC)));
  if (!context.valid()) return errno_error(errno, "the kernel has no overlay file system");
  PROA_TRY_VOID(config_text(context.get(), "metacopy", "on"));
  PROA_TRY_VOID(config_text(context.get(), "redirect_dir", "on"));
  // What a container writes ends with it: it need not wait for the disk.
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, "volatile", nullptr, 0) != 0) return errno_error(errno, "overlay volatile");
  std::vector<OwnedFd> layers;
  std::vector<Digest> highest_first(trees.rbegin(), trees.rend());
  highest_first.push_back(skeleton_);
  for (const Digest& tree : highest_first) {
    PROA_TRY(const std::string mount_point, mounted_tree(tree));
    OwnedFd layer(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, mount_point.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
    if (!layer.valid()) return errno_error(errno, "cannot clone the mount of a tree");
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_IDMAP;
    attributes.userns_fd = static_cast<std::uint64_t>(user_namespace.get());
    if (syscall(SYS_mount_setattr, layer.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) return errno_error(errno, "cannot map the ids of a tree");
    PROA_TRY_VOID(config_fd(context.get(), "lowerdir+", layer.get()));
    layers.push_back(std::move(layer));
  }
  PROA_TRY_VOID(config_fd(context.get(), "datadir+", objects_.get()));
  const std::string directory = slot_directory(slot);
  const OwnedFd upper(::open((directory + "/u").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  const OwnedFd work(::open((directory + "/w").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!upper.valid() || !work.valid()) return errno_error(errno, "cannot open the slot's directory");
  PROA_TRY_VOID(config_fd(context.get(), "upperdir", upper.get()));
  PROA_TRY_VOID(config_fd(context.get(), "workdir", work.get()));
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return errno_error(errno, "cannot lay the trees over one another");
  OwnedFd root(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID)));
  if (!root.valid()) return errno_error(errno, "cannot mount the root");
  return root;
}

// --- What containers say, and how they end ----------------------------------------------------------------

void Launcher::control_ready(Slot& slot) {
  ContainerReport report;
  int fd = -1;
  std::size_t count = 1;
  const ssize_t got = receive_with_fds(slot.control.get(), &report, sizeof report, &fd, count);
  const OwnedFd passed(count > 0 ? fd : -1);
  if (got != sizeof report) {
    slot.control.reset(-1);  // It has closed it, as it does once its program runs, or has died.
    return;
  }
  report.text[sizeof report.text - 1] = '\0';
  Message message;
  message.id = slot.waiting_request;
  message.slot = slot.id;
  const bool answered = slot.waiting_request == 0;
  slot.waiting_request = 0;
  if (report.stage == ContainerReport::Stage::kPrepared && slot.state == State::kPreparing && passed.valid()) {
    slot.state = State::kPrepared;
    message.ipv4 = slot.ipv4;
    const int fds[4] = {passed.get(), slot.blob_listener.get(), slot.stdout_read.get(), slot.stderr_read.get()};
    send(message, fds, 4);
    slot.blob_listener.reset(-1);
    slot.stdout_read.reset(-1);
    slot.stderr_read.reset(-1);
    return;
  }
  if (report.stage == ContainerReport::Stage::kRunning && slot.state == State::kStarting) {
    slot.state = State::kRunning;
    if (!answered) send(message);
    return;
  }
  message.code = static_cast<std::int32_t>(report.code == 0 ? static_cast<int>(Code::kInternal) : report.code);
  std::snprintf(message.text.data(), message.text.size(), "%s", report.text);
  if (!answered) send(message);
}

void Launcher::process_ended(Slot& slot) {
  // What it said last is still to be read.
  while (slot.control.valid()) {
    pollfd ready{.fd = slot.control.get(), .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 0) <= 0) break;
    control_ready(slot);
  }
  int status = 0;
  waitpid(slot.pid, &status, 0);
  slot.pidfd.reset(-1);
  if (slot.waiting_request != 0) {
    Message failed;
    failed.id = std::exchange(slot.waiting_request, 0);
    failed.slot = slot.id;
    failed.code = static_cast<std::int32_t>(Code::kFailedPrecondition);
    std::snprintf(failed.text.data(), failed.text.size(), "the slot's process ended before it was ready");
    send(failed);
  }
  slot.state = State::kEnded;
  Message exited;
  exited.kind = MessageKind::kExited;
  exited.slot = slot.id;
  exited.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  if (cgroups_) {
    const CgroupUsage usage = cgroups_->usage(slot.cgroup);
    exited.oom = usage.oom_kills > 0 ? 1 : 0;
    exited.cpu_micros = usage.cpu_micros;
    exited.memory_bytes_peak = usage.memory_bytes_peak;
  }
  send(exited);
  if (!slot.removals.empty()) finish_removal(slot);
}

void Launcher::usage(const Request& request, Slot& slot) {
  Message message;
  message.id = request.id;
  message.slot = slot.id;
  if (cgroups_) {
    const CgroupUsage usage = cgroups_->usage(slot.cgroup);
    message.cpu_micros = usage.cpu_micros;
    message.memory_bytes = usage.memory_bytes;
    message.memory_bytes_peak = usage.memory_bytes_peak;
  }
  send(message);
}

void Launcher::export_upper(const Request& request) {
  const auto found = slots_.find(request.slot);
  if (found == slots_.end()) return reply(request, not_found("no such slot"));
  if (found->second->state != State::kEnded) return reply(request, failed_precondition("the container still runs"));
  auto stream = start_export(slot_directory(*found->second) + "/u", id_base(*found->second), kIdsPerSlot, exporters_);
  if (!stream.ok()) return reply(request, stream.error());
  Message message;
  message.id = request.id;
  message.slot = request.slot;
  const int fd = stream->get();
  send(message, &fd, 1);
}

void Launcher::remove(const Request& request) {
  const auto found = slots_.find(request.slot);
  if (found == slots_.end()) return reply(request, {});
  Slot& slot = *found->second;
  slot.removals.push_back(request);
  if (slot.state == State::kEnded) return finish_removal(slot);
  // The kernel takes a while to end a large container; others need not wait for it.
  (void)syscall(SYS_pidfd_send_signal, slot.pidfd.get(), SIGKILL, nullptr, 0);
}

// Destroys `slot`.
void Launcher::finish_removal(Slot& slot) {
  const std::vector<Request> removals = std::move(slot.removals);
  release(slot);
  slots_.erase(slot.id);
  for (const Request& request : removals) reply(request, {});
}

void Launcher::release(Slot& slot) {
  if (slot.pid > 0 && slot.state != State::kEnded) {
    kill(slot.pid, SIGKILL);
    waitpid(slot.pid, nullptr, 0);
  }
  // The kernel takes the interfaces away with the namespace, and nobody waits for it then. But a descriptor of the
  // worker's may keep the namespace: then the index's next use, or the end, does it.
  if (network_ && slot.networked && closing_) network_->detach(slot.index);
  if (cgroups_ && !cgroups_->remove(slot.cgroup)) graveyard_.push_back(slot.cgroup);
  std::erase_if(graveyard_, [this](const std::string& name) { return cgroups_->remove(name); });
  const std::string trash = options_.state_dir + "/trash/" + std::to_string(slot.id);
  if (rename(slot_directory(slot).c_str(), trash.c_str()) == 0) trash_ = true;
  free_indices_.push_back(slot.index);
}

// A child deletes what removed slots left: it may be much. It takes all that is there when it looks.
void Launcher::empty_trash() {
  reap_exporters(janitor_);
  if (!trash_ || !janitor_.empty()) return;
  const pid_t pid = fork();
  if (pid < 0) return;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close_range(3, ~0U, 0);
    (void)!nice(10);
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(options_.state_dir + "/trash", ignored)) std::filesystem::remove_all(entry.path(), ignored);
    _exit(0);
  }
  janitor_.push_back(pid);
  trash_ = false;
}

void Launcher::kill_everything() {
  closing_ = true;
  for (auto& [id, slot] : slots_) {
    if (slot->state != State::kEnded) kill(slot->pid, SIGKILL);
  }
  for (auto& [id, slot] : slots_) release(*slot);
  slots_.clear();
  for (const pid_t pid : janitor_) waitpid(pid, nullptr, 0);
  for (const auto& [digest, job] : image_jobs_) {
    kill(job.pid, SIGKILL);
    waitpid(job.pid, nullptr, 0);
  }
  clean_up_after_earlier();
  if (cgroups_) cgroups_->close();
}

void Launcher::run() {
  while (true) {
    std::vector<pollfd> waits{{.fd = options_.socket, .events = POLLIN, .revents = 0}, {.fd = signals_.get(), .events = POLLIN, .revents = 0}};
    std::vector<std::pair<std::uint64_t, bool>> owners;  // Slot, and whether it is its control socket.
    for (const auto& [id, slot] : slots_) {
      if (slot->control.valid()) {
        waits.push_back({.fd = slot->control.get(), .events = POLLIN, .revents = 0});
        owners.emplace_back(id, true);
      }
      if (slot->pidfd.valid()) {
        waits.push_back({.fd = slot->pidfd.get(), .events = POLLIN, .revents = 0});
        owners.emplace_back(id, false);
      }
    }
    std::vector<Digest> jobs;
    for (const auto& [digest, job] : image_jobs_) {
      waits.push_back({.fd = job.pidfd.get(), .events = POLLIN, .revents = 0});
      jobs.push_back(digest);
    }
    const int ready = poll(waits.data(), waits.size(), trash_ || !janitor_.empty() ? kTrashMillis : -1);
    if (ready < 0) {
      if (errno == EINTR) continue;
      return;
    }
    reap_exporters(exporters_);
    if (ready == 0) empty_trash();
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      if (waits[2 + owners.size() + i].revents != 0) image_ended(jobs[i]);
    }
    for (std::size_t i = 2; i < 2 + owners.size(); ++i) {
      if (waits[i].revents == 0) continue;
      const auto found = slots_.find(owners[i - 2].first);
      if (found == slots_.end()) continue;
      if (owners[i - 2].second) {
        if (found->second->control.valid()) control_ready(*found->second);
      } else if (found->second->state != State::kEnded) {
        process_ended(*found->second);
      }
    }
    if (waits[0].revents != 0 && !read_request()) return;
    if (waits[1].revents != 0) return;
  }
}

}  // namespace

Result<void> check_start(const StartRecord& record) {
  const auto plain_name = [](const std::string& name) {
    return !name.empty() && name.size() <= 255 && name != "." && name != ".." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  };
  const auto no_nul = [](const std::string& text) { return text.find('\0') == std::string::npos; };
  if (record.trees.empty() || record.trees.size() > kTreesMax) return invalid_argument("a container has 1 to " + std::to_string(kTreesMax) + " trees");
  if (record.argv.empty() || record.argv[0].empty()) return invalid_argument("a container needs a program to run");
  if (record.argv.size() > kStringsMax || record.env.size() > kStringsMax) return invalid_argument("too many arguments or variables");
  if (!std::all_of(record.argv.begin(), record.argv.end(), no_nul) || !std::all_of(record.env.begin(), record.env.end(), no_nul) ||
      !no_nul(record.working_directory)) {
    return invalid_argument("a NUL byte in an argument, a variable or the working directory");
  }
  if (!record.working_directory.empty() && record.working_directory.front() != '/') return invalid_argument("the working directory must be absolute");
  if (record.uid >= kIdsPerSlot || record.gid >= kIdsPerSlot) return invalid_argument("user and group ids are below 65,536");
  if (record.hostname.size() > 63) return invalid_argument("a host name has at most 63 characters");
  for (const auto& [name, content] : record.files) {
    if (!plain_name(name) || name == "api.sock" || name == "resolv.conf" || name == "hosts" || name == "hostname") {
      return invalid_argument("'" + name + "' is no name for a private file");
    }
  }
  return {};
}

Result<void> run_launcher(const LauncherOptions& options, Logger& log) {
  Launcher launcher(options, log);
  PROA_TRY_VOID(launcher.open());
  launcher.run();
  return {};
}

}  // namespace proa::launcher
