// SPDX-License-Identifier: Apache-2.0
#include "cas/import.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace proa::cas {
namespace {

// Each level holds a descriptor while it is walked.
constexpr int kDepthMax = 500;
constexpr std::size_t kXattrNamesBytesMax = 65536;  // The kernel's own limit.

Result<OwnedFd> open_beneath(int root, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
  if (fd < 0) return errno_error(errno, "cannot open '" + path + "'");
  return OwnedFd(static_cast<int>(fd));
}

std::int64_t nanos_of(const timespec& time) { return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

bool is_kept(std::string_view xattr) { return xattr.starts_with("user.") || xattr == "security.capability"; }

Result<void> read_xattrs(int fd, TreeEntry& entry) {
  ssize_t size = ::flistxattr(fd, nullptr, 0);
  if (size <= 0) return {};  // None, or a file system without.
  std::string names(std::min(static_cast<std::size_t>(size) + 1024, kXattrNamesBytesMax), '\0');
  size = ::flistxattr(fd, names.data(), names.size());
  if (size < 0) return errno_error(errno, "cannot list the attributes of '" + entry.path + "'");
  names.resize(static_cast<std::size_t>(size));
  for (std::size_t at = 0; at < names.size();) {
    const std::string name(names.c_str() + at);
    at += name.size() + 1;
    if (!is_kept(name)) continue;
    std::string value(65536, '\0');
    const ssize_t got = ::fgetxattr(fd, name.c_str(), value.data(), value.size());
    if (got < 0) {
      if (errno == ENODATA) continue;
      return errno_error(errno, "cannot read the attribute '" + name + "' of '" + entry.path + "'");
    }
    value.resize(static_cast<std::size_t>(got));
    entry.xattrs.emplace(name, std::move(value));
  }
  return {};
}

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

class Walk {
 public:
  Walk(ObjectStore& store, OwnedFd root, const ImportOptions& options)
      : root_(std::move(root)), options_(options), batch_(store) {}

  Result<Tree> run() {
    PROA_TRY(OwnedFd top, open_beneath(root_.get(), ".", O_RDONLY | O_DIRECTORY));
    PROA_TRY_VOID(add_directory("", std::move(top), 0));
    PROA_TRY_VOID(read_files());
    PROA_TRY_VOID(batch_.commit());
    return make_tree(std::move(entries_));
  }

 private:
  void set_status(TreeEntry& entry, const struct stat& status) const {
    entry.mode = status.st_mode & 07777;
    entry.uid = options_.owners == Owners::kKeep ? status.st_uid : 0;
    entry.gid = options_.owners == Owners::kKeep ? status.st_gid : 0;
    entry.mtime_nanos = nanos_of(status.st_mtim);
  }

  Result<void> add_directory(const std::string& path, OwnedFd fd, int depth) {
    if (depth > kDepthMax) return invalid_argument("'" + path + "' is deeper than 500 directories");
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return errno_error(errno, "cannot look at '" + path + "'");
    TreeEntry self{.path = path, .kind = EntryKind::kDirectory};
    set_status(self, status);
    PROA_TRY_VOID(read_xattrs(fd.get(), self));
    entries_.push_back(std::move(self));
    if (entries_.size() > kTreeEntriesMax) return invalid_argument("a tree has at most 4,000,000 entries");

    const int fd_number = fd.get();
    std::unique_ptr<DIR, CloseDir> dir(::fdopendir(fd_number));
    if (!dir) return errno_error(errno, "cannot read '" + path + "'");
    fd.release();
    errno = 0;
    while (const dirent* found = ::readdir(dir.get())) {
      const std::string name = found->d_name;
      if (name == "." || name == "..") continue;
      PROA_TRY_VOID(add(fd_number, name, path.empty() ? name : path + "/" + name, depth));
      errno = 0;
    }
    if (errno != 0) return errno_error(errno, "cannot read '" + path + "'");
    return {};
  }

  Result<void> add(int parent, const std::string& name, const std::string& path, int depth) {
    struct stat status{};
    if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) return {};  // Gone since the directory was read.
      return errno_error(errno, "cannot look at '" + path + "'");
    }
    TreeEntry entry{.path = path};
    set_status(entry, status);
    switch (status.st_mode & S_IFMT) {
      case S_IFDIR: {
        PROA_TRY(OwnedFd fd, open_file(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        return add_directory(path, std::move(fd), depth + 1);
      }
      case S_IFREG: files_.push_back(entries_.size()); break;
      case S_IFLNK: {
        entry.kind = EntryKind::kSymlink;
        entry.target.resize(kPathBytesMax + 1);
        const ssize_t size = ::readlinkat(parent, name.c_str(), entry.target.data(), entry.target.size());
        if (size < 0) return errno_error(errno, "cannot read the link '" + path + "'");
        entry.target.resize(static_cast<std::size_t>(size));
        break;
      }
      case S_IFIFO: entry.kind = EntryKind::kFifo; break;
      default: return {};  // Sockets and devices mean nothing elsewhere.
    }
    entries_.push_back(std::move(entry));
    return {};
  }

  Result<void> read_files() {
    std::vector<std::thread> threads;
    const int count = std::clamp(options_.threads, 1, 16);
    for (int i = 1; i < count; ++i) threads.emplace_back([this] { read_some_files(); });
    read_some_files();
    for (std::thread& thread : threads) thread.join();
    if (failed_) return *error_;
    return {};
  }

  void read_some_files() {
    while (!failed_) {
      const std::size_t next = next_file_++;
      if (next >= files_.size()) return;
      if (auto read = read_file(entries_[files_[next]]); !read.ok()) {
        const std::lock_guard lock(mutex_);
        if (!failed_) error_ = std::make_unique<Error>(std::move(read).error());
        failed_ = true;
      }
    }
  }

  Result<void> read_file(TreeEntry& entry) {
    PROA_TRY(const OwnedFd fd, open_beneath(root_.get(), entry.path, O_RDONLY | O_NONBLOCK));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return errno_error(errno, "cannot look at '" + entry.path + "'");
    if (!S_ISREG(status.st_mode)) return Error{Code::kAborted, "'" + entry.path + "' changed while it was imported"};
    set_status(entry, status);
    PROA_TRY_VOID(read_xattrs(fd.get(), entry));
    if (status.st_size == 0) return {};
    if (bytes_ += static_cast<std::uint64_t>(status.st_size); bytes_ > options_.bytes_max) {
      return Error{Code::kOutOfRange, "the directory holds more than " + std::to_string(options_.bytes_max) + " bytes"};
    }
    PROA_TRY(const Stored stored, batch_.put_fd(fd.get()));
    if (stored.size_bytes == 0) return {};
    entry.content = stored.digest;
    entry.size_bytes = stored.size_bytes;
    return {};
  }

  OwnedFd root_;
  ImportOptions options_;
  Batch batch_;
  std::vector<TreeEntry> entries_;
  std::vector<std::size_t> files_;  // Places in entries_. Each is worked on by one thread.
  std::atomic<std::size_t> next_file_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::unique_ptr<Error> error_;
};

}  // namespace

Result<Tree> import_directory(ObjectStore& store, const std::string& path, const ImportOptions& options) {
  PROA_TRY(OwnedFd root, open_file(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  Walk walk(store, std::move(root), options);
  return walk.run();
}

// --- export_tree ---------------------------------------------------------------------------------------------

namespace {

Result<void> copy_object(const ObjectStore& store, const TreeEntry& entry, int target) {
  PROA_TRY(const OwnedFd source, store.open_object(entry.content));
  Hasher hasher(Hasher::Kind::kSha256);
  std::uint64_t size_bytes = 0;
  std::string buffer(1 << 18, '\0');
  while (true) {
    const ssize_t got = ::read(source.get(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, "cannot read object " + entry.content.hex());
    }
    if (got == 0) break;
    const BytesView piece(buffer.data(), static_cast<std::size_t>(got));
    hasher.update(piece);
    size_bytes += piece.size();
    PROA_TRY_VOID(write_all(target, piece, "cannot write '" + entry.path + "'"));
  }
  if (hasher.finish() != entry.content.view() || size_bytes != entry.size_bytes) {
    return Error{Code::kDataLoss, "object " + entry.content.hex() + " of '" + entry.path + "' is damaged"};
  }
  return {};
}

// Owners first: changing them takes away set-user-id bits and capabilities.
Result<void> set_metadata(const TreeEntry& entry, int fd, bool as_root) {
  const auto failed = [&](std::string_view what) {
    return errno_error(errno, "cannot set the " + std::string(what) + " of '" + entry.path + "'");
  };
  if (as_root && ::fchown(fd, entry.uid, entry.gid) != 0) return failed("owner");
  if (::fchmod(fd, entry.mode) != 0) return failed("mode");
  for (const auto& [name, value] : entry.xattrs) {
    if (!as_root && name == "security.capability") continue;
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0) return failed("attributes");
  }
  const std::int64_t second = 1'000'000'000;
  std::int64_t seconds = entry.mtime_nanos / second;
  std::int64_t rest = entry.mtime_nanos % second;
  if (rest < 0) rest += second, --seconds;
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = rest}};
  if (::futimens(fd, times) != 0) return failed("time");
  return {};
}

Result<void> write_entry(const ObjectStore& store, const TreeEntry& entry, int root, bool as_root) {
  const char* path = entry.path.c_str();
  const auto failed = [&] { return errno_error(errno, "cannot make '" + entry.path + "'"); };
  switch (entry.kind) {
    case EntryKind::kDirectory:
      // Its own mode comes last: it may not let us in.
      if (!entry.path.empty() && ::mkdirat(root, path, 0700) != 0) return failed();
      return {};
    case EntryKind::kFile: {
      PROA_TRY(const OwnedFd fd, open_file(root, entry.path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
      if (entry.size_bytes != 0) PROA_TRY_VOID(copy_object(store, entry, fd.get()));
      return set_metadata(entry, fd.get(), as_root);
    }
    case EntryKind::kSymlink:
      if (::symlinkat(entry.target.c_str(), root, path) != 0) return failed();
      if (as_root && ::fchownat(root, path, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) return failed();
      return {};
    case EntryKind::kFifo: {
      if (::mkfifoat(root, path, 0600) != 0) return failed();
      if (as_root && ::fchownat(root, path, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) return failed();
      if (::fchmodat(root, path, entry.mode, 0) != 0) return failed();
      return {};
    }
    case EntryKind::kWhiteout: break;
  }
  return invalid_argument("'" + entry.path + "' is a whiteout: lay the tree over its base first");
}

}  // namespace

Result<void> export_tree(const ObjectStore& store, const Tree& tree, const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_error(errno, "cannot make '" + path + "'");
  PROA_TRY(const OwnedFd root, open_file(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  {
    std::unique_ptr<DIR, CloseDir> dir(::opendir(path.c_str()));
    if (!dir) return errno_error(errno, "cannot read '" + path + "'");
    while (const dirent* found = ::readdir(dir.get())) {
      const std::string_view name = found->d_name;
      if (name != "." && name != "..") return failed_precondition("'" + path + "' is not empty");
    }
  }
  const bool as_root = ::geteuid() == 0;
  for (const TreeEntry& entry : tree.entries) PROA_TRY_VOID(write_entry(store, entry, root.get(), as_root));
  for (auto entry = tree.entries.rbegin(); entry != tree.entries.rend(); ++entry) {
    if (entry->kind != EntryKind::kDirectory) continue;
    PROA_TRY(const OwnedFd fd, open_file(root.get(), entry->path.empty() ? "." : entry->path, O_RDONLY | O_DIRECTORY));
    PROA_TRY_VOID(set_metadata(*entry, fd.get(), as_root));
  }
  return {};
}

}  // namespace proa::cas
