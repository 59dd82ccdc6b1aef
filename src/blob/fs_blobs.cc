// SPDX-License-Identifier: Apache-2.0
#include "blob/fs_blobs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/digest.h"

namespace proa::blob {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;
constexpr std::size_t kCopyBytes = 1 << 18;

Error disk_error(int err, std::string_view what) {
  if (err == ENOSPC || err == EDQUOT) {
    return resource_exhausted("disk full: " + std::string(what) + "; free some space or move the data directory");
  }
  return errno_error(err, what);
}

Error missing(BlobId id) { return not_found("blob " + id.text() + " is not there (any more)"); }

// 32 hexadecimal digits: ids are told apart by case, and file systems need not.
std::string hex_of(BlobId id) {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(id.bits().high),
                static_cast<unsigned long long>(id.bits().low));
  return text;
}

Result<void> make_directory(int parent, const std::string& name) {
  if (::mkdirat(parent, name.c_str(), kDirectoryMode) == 0 || errno == EEXIST) return {};
  return disk_error(errno, "cannot make the directory '" + name + "'");
}

Result<void> flush(int fd) {
  if (::fsync(fd) != 0) return disk_error(errno, "cannot flush a blob");
  return {};
}

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

// Nothing if there is no such directory.
Result<std::vector<std::string>> names_in(int parent, const std::string& name) {
  std::vector<std::string> names;
  const int fd = ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return names;
  if (fd < 0) return errno_error(errno, "cannot read '" + name + "'");
  std::unique_ptr<DIR, CloseDir> dir(::fdopendir(fd));
  if (!dir) return ::close(fd), errno_error(errno, "cannot read '" + name + "'");
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view text = entry->d_name;
    if (text != "." && text != "..") names.emplace_back(text);
  }
  return names;
}

Result<Bytes> read_at(int fd, std::uint64_t offset, std::size_t length) {
  Bytes bytes(length, '\0');
  std::size_t filled = 0;
  while (filled < length) {
    const ssize_t got = ::pread(fd, bytes.data() + filled, length - filled, static_cast<off_t>(offset + filled));
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, "cannot read a blob");
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

Result<void> write_bytes(int fd, BytesView bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0) {
      if (errno == EINTR) continue;
      return disk_error(errno, "cannot write a blob");
    }
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
  return {};
}

}  // namespace

struct FsBlobs::Files {
  OwnedFd root;
  OwnedFd tmp;
  OwnedFd parts;

  static std::string name_of(BlobId id) {
    const std::string hex = hex_of(id);
    return hex.substr(0, 2) + "/" + hex;
  }

  Result<OwnedFd> open_blob(BlobId id) const {
    const int fd = ::openat(root.get(), name_of(id).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0) return OwnedFd(fd);
    if (errno == ENOENT) return missing(id);
    return errno_error(errno, "cannot open blob " + id.text());
  }

  Result<std::uint64_t> size_of(BlobId id) const {
    struct stat status{};
    if (::fstatat(root.get(), name_of(id).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) {
      return static_cast<std::uint64_t>(status.st_size);
    }
    if (errno == ENOENT) return missing(id);
    return errno_error(errno, "cannot look at blob " + id.text());
  }

  // The MD5 and size of what is there, should an upload find that it is not the first.
  Result<bool> is_same(BlobId id, std::uint64_t size_bytes, BytesView md5_of) const {
    PROA_TRY(const OwnedFd fd, open_blob(id));
    Hasher hasher(Hasher::Kind::kMd5);
    std::uint64_t offset = 0;
    while (true) {
      PROA_TRY(const Bytes piece, read_at(fd.get(), offset, kCopyBytes));
      if (piece.empty()) break;
      hasher.update(piece);
      offset += piece.size();
    }
    return offset == size_bytes && hasher.finish() == md5_of;
  }

  // Names a finished file of tmp; true if it did, false if a blob is there already.
  Result<bool> publish(const std::string& temporary, BlobId id) const {
    const std::string name = name_of(id);
    const std::string shard = name.substr(0, 2);
    const bool made = ::mkdirat(root.get(), shard.c_str(), kDirectoryMode) == 0;
    if (!made && errno != EEXIST) return disk_error(errno, "cannot make the directory '" + shard + "'");
    if (::linkat(tmp.get(), temporary.c_str(), root.get(), name.c_str(), 0) != 0) {
      if (errno == EEXIST) return false;
      return disk_error(errno, "cannot name a blob");
    }
    ::unlinkat(tmp.get(), temporary.c_str(), 0);
    PROA_TRY(const OwnedFd directory, open_file(root.get(), shard, O_RDONLY | O_DIRECTORY));
    PROA_TRY_VOID(flush(directory.get()));
    if (made) PROA_TRY_VOID(flush(root.get()));
    return true;
  }

  Result<void> remove_parts(BlobId id) const {
    const std::string directory = hex_of(id);
    PROA_TRY(const auto names, names_in(parts.get(), directory));
    for (const std::string& name : names) ::unlinkat(parts.get(), (directory + "/" + name).c_str(), 0);
    if (::unlinkat(parts.get(), directory.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return {};
    return errno_error(errno, "cannot remove the parts of blob " + id.text());
  }

  Result<std::string> complete(BlobId id, const std::vector<Part>& list, std::uint64_t length) const;
};

namespace {

// A file of tmp that goes away unless it is given a name.
struct Writing {
  std::shared_ptr<FsBlobs::Files> files;
  std::string temporary;
  OwnedFd fd;
  Hasher hasher{Hasher::Kind::kMd5};
  std::uint64_t length = 0;
  std::uint64_t written = 0;
  BlobId id;
  std::uint32_t part = 0;  // 0: the whole blob.
  bool done = false;

  Writing(std::shared_ptr<FsBlobs::Files> of, BlobId blob, std::uint32_t number, std::uint64_t announced)
      : files(std::move(of)), length(announced), id(blob), part(number) {}
  ~Writing() {
    if (!temporary.empty()) ::unlinkat(files->tmp.get(), temporary.c_str(), 0);
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

  Result<void> begin() {
    SystemRandom random;
    const std::string name = to_hex(random.bytes(16));
    const int made = ::openat(files->tmp.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode);
    if (made < 0) return disk_error(errno, "cannot make a file for a blob");
    fd.reset(made);
    temporary = name;
    return {};
  }

  Result<void> write(BytesView bytes) {
    if (done) return failed_precondition("the upload has been committed");
    if (bytes.size() > length - written) {
      return invalid_argument("more bytes than the " + std::to_string(length) + " that were announced");
    }
    PROA_TRY_VOID(write_bytes(fd.get(), bytes));
    hasher.update(bytes);
    written += bytes.size();
    return {};
  }

  Result<Bytes> commit() {
    if (std::exchange(done, true)) return failed_precondition("the upload has been committed");
    if (written != length) {
      return invalid_argument(std::to_string(written) + " bytes of the " + std::to_string(length) +
                              " that were announced");
    }
    PROA_TRY_VOID(flush(fd.get()));
    fd.reset(-1);
    Bytes hash = hasher.finish();
    if (part != 0) {
      PROA_TRY_VOID(name_part(hash));
      return hash;
    }
    PROA_TRY(const bool named, files->publish(temporary, id));
    if (named) {
      temporary.clear();
      return hash;
    }
    PROA_TRY(const bool same, files->is_same(id, written, hash));
    if (!same) return already_exists("blob " + id.text() + " is there already, with other bytes");
    return hash;
  }

  Result<void> name_part(const Bytes& hash) {
    const std::string directory = hex_of(id);
    const std::string number = std::to_string(part);
    const std::string name = number + "." + to_hex(hash);
    PROA_TRY_VOID(make_directory(files->parts.get(), directory));
    if (::renameat(files->tmp.get(), temporary.c_str(), files->parts.get(), (directory + "/" + name).c_str()) != 0) {
      return disk_error(errno, "cannot name a part of a blob");
    }
    temporary.clear();
    PROA_TRY(const auto names, names_in(files->parts.get(), directory));
    for (const std::string& other : names) {
      if (other != name && other.starts_with(number + ".")) {
        ::unlinkat(files->parts.get(), (directory + "/" + other).c_str(), 0);
      }
    }
    PROA_TRY(const OwnedFd made, open_file(files->parts.get(), directory, O_RDONLY | O_DIRECTORY));
    PROA_TRY_VOID(flush(made.get()));
    return flush(files->parts.get());
  }
};

class FsUpload final : public Upload {
 public:
  FsUpload(Loop& loop, Pool& pool, std::shared_ptr<Writing> writing)
      : loop_(loop), pool_(pool), writing_(std::move(writing)) {}

  Async<Result<void>> write(Bytes bytes) override {
    auto work = [writing = writing_, bytes = std::move(bytes)] { return writing->write(bytes); };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }
  Async<Result<Bytes>> commit() override {
    auto work = [writing = writing_] { return writing->commit(); };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

 private:
  Loop& loop_;
  Pool& pool_;
  std::shared_ptr<Writing> writing_;  // Shared with pool work that outlives this.
};

class FsDownload final : public Download {
 public:
  FsDownload(Loop& loop, Pool& pool, OwnedFd fd, std::uint64_t size_bytes)
      : loop_(loop), pool_(pool), fd_(std::make_shared<OwnedFd>(std::move(fd))), size_bytes_(size_bytes) {}

  std::uint64_t size_bytes() const override { return size_bytes_; }
  Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) override {
    if (offset >= size_bytes_) co_return Bytes();
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(length, size_bytes_ - offset));
    auto work = [fd = fd_, offset, count] { return read_at(fd->get(), offset, count); };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

 private:
  Loop& loop_;
  Pool& pool_;
  std::shared_ptr<OwnedFd> fd_;
  std::uint64_t size_bytes_;
};

}  // namespace

Result<std::string> FsBlobs::Files::complete(BlobId id, const std::vector<Part>& list, std::uint64_t length) const {
  PROA_TRY(std::string etag, etag_of_parts(list));
  if (const auto there = size_of(id); there.ok()) {
    // Said again: the answer was lost, or what follows the naming was not reached.
    if (*there != length) return failed_precondition("blob " + id.text() + " is there with another length");
    PROA_TRY_VOID(remove_parts(id));
    return etag;
  }
  const std::string directory = hex_of(id);
  std::uint64_t total = 0;
  // Looked at first, so that nothing is copied in vain. Opened one at a time: there may be thousands.
  const auto path_of = [&](const Part& part) {
    return directory + "/" + std::to_string(part.number) + "." + part.etag;
  };
  for (const Part& part : list) {
    struct stat status{};
    if (::fstatat(parts.get(), path_of(part).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return invalid_argument("part " + std::to_string(part.number) + " of blob " + id.text() +
                              " was not uploaded with the ETag " + part.etag);
    }
    total += static_cast<std::uint64_t>(status.st_size);
  }
  if (total != length) {
    return failed_precondition("the parts of blob " + id.text() + " have " + std::to_string(total) + " bytes, not " +
                               std::to_string(length));
  }
  struct Cleanup {
    const Files& owner;
    std::string name;
    ~Cleanup() {
      if (!name.empty()) ::unlinkat(owner.tmp.get(), name.c_str(), 0);
    }
  } temporary{*this, to_hex(SystemRandom().bytes(16))};
  PROA_TRY(const OwnedFd target, open_file(tmp.get(), temporary.name, O_WRONLY | O_CREAT | O_EXCL, kFileMode));
  for (const Part& part : list) {
    PROA_TRY(const OwnedFd source, open_file(parts.get(), path_of(part), O_RDONLY));
    std::uint64_t offset = 0;
    while (true) {
      PROA_TRY(const Bytes piece, read_at(source.get(), offset, kCopyBytes));
      if (piece.empty()) break;
      PROA_TRY_VOID(write_bytes(target.get(), piece));
      offset += piece.size();
    }
  }
  PROA_TRY_VOID(flush(target.get()));
  PROA_TRY(const bool named, publish(temporary.name, id));
  if (named) temporary.name.clear();
  PROA_TRY_VOID(remove_parts(id));
  return etag;
}

FsBlobs::~FsBlobs() = default;

Result<std::unique_ptr<FsBlobs>> FsBlobs::open_directory(Loop& loop, Pool& pool, const std::string& directory) {
  auto files = std::make_shared<Files>();
  PROA_TRY_VOID(make_directory(AT_FDCWD, directory));
  PROA_TRY(files->root, open_file(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  PROA_TRY_VOID(make_directory(files->root.get(), "tmp"));
  PROA_TRY_VOID(make_directory(files->root.get(), "parts"));
  PROA_TRY(files->tmp, open_file(files->root.get(), "tmp", O_RDONLY | O_DIRECTORY));
  PROA_TRY(files->parts, open_file(files->root.get(), "parts", O_RDONLY | O_DIRECTORY));
  PROA_TRY_VOID(flush(files->root.get()));
  PROA_TRY(const auto torn, names_in(files->root.get(), "tmp"));
  for (const std::string& name : torn) ::unlinkat(files->tmp.get(), name.c_str(), 0);
  return std::unique_ptr<FsBlobs>(new FsBlobs(loop, pool, std::move(files)));
}

Async<Result<std::unique_ptr<Upload>>> FsBlobs::put(BlobId id, std::uint64_t length) {
  auto writing = std::make_shared<Writing>(files_, id, 0, length);
  auto work = [writing] { return writing->begin(); };
  PROA_CO_TRY_VOID(co_await run_in(pool_, loop_, std::move(work)));
  co_return std::unique_ptr<Upload>(new FsUpload(loop_, pool_, std::move(writing)));
}

Async<Result<std::unique_ptr<Upload>>> FsBlobs::put_part(BlobId id, std::uint32_t number, std::uint64_t length) {
  if (number == 0 || number > kPartsMax) co_return invalid_argument("the parts of an upload are numbered 1 to 10000");
  auto writing = std::make_shared<Writing>(files_, id, number, length);
  auto work = [writing] { return writing->begin(); };
  PROA_CO_TRY_VOID(co_await run_in(pool_, loop_, std::move(work)));
  co_return std::unique_ptr<Upload>(new FsUpload(loop_, pool_, std::move(writing)));
}

Async<Result<std::string>> FsBlobs::complete(BlobId id, std::vector<Part> parts, std::uint64_t length) {
  auto work = [files = files_, id, parts = std::move(parts), length] { return files->complete(id, parts, length); };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

Async<Result<std::unique_ptr<Download>>> FsBlobs::open(BlobId id) {
  struct Opened {
    std::shared_ptr<OwnedFd> fd;
    std::uint64_t size_bytes = 0;
  };
  auto work = [files = files_, id]() -> Result<Opened> {
    PROA_TRY(OwnedFd fd, files->open_blob(id));
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) return errno_error(errno, "cannot look at blob " + id.text());
    return Opened{.fd = std::make_shared<OwnedFd>(std::move(fd)),
                  .size_bytes = static_cast<std::uint64_t>(status.st_size)};
  };
  PROA_CO_TRY(const Opened opened, co_await run_in(pool_, loop_, std::move(work)));
  co_return std::unique_ptr<Download>(new FsDownload(loop_, pool_, std::move(*opened.fd), opened.size_bytes));
}

Async<Result<std::uint64_t>> FsBlobs::size(BlobId id) {
  auto work = [files = files_, id] { return files->size_of(id); };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

Async<Result<void>> FsBlobs::remove(BlobId id) {
  auto work = [files = files_, id]() -> Result<void> {
    if (::unlinkat(files->root.get(), Files::name_of(id).c_str(), 0) != 0 && errno != ENOENT) {
      return errno_error(errno, "cannot remove blob " + id.text());
    }
    return files->remove_parts(id);
  };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

Result<std::vector<BlobId>> FsBlobs::older_than(Time time) const {
  std::vector<BlobId> found;
  for (int shard = 0; shard < 256; ++shard) {
    char name[3];
    std::snprintf(name, sizeof name, "%02x", shard);
    PROA_TRY(const auto files, names_in(files_->root.get(), name));
    for (const std::string& file : files) {
      IdBits bits;
      const auto part = [&](std::size_t from, std::uint64_t& into) {
        const auto [end, failed] = std::from_chars(file.data() + from, file.data() + from + 16, into, 16);
        return failed == std::errc() && end == file.data() + from + 16;
      };
      if (file.size() != 32 || !part(0, bits.high) || !part(16, bits.low)) continue;
      struct stat status{};
      if (::fstatat(files_->root.get(), (std::string(name) + "/" + file).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
      if (Time(std::chrono::seconds(status.st_mtim.tv_sec)) < time) found.emplace_back(bits);
    }
  }
  return found;
}

Result<OwnedFd> FsBlobs::open_file_of(BlobId id) const { return files_->open_blob(id); }

}  // namespace proa::blob
