// SPDX-License-Identifier: Apache-2.0
#include "store/logs_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <optional>

#include "base/digest.h"
#include "base/fd.h"

namespace proa::store {
namespace {

constexpr std::size_t kHeaderBytes = 8;
constexpr std::size_t kBodyBytesMax = 16 << 20;  // Of one record; more is a sign of damage.

template <class Number>
void put_little(Bytes& out, Number value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out += static_cast<char>((value >> (8 * i)) & 0xFF);
}
template <class Number>
Number get_little(BytesView bytes) {
  Number value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i)
    value |= static_cast<Number>(static_cast<std::uint8_t>(bytes[i])) << (8 * i);
  return value;
}

void put_record(Bytes& out, const LogRecord& record) {
  Bytes body;
  put_little(body, record.id);
  body += record.bytes;
  put_little(out, static_cast<std::uint32_t>(body.size()));
  put_little(out, crc32c(body));
  out += body;
}

// The whole records at the beginning of a segment.
std::vector<LogRecord> parse_segment(BytesView bytes, std::uint64_t from, std::uint64_t to) {
  std::vector<LogRecord> records;
  while (bytes.size() >= kHeaderBytes) {
    const auto size = get_little<std::uint32_t>(bytes);
    const auto crc = get_little<std::uint32_t>(bytes.substr(4));
    if (size < 8 || size > kBodyBytesMax || bytes.size() < kHeaderBytes + size) break;
    const BytesView body = bytes.substr(kHeaderBytes, size);
    if (crc32c(body) != crc) break;
    const auto id = get_little<std::uint64_t>(body);
    if (id >= from && id < to) records.push_back({id, Bytes(body.substr(8))});
    bytes.remove_prefix(kHeaderBytes + size);
  }
  return records;
}

std::string segment_name(std::uint64_t first) {
  const std::string digits = std::to_string(first);
  return std::string(20 - digits.size(), '0') + digits + ".log";
}

std::optional<std::uint64_t> segment_first(std::string_view name) {
  if (name.size() != 24 || !name.ends_with(".log")) return std::nullopt;
  std::uint64_t first = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 20, first);
  if (error != std::errc() || end != name.data() + 20) return std::nullopt;
  return first;
}

Result<Bytes> read_file(const std::string& path) {
  constexpr std::size_t kSegmentBytesMax = 256 << 20;
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY));
  return read_all(fd.get(), kSegmentBytesMax, path);
}

Result<void> sync_directory(const std::string& path) {
  const OwnedFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || ::fsync(fd.get()) != 0) return errno_error(errno, "cannot sync the directory " + path);
  return {};
}

}  // namespace

// What pool threads work on; guarded by `mutex` where it says so.
struct FileLogStore::Files {
  struct Segment {
    std::uint64_t first = 0;
    std::size_t bytes = 0;
  };
  struct App {
    std::vector<Segment> segments;  // Oldest first.
    bool last_is_ours = false;      // This process began it, and may append.
  };

  std::string directory;
  Config config;
  std::mutex mutex;
  std::map<AppId, App> apps;  // Those appended to by this process. Guarded.

  std::string folder(AppId app) const { return directory + "/" + app.text(); }

  Result<std::vector<Segment>> list(AppId app) const {
    std::vector<Segment> segments;
    DIR* const dir = ::opendir(folder(app).c_str());
    if (dir == nullptr) {
      if (errno == ENOENT) return segments;
      return errno_error(errno, "cannot list the logs in " + folder(app));
    }
    while (const dirent* entry = ::readdir(dir)) {
      const auto first = segment_first(entry->d_name);
      struct stat info{};
      if (!first || ::fstatat(::dirfd(dir), entry->d_name, &info, 0) != 0) continue;
      segments.push_back({*first, static_cast<std::size_t>(info.st_size)});
    }
    ::closedir(dir);
    std::sort(segments.begin(), segments.end(), [](const Segment& a, const Segment& b) { return a.first < b.first; });
    return segments;
  }

  Result<void> append(const LogAppend& item) {
    if (item.records.empty()) return {};
    const std::lock_guard lock(mutex);
    auto found = apps.find(item.app);
    if (found == apps.end()) {
      PROA_TRY(auto segments, list(item.app));
      found = apps.emplace(item.app, App{std::move(segments), false}).first;
    }
    App& app = found->second;
    Bytes bytes;
    for (const LogRecord& record : item.records) put_record(bytes, record);
    const bool begins = !app.last_is_ours || app.segments.back().bytes >= config.segment_bytes;
    if (begins) {
      if (::mkdir(folder(item.app).c_str(), 0700) == 0) {
        PROA_TRY_VOID(sync_directory(directory));
      } else if (errno != EEXIST) {
        return errno_error(errno, "cannot make the folder " + folder(item.app));
      }
      app.segments.push_back({item.records.front().id, 0});
      app.last_is_ours = true;
    }
    const std::string path = folder(item.app) + "/" + segment_name(app.segments.back().first);
    const auto written = write(path, bytes, begins);
    if (!written.ok()) {
      app.last_is_ours = false;  // Its end may be half a record.
      return written;
    }
    if (begins) {
      PROA_TRY_VOID(sync_directory(folder(item.app)));
    }
    app.segments.back().bytes += bytes.size();
    trim(item.app, app);
    return {};
  }

  static Result<void> write(const std::string& path, const Bytes& bytes, bool begins) {
    PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_WRONLY | O_APPEND | (begins ? O_CREAT : 0), 0600));
    PROA_TRY_VOID(write_all(fd.get(), bytes, path));
    if (::fdatasync(fd.get()) != 0) return errno_error(errno, "cannot sync the log segment " + path);
    return {};
  }

  void trim(AppId id, App& app) {
    std::size_t total = 0;
    for (const Segment& segment : app.segments) total += segment.bytes;
    while (app.segments.size() > 1 && (total > config.app_bytes_max || app.segments.size() > config.app_segments_max)) {
      total -= app.segments.front().bytes;
      ::unlink((folder(id) + "/" + segment_name(app.segments.front().first)).c_str());
      app.segments.erase(app.segments.begin());
    }
  }

  Result<std::vector<LogRecord>> read(AppId app, std::uint64_t from, std::uint64_t to, LogOrder order,
                                      std::size_t bytes_max) const {
    PROA_TRY(std::vector<Segment> segments, list(app));
    std::vector<LogRecord> found;
    std::size_t bytes = 0;
    // A segment's records end where the next one begins.
    std::vector<Segment> wanted;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const bool before = i + 1 < segments.size() && segments[i + 1].first <= from;
      if (!before && segments[i].first < to) wanted.push_back(segments[i]);
    }
    if (order == LogOrder::kNewestFirst) std::reverse(wanted.begin(), wanted.end());
    for (const Segment& segment : wanted) {
      const auto content = read_file(folder(app) + "/" + segment_name(segment.first));
      if (!content.ok()) {
        if (content.error().code == Code::kNotFound) continue;  // Trimmed meanwhile.
        return content.error();
      }
      std::vector<LogRecord> records = parse_segment(*content, from, to);
      if (order == LogOrder::kNewestFirst) std::reverse(records.begin(), records.end());
      for (LogRecord& record : records) {
        if (!found.empty() && bytes + record.bytes.size() > bytes_max) return found;
        bytes += record.bytes.size();
        found.push_back(std::move(record));
      }
    }
    return found;
  }

  Result<void> drop(AppId app) {
    const std::lock_guard lock(mutex);
    apps.erase(app);
    PROA_TRY(const auto segments, list(app));
    for (const Segment& segment : segments) ::unlink((folder(app) + "/" + segment_name(segment.first)).c_str());
    if (::rmdir(folder(app).c_str()) != 0 && errno != ENOENT)
      return errno_error(errno, "cannot remove the folder " + folder(app));
    return {};
  }
};

Result<std::unique_ptr<FileLogStore>> FileLogStore::open(Loop& loop, Pool& pool, std::string directory, Config config) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return errno_error(errno, "cannot make the directory " + directory);
  auto files = std::make_shared<Files>();
  files->directory = std::move(directory);
  files->config = config;
  return std::unique_ptr<FileLogStore>(new FileLogStore(loop, pool, std::move(files)));
}

Async<Result<void>> FileLogStore::append(std::vector<LogAppend> batch) {
  auto work = [files = files_, batch = std::move(batch)]() -> Result<void> {
    for (const LogAppend& item : batch) {
      PROA_TRY_VOID(files->append(item));
    }
    return {};
  };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

Async<Result<std::vector<LogRecord>>> FileLogStore::read(AppId app, std::uint64_t from, std::uint64_t to,
                                                         LogOrder order, std::size_t bytes_max) {
  auto work = [files = files_, app, from, to, order, bytes_max] {
    return files->read(app, from, to, order, bytes_max);
  };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

Async<Result<void>> FileLogStore::drop(AppId app) {
  auto work = [files = files_, app] { return files->drop(app); };
  co_return co_await run_in(pool_, loop_, std::move(work));
}

}  // namespace proa::store
