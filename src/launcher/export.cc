// SPDX-License-Identifier: Apache-2.0
#include "launcher/export.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "cas/tree.h"

namespace proa::launcher {
namespace {

using cas::EntryKind;

class Exporter {
 public:
  Exporter(int out, std::uint32_t id_base, std::uint32_t ids) : out_(out), id_base_(id_base), ids_(ids) {}
  [[noreturn]] void run();

 private:
  // `below` is where the trees have what is merged with this directory; nothing if they have none.
  using Below = std::optional<std::string>;
  void walk(int directory, const std::string& path, const Below& below);
  void entry(int parent, const std::string& name, const std::string& path, const Below& below_parent);
  void content(int fd, std::uint64_t size);
  void write_all(const void* data, std::size_t size);
  void write_record(const LayerRecord& record);
  void read_attributes(int fd, LayerRecord& record);
  [[noreturn]] void stop(const std::string& why);
  std::uint32_t inner(std::uint32_t id) const { return id >= id_base_ && id - id_base_ < ids_ ? id - id_base_ : 65'534; }

  int out_;
  std::uint32_t id_base_;
  std::uint32_t ids_;
};

void Exporter::write_all(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t put = write(out_, at, size);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) _exit(1);  // Nobody reads any more.
    at += put;
    size -= static_cast<std::size_t>(put);
  }
}

void Exporter::write_record(const LayerRecord& record) {
  const Bytes bytes = encode(record);
  const auto size = static_cast<std::uint32_t>(bytes.size());
  write_all(&size, sizeof size);
  write_all(bytes.data(), bytes.size());
}

void Exporter::stop(const std::string& why) {
  LayerRecord last;
  last.end = true;
  last.error = why;
  write_record(last);
  _exit(why.empty() ? 0 : 1);
}

// A file may be held open by nobody any more: its size does not change. If it is shorter all the same, zeros
// make up for it, so that the stream stays in step.
void Exporter::content(int fd, std::uint64_t size) {
  std::vector<char> buffer(256 << 10);
  while (size > 0) {
    const std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(size, buffer.size()));
    ssize_t got = read(fd, buffer.data(), want);
    if (got <= 0) {
      std::memset(buffer.data(), 0, want);
      got = static_cast<ssize_t>(want);
    }
    write_all(buffer.data(), static_cast<std::size_t>(got));
    size -= static_cast<std::uint64_t>(got);
  }
}

// File capabilities set inside carry the host's id of the container's root; a tree has them in the form that
// belongs to whoever is root.
std::string without_owner(const std::string& capability) {
  constexpr std::size_t kSizeV2 = 20;
  constexpr std::size_t kSizeV3 = 24;
  if (capability.size() != kSizeV3) return capability;
  std::uint32_t magic = 0;
  std::memcpy(&magic, capability.data(), sizeof magic);
  magic = (magic & ~static_cast<std::uint32_t>(VFS_CAP_REVISION_MASK)) | VFS_CAP_REVISION_2;
  std::string out = capability.substr(0, kSizeV2);
  std::memcpy(out.data(), &magic, sizeof magic);
  return out;
}

void Exporter::read_attributes(int fd, LayerRecord& record) {
  std::vector<char> names(64 << 10);
  const ssize_t size = flistxattr(fd, names.data(), names.size());
  if (size <= 0) return;
  for (const char* name = names.data(); name < names.data() + size; name += std::strlen(name) + 1) {
    std::array<char, 4097> value{};
    const ssize_t length = fgetxattr(fd, name, value.data(), value.size() - 1);
    if (length < 0) continue;
    const std::string_view view(name);
    const std::string text(value.data(), static_cast<std::size_t>(length));
    if (view == "trusted.overlay.opaque") {
      record.opaque = text == "y";
    } else if (view == "trusted.overlay.metacopy") {
      record.unchanged_content = true;
    } else if (view == "trusted.overlay.redirect") {
      record.origin = text;
    } else if (view == "security.capability") {
      record.xattrs[name] = without_owner(text);
    } else if (view.starts_with("user.")) {
      record.xattrs[name] = text;
    }
  }
}

std::string join(const std::string& directory, const std::string& name) { return directory.empty() ? name : directory + "/" + name; }

void Exporter::entry(int parent, const std::string& name, const std::string& path, const Below& below_parent) {
  struct stat about {};
  if (fstatat(parent, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) stop("cannot look at " + path + ": " + std::strerror(errno));
  LayerRecord record;
  record.path = path;
  record.mode = about.st_mode & 07777;
  record.uid = inner(about.st_uid);
  record.gid = inner(about.st_gid);
  record.mtime_nanos = about.st_mtim.tv_sec * 1'000'000'000LL + about.st_mtim.tv_nsec;
  if (S_ISLNK(about.st_mode)) {
    std::array<char, 4097> target{};
    const ssize_t size = readlinkat(parent, name.c_str(), target.data(), target.size() - 1);
    if (size < 0) stop("cannot read the link " + path);
    record.kind = static_cast<std::uint8_t>(EntryKind::kSymlink);
    record.target.assign(target.data(), static_cast<std::size_t>(size));
    return write_record(record);
  }
  if (S_ISCHR(about.st_mode) && about.st_rdev == makedev(0, 0)) {
    record.kind = static_cast<std::uint8_t>(EntryKind::kWhiteout);
    record.mode = 0;
    return write_record(record);
  }
  if (S_ISFIFO(about.st_mode)) {
    record.kind = static_cast<std::uint8_t>(EntryKind::kFifo);
    return write_record(record);
  }
  if (!S_ISDIR(about.st_mode) && !S_ISREG(about.st_mode)) return;  // Sockets and devices do not outlive a container.
  const OwnedFd fd(openat(parent, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (S_ISDIR(about.st_mode) ? O_DIRECTORY : 0)));
  if (!fd.valid()) stop("cannot open " + path + ": " + std::strerror(errno));
  read_attributes(fd.get(), record);
  // The overlay notes only what was moved itself: an absolute path, or a name beside where it is now. What lies
  // in a moved directory is found from there.
  const std::string redirect = std::exchange(record.origin, "");
  Below below;
  if (redirect.starts_with("/")) {
    below = redirect.substr(1);
  } else if (below_parent && !record.opaque) {
    below = join(*below_parent, redirect.empty() ? name : redirect);
  }
  if (below) record.origin = "/" + *below;
  if (S_ISDIR(about.st_mode)) {
    record.kind = static_cast<std::uint8_t>(EntryKind::kDirectory);
    record.unchanged_content = !redirect.empty() && below.has_value();
    if (!record.unchanged_content) record.origin.clear();
    write_record(record);
    return walk(fd.get(), path, below);
  }
  record.kind = static_cast<std::uint8_t>(EntryKind::kFile);
  record.size_bytes = static_cast<std::uint64_t>(about.st_size);
  if (!record.unchanged_content) record.origin.clear();
  write_record(record);
  if (!record.unchanged_content) content(fd.get(), record.size_bytes);
}

void Exporter::walk(int directory, const std::string& path, const Below& below) {
  DIR* listing = fdopendir(dup(directory));
  if (listing == nullptr) stop("cannot read the directory " + path);
  std::vector<std::string> names;
  while (const dirent* each = readdir(listing)) {
    const std::string name = each->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(listing);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const std::string inner_path = join(path, name);
    if (inner_path.size() > cas::kPathBytesMax) stop("a path of more than " + std::to_string(cas::kPathBytesMax) + " bytes");
    entry(directory, name, inner_path, below);
  }
}

void Exporter::run() {
  const OwnedFd root(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat about {};
  if (!root.valid() || fstat(root.get(), &about) != 0) stop("cannot open the directory");
  LayerRecord first;
  first.kind = static_cast<std::uint8_t>(EntryKind::kDirectory);
  first.mode = about.st_mode & 07777;
  first.uid = inner(about.st_uid);
  first.gid = inner(about.st_gid);
  first.mtime_nanos = about.st_mtim.tv_sec * 1'000'000'000LL + about.st_mtim.tv_nsec;
  read_attributes(root.get(), first);
  write_record(first);
  walk(root.get(), "", "");
  stop("");
}

// Reading whatever modes say, and attributes in the "trusted" space; nothing else.
void keep_reading_rights() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  for (const int capability : {CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN}) {
    data[static_cast<std::size_t>(capability / 32)].effective |= 1U << (capability % 32);
    data[static_cast<std::size_t>(capability / 32)].permitted |= 1U << (capability % 32);
  }
  if (syscall(SYS_capset, &header, data.data()) != 0) _exit(1);
}

}  // namespace

Result<OwnedFd> start_export(const std::string& directory, std::uint32_t id_base, std::uint32_t ids, std::vector<pid_t>& exporters) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  OwnedFd read_end(ends[0]);
  const OwnedFd write_end(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return errno_error(errno, "fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    const int out = write_end.get();
    if (out > 3) close_range(3, static_cast<unsigned>(out - 1), 0);
    close_range(static_cast<unsigned>(out + 1), ~0U, 0);
    if (unshare(CLONE_NEWNET) != 0 || chroot(directory.c_str()) != 0 || chdir("/") != 0) _exit(1);
    keep_reading_rights();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    Exporter(out, id_base, ids).run();
  }
  exporters.push_back(pid);
  return read_end;
}

void reap_exporters(std::vector<pid_t>& exporters) {
  for (auto pid = exporters.begin(); pid != exporters.end();) {
    pid = waitpid(*pid, nullptr, WNOHANG) != 0 ? exporters.erase(pid) : std::next(pid);
  }
}

}  // namespace proa::launcher
