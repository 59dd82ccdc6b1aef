// SPDX-License-Identifier: Apache-2.0
#include "cas/object_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <set>

namespace proa::cas {
namespace {

constexpr mode_t kObjectMode = 0444;
constexpr mode_t kDirectoryMode = 0755;
// Up to here a file is read into memory once instead of being read twice.
constexpr std::size_t kInMemoryBytesMax = 1 << 20;
constexpr std::size_t kCopyBytes = 1 << 18;
// An encoded tree of kTreeEntriesMax entries with paths of usual length.
constexpr std::size_t kTreeBytesMax = 1 << 30;
// From here on one flush of the file system costs less than one for each file.
constexpr std::size_t kFlushEachMax = 8;
constexpr std::chrono::hours kTmpAgeMax{24};
// How much older than now an object may look that was just put again. Collectors of garbage wait longer.
constexpr std::chrono::minutes kTouchGrain{10};

Error disk_error(int err, std::string_view what) {
  if (err == ENOSPC || err == EDQUOT) {
    return resource_exhausted("disk full: " + std::string(what) + "; free some space or move the data directory");
  }
  return errno_error(err, what);
}

Error missing(const Digest& digest) { return not_found("object " + digest.hex() + " is not in the store"); }

Time time_of(const timespec& spec) {
  return Time(std::chrono::seconds(spec.tv_sec) +
              std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(spec.tv_nsec)));
}

unsigned shard_of(const Digest& digest) { return digest.bytes[0]; }

std::string shard_name(unsigned shard) {
  char name[3];
  std::snprintf(name, sizeof name, "%02x", shard & 0xFFU);
  return name;
}

Result<void> make_directory(int parent, const std::string& name) {
  if (::mkdirat(parent, name.c_str(), kDirectoryMode) == 0 || errno == EEXIST) return {};
  return disk_error(errno, "cannot make the directory '" + name + "'");
}

Result<void> write_bytes(int fd, BytesView bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0) {
      if (errno == EINTR) continue;
      return disk_error(errno, "cannot write an object");
    }
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
  return {};
}

Result<void> flush(int fd, std::string_view what) {
  if (::fsync(fd) != 0) return disk_error(errno, what);
  return {};
}

// Calls `each` with what is in a regular file, piece by piece.
template <class Each>
Result<void> read_through(int fd, Each each) {
  std::string buffer(kCopyBytes, '\0');
  off_t offset = 0;
  while (true) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, "cannot read a file");
    }
    if (got == 0) return {};
    offset += got;
    PROA_TRY_VOID(each(BytesView(buffer.data(), static_cast<std::size_t>(got))));
  }
}

Result<Digest> finish_hash(Hasher& hasher) { return Digest::from_bytes(hasher.finish()); }

// Closes a directory stream with its owner.
struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};

Result<std::vector<std::string>> names_in(int parent, const std::string& name) {
  PROA_TRY(OwnedFd fd, open_file(parent, name, O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, CloseDir> dir(::fdopendir(fd.get()));
  if (!dir) return errno_error(errno, "cannot read the directory '" + name + "'");
  fd.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    const std::string_view text = entry->d_name;
    if (text != "." && text != "..") names.emplace_back(text);
  }
  if (errno != 0) return errno_error(errno, "cannot read the directory '" + name + "'");
  return names;
}

struct Temporary {
  std::string name;
  OwnedFd fd;
};

Result<Temporary> make_temporary(int tmp) {
  SystemRandom random;
  Temporary made{.name = to_hex(random.bytes(16)), .fd = {}};
  made.fd = OwnedFd(::openat(tmp, made.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kObjectMode));
  if (!made.fd.valid()) return disk_error(errno, "cannot make a file in the object store");
  // Whatever the umask: who reads objects need not be who wrote them.
  if (::fchmod(made.fd.get(), kObjectMode) != 0) {
    const int err = errno;
    ::unlinkat(tmp, made.name.c_str(), 0);
    return errno_error(err, "cannot set the mode of an object");
  }
  return made;
}

}  // namespace

// --- Batch ---------------------------------------------------------------------------------------------------

Batch::Batch(ObjectStore& store) : store_(store) {}

Batch::~Batch() {
  for (const Pending& pending : pending_) store_.discard(pending.temporary);
}

Result<void> Batch::add(Pending pending) {
  const std::lock_guard lock(mutex_);
  pending_.push_back(std::move(pending));
  return {};
}

Result<Digest> Batch::put_bytes(BytesView bytes) {
  const Digest digest = sha256(bytes);
  PROA_TRY(const bool there, store_.touch(digest, bytes.size()));
  if (there) {
    // Whoever wrote it may not have flushed its name yet.
    PROA_TRY_VOID(add({.temporary = "", .digest = digest, .size_bytes = bytes.size()}));
    return digest;
  }
  PROA_TRY(Temporary made, make_temporary(store_.tmp_.get()));
  if (auto written = write_bytes(made.fd.get(), bytes); !written.ok()) {
    store_.discard(made.name);
    return std::move(written).error();
  }
  PROA_TRY_VOID(add({.temporary = std::move(made.name), .digest = digest, .size_bytes = bytes.size()}));
  return digest;
}

Result<Stored> Batch::put_fd(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return errno_error(errno, "cannot look at a file");
  if (!S_ISREG(status.st_mode)) return invalid_argument("only a regular file can become an object");
  if (static_cast<std::uint64_t>(status.st_size) <= kInMemoryBytesMax) {
    Bytes bytes;
    PROA_TRY_VOID(read_through(fd, [&](BytesView piece) -> Result<void> {
      bytes += piece;
      if (bytes.size() > 2 * kInMemoryBytesMax) return Error{Code::kAborted, "a file grew while it was read"};
      return {};
    }));
    PROA_TRY(const Digest digest, put_bytes(bytes));
    return Stored{.digest = digest, .size_bytes = bytes.size()};
  }
  Hasher hasher(Hasher::Kind::kSha256);
  std::uint64_t size_bytes = 0;
  PROA_TRY_VOID(read_through(fd, [&](BytesView piece) -> Result<void> {
    hasher.update(piece);
    size_bytes += piece.size();
    return {};
  }));
  PROA_TRY(const Digest digest, finish_hash(hasher));
  PROA_TRY(const bool there, store_.touch(digest, size_bytes));
  if (there) {
    PROA_TRY_VOID(add({.temporary = "", .digest = digest, .size_bytes = size_bytes}));
    return Stored{.digest = digest, .size_bytes = size_bytes};
  }
  // Hashed again while it is written: the file may have changed in between.
  PROA_TRY(auto writer, store_.write());
  PROA_TRY_VOID(read_through(fd, [&](BytesView piece) { return writer->write(piece); }));
  const std::uint64_t written = writer->size_bytes();
  PROA_TRY(const Digest copied, writer->finish_into(*this));
  // Whatever was written counts, should the file have changed.
  return Stored{.digest = copied, .size_bytes = written};
}

Result<void> Batch::commit() {
  std::vector<Pending> pending;
  {
    const std::lock_guard lock(mutex_);
    pending.swap(pending_);
  }
  // Whatever way this ends, no temporary file stays.
  struct Cleanup {
    ObjectStore& store;
    std::vector<Pending>& pending;
    ~Cleanup() {
      for (const Pending& each : pending) {
        if (!each.temporary.empty()) store.discard(each.temporary);
      }
    }
  } cleanup{store_, pending};

  const auto writes = static_cast<std::size_t>(
      std::count_if(pending.begin(), pending.end(), [](const Pending& each) { return !each.temporary.empty(); }));
  if (writes > kFlushEachMax) {
    if (::syncfs(store_.root_.get()) != 0) return disk_error(errno, "cannot flush objects");
  } else {
    for (const Pending& each : pending) {
      if (each.temporary.empty()) continue;
      PROA_TRY(const OwnedFd fd, open_file(store_.tmp_.get(), each.temporary, O_RDONLY));
      PROA_TRY_VOID(flush(fd.get(), "cannot flush an object"));
    }
  }
  std::set<unsigned> shards;
  for (Pending& each : pending) {
    shards.insert(shard_of(each.digest));
    if (each.temporary.empty()) continue;
    PROA_TRY_VOID(store_.publish(each.temporary, each.digest, each.size_bytes));
    each.temporary.clear();
  }
  if (shards.size() > kFlushEachMax) {
    if (::syncfs(store_.root_.get()) != 0) return disk_error(errno, "cannot flush the object store");
  } else {
    for (const unsigned shard : shards) PROA_TRY_VOID(store_.sync_shard(shard));
  }
  return {};
}

// --- ObjectWriter --------------------------------------------------------------------------------------------

ObjectWriter::~ObjectWriter() {
  if (!temporary_.empty()) store_.discard(temporary_);
}

Result<void> ObjectWriter::write(BytesView bytes) {
  PROA_TRY_VOID(write_bytes(fd_.get(), bytes));
  hasher_.update(bytes);
  size_bytes_ += bytes.size();
  return {};
}

Result<Digest> ObjectWriter::seal() {
  PROA_TRY(const Digest digest, finish_hash(hasher_));
  PROA_TRY_VOID(flush(fd_.get(), "cannot flush an object"));
  fd_.reset(-1);
  return digest;
}

Result<Digest> ObjectWriter::finish() {
  PROA_TRY(const Digest digest, seal());
  PROA_TRY_VOID(store_.publish(temporary_, digest, size_bytes_));
  temporary_.clear();
  PROA_TRY_VOID(store_.sync_shard(shard_of(digest)));
  return digest;
}

Result<void> ObjectWriter::finish_as(const Digest& expected) {
  PROA_TRY(const Digest digest, seal());
  if (digest != expected) {
    return Error{Code::kDataLoss, "the bytes hash to " + digest.hex() + ", not to " + expected.hex()};
  }
  PROA_TRY_VOID(store_.publish(temporary_, digest, size_bytes_));
  temporary_.clear();
  return store_.sync_shard(shard_of(digest));
}

Result<Digest> ObjectWriter::finish_into(Batch& batch) {
  PROA_TRY(const Digest digest, finish_hash(hasher_));
  fd_.reset(-1);
  PROA_TRY_VOID(batch.add({.temporary = std::exchange(temporary_, {}), .digest = digest, .size_bytes = size_bytes_}));
  return digest;
}

// --- ObjectStore ---------------------------------------------------------------------------------------------

ObjectStore::~ObjectStore() = default;

Result<std::unique_ptr<ObjectStore>> ObjectStore::open(const std::string& directory) {
  PROA_TRY_VOID(make_directory(AT_FDCWD, directory));
  PROA_TRY(OwnedFd root, open_file(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  PROA_TRY_VOID(make_directory(root.get(), "tmp"));
  PROA_TRY_VOID(flush(root.get(), "cannot flush the object store"));
  PROA_TRY(OwnedFd tmp, open_file(root.get(), "tmp", O_RDONLY | O_DIRECTORY));

  PROA_TRY(const auto names, names_in(root.get(), "tmp"));
  const Time old = SystemClock().now() - kTmpAgeMax;
  for (const std::string& name : names) {
    struct stat status{};
    if (::fstatat(tmp.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 || time_of(status.st_mtim) > old)
      continue;
    ::unlinkat(tmp.get(), name.c_str(), 0);
  }
  return std::unique_ptr<ObjectStore>(new ObjectStore(directory, std::move(root), std::move(tmp)));
}

std::string ObjectStore::name_of(const Digest& digest) {
  std::string name = digest.hex();
  name.insert(2, 1, '/');
  return name;
}

Result<bool> ObjectStore::touch(const Digest& digest, std::uint64_t size_bytes) {
  const std::string name = name_of(digest);
  struct stat status{};
  if (::fstatat(root_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return false;
    return errno_error(errno, "cannot look for an object");
  }
  // A damaged one is written anew: publish() puts it in its place.
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != size_bytes) return false;
  if (time_of(status.st_mtim) + kTouchGrain < SystemClock().now()) {
    const timespec now[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 0, .tv_nsec = UTIME_NOW}};
    if (::utimensat(root_.get(), name.c_str(), now, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) return false;  // Collected a moment ago.
      return errno_error(errno, "cannot set the time of an object");
    }
  }
  return true;
}

Result<void> ObjectStore::publish(const std::string& temporary, const Digest& digest, std::uint64_t size_bytes) {
  const std::string name = name_of(digest);
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::renameat2(tmp_.get(), temporary.c_str(), root_.get(), name.c_str(), RENAME_NOREPLACE) == 0) return {};
    int err = errno;
    if (err == EINVAL) {  // A file system without that flag.
      if (::linkat(tmp_.get(), temporary.c_str(), root_.get(), name.c_str(), 0) == 0) {
        discard(temporary);
        return {};
      }
      err = errno;
    }
    if (err == EEXIST) break;
    if (err != ENOENT || attempt != 0) return disk_error(err, "cannot name an object");
    PROA_TRY_VOID(make_directory(root_.get(), shard_name(shard_of(digest))));
  }
  PROA_TRY(const bool there, touch(digest, size_bytes));
  if (there) {
    discard(temporary);
    return {};
  }
  if (::renameat(tmp_.get(), temporary.c_str(), root_.get(), name.c_str()) != 0) {
    return disk_error(errno, "cannot name an object");
  }
  return {};
}

Result<void> ObjectStore::sync_shard(unsigned shard) {
  PROA_TRY(const OwnedFd fd, open_file(root_.get(), shard_name(shard), O_RDONLY | O_DIRECTORY));
  PROA_TRY_VOID(flush(fd.get(), "cannot flush the object store"));
  if (!durable_shards_[shard]) {
    PROA_TRY_VOID(flush(root_.get(), "cannot flush the object store"));
    durable_shards_[shard] = true;
  }
  return {};
}

void ObjectStore::discard(const std::string& temporary) {
  if (!temporary.empty()) ::unlinkat(tmp_.get(), temporary.c_str(), 0);
}

Result<Digest> ObjectStore::put_bytes(BytesView bytes) {
  Batch batch(*this);
  PROA_TRY(const Digest digest, batch.put_bytes(bytes));
  PROA_TRY_VOID(batch.commit());
  return digest;
}

Result<Stored> ObjectStore::put_fd(int fd) {
  Batch batch(*this);
  PROA_TRY(const Stored stored, batch.put_fd(fd));
  PROA_TRY_VOID(batch.commit());
  return stored;
}

Result<Stored> ObjectStore::put_file(const std::string& path) {
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY | O_NONBLOCK));
  return put_fd(fd.get());
}

Result<std::unique_ptr<ObjectWriter>> ObjectStore::write() {
  PROA_TRY(Temporary made, make_temporary(tmp_.get()));
  return std::unique_ptr<ObjectWriter>(new ObjectWriter(*this, std::move(made.name), std::move(made.fd)));
}

Result<std::vector<Digest>> ObjectStore::put_many(const std::vector<BytesView>& contents) {
  Batch batch(*this);
  std::vector<Digest> digests;
  digests.reserve(contents.size());
  for (const BytesView content : contents) {
    PROA_TRY(const Digest digest, batch.put_bytes(content));
    digests.push_back(digest);
  }
  PROA_TRY_VOID(batch.commit());
  return digests;
}

Result<bool> ObjectStore::has(const Digest& digest) const {
  auto found = size(digest);
  if (found.ok()) return true;
  if (found.error().code == Code::kNotFound) return false;
  return std::move(found).error();
}

Result<std::uint64_t> ObjectStore::size(const Digest& digest) const {
  struct stat status{};
  if (::fstatat(root_.get(), name_of(digest).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return missing(digest);
    return errno_error(errno, "cannot look for an object");
  }
  if (!S_ISREG(status.st_mode)) return Error{Code::kDataLoss, "object " + digest.hex() + " is not a file"};
  return static_cast<std::uint64_t>(status.st_size);
}

Result<OwnedFd> ObjectStore::open_object(const Digest& digest) const {
  const int fd = ::openat(root_.get(), name_of(digest).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd >= 0) return OwnedFd(fd);
  if (errno == ENOENT) return missing(digest);
  return errno_error(errno, "cannot open object " + digest.hex());
}

Result<Bytes> ObjectStore::read(const Digest& digest, std::size_t bytes_max) const {
  PROA_TRY(const OwnedFd fd, open_object(digest));
  PROA_TRY(Bytes bytes, read_all(fd.get(), bytes_max, "object " + digest.hex()));
  if (sha256(bytes) != digest) {
    return Error{Code::kDataLoss, "object " + digest.hex() + " is damaged: its bytes have another hash"};
  }
  return bytes;
}

Result<Bytes> ObjectStore::read_range(const Digest& digest, std::uint64_t offset, std::size_t length) const {
  PROA_TRY(const OwnedFd fd, open_object(digest));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return errno_error(errno, "cannot look at an object");
  const auto size_bytes = static_cast<std::uint64_t>(status.st_size);
  if (offset >= size_bytes) return Bytes();
  Bytes bytes(static_cast<std::size_t>(std::min<std::uint64_t>(length, size_bytes - offset)), '\0');
  std::size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t got =
        ::pread(fd.get(), bytes.data() + filled, bytes.size() - filled, static_cast<off_t>(offset + filled));
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, "cannot read object " + digest.hex());
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

Result<void> ObjectStore::verify(const Digest& digest) const {
  PROA_TRY(const OwnedFd fd, open_object(digest));
  Hasher hasher(Hasher::Kind::kSha256);
  PROA_TRY_VOID(read_through(fd.get(), [&](BytesView piece) -> Result<void> {
    hasher.update(piece);
    return {};
  }));
  PROA_TRY(const Digest found, finish_hash(hasher));
  if (found != digest) {
    return Error{Code::kDataLoss, "object " + digest.hex() + " is damaged: its bytes hash to " + found.hex()};
  }
  return {};
}

Result<Digest> ObjectStore::put_tree(const Tree& tree) { return put_bytes(encode_tree(tree)); }

Result<Tree> ObjectStore::get_tree(const Digest& digest) const {
  PROA_TRY(const Bytes bytes, read(digest, kTreeBytesMax));
  return decode_tree(bytes);
}

Result<void> ObjectStore::for_each(const std::function<bool(const ObjectInfo&)>& each) const {
  for (unsigned shard = 0; shard < 256; ++shard) {
    const std::string prefix = shard_name(shard);
    if (::faccessat(root_.get(), prefix.c_str(), F_OK, 0) != 0) continue;  // None has begun so yet.
    PROA_TRY(const auto names, names_in(root_.get(), prefix));
    for (const std::string& name : names) {
      auto digest = Digest::from_hex(prefix + name);
      struct stat status{};
      if (!digest.ok() || name_of(digest.value()) != prefix + "/" + name) continue;
      if (::fstatat(root_.get(), (prefix + "/" + name).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
      const ObjectInfo info{.digest = digest.value(),
                            .size_bytes = static_cast<std::uint64_t>(status.st_size),
                            .written = time_of(status.st_mtim)};
      if (!each(info)) return {};
    }
  }
  return {};
}

Result<void> ObjectStore::remove(const Digest& digest) {
  if (::unlinkat(root_.get(), name_of(digest).c_str(), 0) == 0 || errno == ENOENT) return {};
  return errno_error(errno, "cannot remove object " + digest.hex());
}

}  // namespace proa::cas
