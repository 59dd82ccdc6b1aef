// SPDX-License-Identifier: Apache-2.0
#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <sys/stat.h>

#include <limits>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "cas/import.h"

namespace proa::cas {
namespace {

constexpr std::size_t kReadBytes = 1 << 18;
// Files up to here are hashed before anything is written, so that what is there already costs no write.
constexpr std::int64_t kInMemoryBytesMax = 1 << 20;
constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kOpaqueName = ".wh..wh..opq";

// libarchive turns names into the thread's character set, and the C locale has none for most of them.
class Utf8Names {
 public:
  Utf8Names() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_ != nullptr) before_ = ::uselocale(locale_);
  }
  ~Utf8Names() {
    if (locale_ == nullptr) return;
    ::uselocale(before_);
    ::freelocale(locale_);
  }
  Utf8Names(const Utf8Names&) = delete;
  Utf8Names& operator=(const Utf8Names&) = delete;

 private:
  locale_t locale_;
  locale_t before_ = nullptr;
};

struct CloseArchive {
  void operator()(archive* reader) const { ::archive_read_free(reader); }
};

std::string_view parent_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string join(std::string_view parent, std::string_view name) {
  return parent.empty() ? std::string(name) : std::string(parent) + "/" + std::string(name);
}

// Archives say "./a", "/a" and "a/" for "a".
Result<std::string> tidy(const char* raw) {
  if (raw == nullptr) return Error{Code::kDataLoss, "the archive has an entry whose name cannot be read"};
  std::string path;
  std::string_view rest = raw;
  while (!rest.empty()) {
    const auto slash = rest.find('/');
    const std::string_view name = rest.substr(0, slash);
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (!path.empty()) path += '/';
    path += name;
  }
  PROA_TRY_VOID(check_path(path));
  return path;
}

class Unpack {
 public:
  Unpack(ObjectStore& store, const ArchiveOptions& options) : store_(store), options_(options), batch_(store) {}

  Result<Tree> run(int fd) {
    const Utf8Names names;
    const std::unique_ptr<archive, CloseArchive> reader(::archive_read_new());
    if (!reader) return resource_exhausted("no memory to read an archive");
    reader_ = reader.get();
    // Not "all": that would start programs for filters it does not have.
    ::archive_read_support_filter_gzip(reader_);
    ::archive_read_support_filter_zstd(reader_);
    ::archive_read_support_filter_xz(reader_);
    ::archive_read_support_filter_bzip2(reader_);
    ::archive_read_support_format_tar(reader_);
    if (::archive_read_open_fd(reader_, fd, kReadBytes) != ARCHIVE_OK) return damaged();
    while (true) {
      archive_entry* header = nullptr;
      const int got = ::archive_read_next_header(reader_, &header);
      if (got == ARCHIVE_EOF) break;
      // A warning is about what cannot be shown in this character set; tidy() sees whether the name is usable.
      if (got != ARCHIVE_OK && got != ARCHIVE_WARN) return damaged();
      PROA_TRY_VOID(add(header));
    }
    PROA_TRY_VOID(batch_.commit());
    return finish();
  }

 private:
  Error damaged() const {
    const char* why = ::archive_error_string(reader_);
    return {Code::kDataLoss, std::string("the archive is damaged: ") + (why != nullptr ? why : "it ends too early")};
  }

  Result<void> add(archive_entry* header) {
    if (++headers_ > options_.entries_max) {
      return Error{Code::kOutOfRange, "the archive has more than " + std::to_string(options_.entries_max) + " entries"};
    }
    PROA_TRY(std::string path, tidy(::archive_entry_pathname(header)));
    if (options_.whiteouts == Whiteouts::kOci) {
      const std::string_view parent = parent_of(path);
      const std::string_view name = std::string_view(path).substr(parent.empty() ? 0 : parent.size() + 1);
      if (name == kOpaqueName) {
        opaque_.emplace(parent);
        return {};
      }
      if (name.starts_with(kWhiteoutPrefix)) {
        const std::string_view hidden = name.substr(kWhiteoutPrefix.size());
        // ".wh..wh.…" are marks of a file system that nobody uses any more.
        if (!hidden.empty() && !hidden.starts_with(kWhiteoutPrefix)) gone_.insert(join(parent, hidden));
        return {};
      }
    }

    if (const char* link = ::archive_entry_hardlink(header)) {
      PROA_TRY(const std::string target, tidy(link));
      const auto found = entries_.find(target);
      if (found == entries_.end()) {
        return invalid_argument("'" + path + "' is a hard link to '" + target + "', which does not come before it");
      }
      if (found->second.kind == EntryKind::kDirectory) {
        return invalid_argument("'" + path + "' is a hard link to a directory");
      }
      TreeEntry copy = found->second;
      copy.path = path;
      entries_.insert_or_assign(std::move(path), std::move(copy));
      return {};
    }

    TreeEntry entry{.path = path};
    entry.mode = static_cast<std::uint32_t>(::archive_entry_perm(header)) & 07777U;
    if (options_.owners == Owners::kKeep) {
      PROA_TRY(entry.uid, owner(path, ::archive_entry_uid(header)));
      PROA_TRY(entry.gid, owner(path, ::archive_entry_gid(header)));
    }
    if (::archive_entry_mtime_is_set(header) != 0) {
      const std::int64_t seconds = ::archive_entry_mtime(header);
      // Years 1678 to 2262, which is what 64 bits of nanoseconds hold.
      if (seconds < -9'000'000'000 || seconds > 9'000'000'000) {
        return invalid_argument("'" + path + "' has an impossible time");
      }
      entry.mtime_nanos = seconds * 1'000'000'000 + ::archive_entry_mtime_nsec(header);
    }
    read_xattrs(header, entry);
    switch (::archive_entry_filetype(header)) {
      case AE_IFDIR: entry.kind = EntryKind::kDirectory; break;
      case AE_IFREG: PROA_TRY_VOID(read_content(header, entry)); break;
      case AE_IFLNK: {
        entry.kind = EntryKind::kSymlink;
        const char* target = ::archive_entry_symlink(header);
        if (target == nullptr) return damaged();
        entry.target = target;
        break;
      }
      case AE_IFIFO: entry.kind = EntryKind::kFifo; break;
      default: return {};  // Sockets and devices mean nothing elsewhere.
    }
    if (entry.kind == EntryKind::kSymlink || entry.kind == EntryKind::kFifo) entry.xattrs.clear();
    entries_.insert_or_assign(std::move(path), std::move(entry));
    return {};
  }

  static Result<std::uint32_t> owner(const std::string& path, std::int64_t id) {
    if (id < 0 || id >= std::numeric_limits<std::uint32_t>::max()) {
      return invalid_argument("'" + path + "' has an impossible owner");
    }
    return static_cast<std::uint32_t>(id);
  }

  static void read_xattrs(archive_entry* header, TreeEntry& entry) {
    ::archive_entry_xattr_reset(header);
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    while (::archive_entry_xattr_next(header, &name, &value, &size) == ARCHIVE_OK) {
      const std::string_view text = name == nullptr ? "" : name;
      if (!text.starts_with("user.") && text != "security.capability") continue;
      entry.xattrs.insert_or_assign(std::string(text), std::string(static_cast<const char*>(value), size));
    }
  }

  Result<void> read_content(archive_entry* header, TreeEntry& entry) {
    std::unique_ptr<ObjectWriter> writer;
    Bytes small;
    const bool in_memory =
        ::archive_entry_size_is_set(header) != 0 && ::archive_entry_size(header) <= kInMemoryBytesMax;
    if (!in_memory) {
      PROA_TRY(writer, store_.write());
    }
    std::string buffer(kReadBytes, '\0');
    while (true) {
      const la_ssize_t got = ::archive_read_data(reader_, buffer.data(), buffer.size());
      if (got == 0) break;
      if (got < 0) return damaged();
      const BytesView piece(buffer.data(), static_cast<std::size_t>(got));
      bytes_ += piece.size();
      if (bytes_ > options_.bytes_max) {
        return Error{Code::kOutOfRange, "the archive holds more than " + std::to_string(options_.bytes_max) + " bytes"};
      }
      entry.size_bytes += piece.size();
      if (writer) {
        PROA_TRY_VOID(writer->write(piece));
      } else {
        small += piece;
      }
    }
    if (entry.size_bytes == 0) return {};
    if (writer) {
      PROA_TRY(entry.content, writer->finish_into(batch_));
    } else {
      PROA_TRY(entry.content, batch_.put_bytes(small));
    }
    return {};
  }

  Result<Tree> finish() {
    for (const std::string& path : opaque_) {
      auto [place, added] =
          entries_.try_emplace(path, TreeEntry{.path = path, .kind = EntryKind::kDirectory, .mode = 0755});
      if (place->second.kind != EntryKind::kDirectory) {
        return invalid_argument("'" + path + "' is said to be an opaque directory, and is none");
      }
      place->second.opaque = true;
    }
    // Whiteouts are about lower layers; what this one has stays.
    for (const std::string& path : gone_) {
      auto [place, added] = entries_.try_emplace(path, TreeEntry{.path = path, .kind = EntryKind::kWhiteout});
      if (place->second.kind == EntryKind::kDirectory) place->second.opaque = true;
    }
    std::vector<TreeEntry> entries;
    entries.reserve(entries_.size());
    for (auto& [path, entry] : entries_) entries.push_back(std::move(entry));
    entries_.clear();
    return make_tree(std::move(entries));
  }

  ObjectStore& store_;
  ArchiveOptions options_;
  Batch batch_;
  archive* reader_ = nullptr;
  std::size_t headers_ = 0;
  std::uint64_t bytes_ = 0;
  std::map<std::string, TreeEntry> entries_;
  std::set<std::string> opaque_;
  std::set<std::string> gone_;
};

}  // namespace

Result<Tree> import_archive(ObjectStore& store, int fd, const ArchiveOptions& options) {
  Unpack unpack(store, options);
  return unpack.run(fd);
}

}  // namespace proa::cas
