// SPDX-License-Identifier: Apache-2.0
#include "container/layer_stream.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <string>
#include <vector>

#include "base/codec.h"
#include "launcher/export.h"

namespace proa::container {
namespace {

using cas::EntryKind;
using cas::TreeEntry;
using launcher::LayerRecord;

constexpr std::size_t kPieceBytes = 256 << 10;

Error damaged(const std::string& why) { return {Code::kDataLoss, "what the container wrote cannot be read: " + why}; }

Result<void> read_whole(int fd, char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t got = read(fd, data, size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return damaged("the stream is cut short");
    data += got;
    size -= static_cast<std::size_t>(got);
  }
  return {};
}

class Reader {
 public:
  Reader(int fd, const cas::Tree& lower, cas::ObjectStore& store, const LayerLimits& limits) : fd_(fd), lower_(lower), store_(store), limits_(limits), batch_(store) {}
  Result<cas::Tree> read();

 private:
  Result<LayerRecord> next_record();
  Result<void> add(LayerRecord record);
  Result<Digest> content(std::uint64_t size);
  Result<void> take_from_below(TreeEntry entry, const std::string& origin);
  std::vector<TreeEntry> settle();

  int fd_;
  const cas::Tree& lower_;
  cas::ObjectStore& store_;
  const LayerLimits& limits_;
  cas::Batch batch_;
  std::uint64_t bytes_ = 0;
  std::vector<TreeEntry> entries_;
};

Result<LayerRecord> Reader::next_record() {
  std::uint32_t size = 0;
  PROA_TRY_VOID(read_whole(fd_, reinterpret_cast<char*>(&size), sizeof size));
  if (size > launcher::kLayerRecordBytesMax) return damaged("an entry is too large");
  Bytes bytes(size, '\0');
  PROA_TRY_VOID(read_whole(fd_, bytes.data(), bytes.size()));
  return decode<LayerRecord>(bytes);
}

Result<Digest> Reader::content(std::uint64_t size) {
  bytes_ += size;
  if (bytes_ > limits_.bytes_max) return resource_exhausted("the container wrote more than " + std::to_string(limits_.bytes_max >> 30) + " GiB");
  if (size <= kPieceBytes) {
    Bytes bytes(static_cast<std::size_t>(size), '\0');
    PROA_TRY_VOID(read_whole(fd_, bytes.data(), bytes.size()));
    return batch_.put_bytes(bytes);
  }
  PROA_TRY(auto writer, store_.write());
  Bytes piece(kPieceBytes, '\0');
  for (std::uint64_t left = size; left > 0;) {
    const std::size_t now = static_cast<std::size_t>(std::min<std::uint64_t>(left, kPieceBytes));
    PROA_TRY_VOID(read_whole(fd_, piece.data(), now));
    PROA_TRY_VOID(writer->write(BytesView(piece).substr(0, now)));
    left -= now;
  }
  return writer->finish_into(batch_);
}

// The content is what a lower tree has at `origin`, or, of a file, the object of that name.
Result<void> Reader::take_from_below(TreeEntry entry, const std::string& origin) {
  std::string path = origin;
  if (entry.kind == EntryKind::kFile && path.size() == 66 && path[0] == '/' && path[3] == '/') {
    if (const auto digest = Digest::from_hex(path.substr(1, 2) + path.substr(4)); digest.ok()) {
      entry.content = *digest;
      entries_.push_back(std::move(entry));
      return {};
    }
  }
  if (path.empty()) {
    path = entry.path;
  } else if (path.front() == '/') {
    path.erase(0, 1);
  } else {
    const auto slash = entry.path.rfind('/');
    if (slash != std::string::npos) path = entry.path.substr(0, slash + 1) + path;
  }
  const TreeEntry* below = cas::find(lower_, path);
  if (below == nullptr || below->kind != entry.kind) return damaged("'" + entry.path + "' has the content of '/" + path + "', which is not there");
  if (entry.kind == EntryKind::kFile) {
    entry.size_bytes = below->size_bytes;
    entry.content = below->content;
    entries_.push_back(std::move(entry));
    return {};
  }
  // A directory that was moved: what was in it comes along, except what the container changed there.
  entry.opaque = true;
  const std::string moved_to = entry.path + "/";
  const std::string moved_from = path + "/";
  entries_.push_back(std::move(entry));
  for (const TreeEntry* each = below + 1; each < lower_.entries.data() + lower_.entries.size() && each->path.starts_with(moved_from); ++each) {
    TreeEntry copy = *each;
    copy.path = moved_to + copy.path.substr(moved_from.size());
    entries_.push_back(std::move(copy));
  }
  return {};
}

Result<void> Reader::add(LayerRecord record) {
  if (entries_.size() >= limits_.entries_max) return resource_exhausted("the container wrote more than " + std::to_string(limits_.entries_max) + " files");
  TreeEntry entry;
  entry.path = std::move(record.path);
  entry.kind = static_cast<EntryKind>(record.kind);
  entry.mode = record.mode;
  entry.uid = record.uid;
  entry.gid = record.gid;
  entry.mtime_nanos = record.mtime_nanos;
  entry.target = std::move(record.target);
  entry.xattrs = std::move(record.xattrs);
  entry.opaque = record.opaque && entry.kind == EntryKind::kDirectory;
  if (record.unchanged_content) return take_from_below(std::move(entry), record.origin);
  if (entry.kind == EntryKind::kFile && record.size_bytes > 0) {
    entry.size_bytes = record.size_bytes;
    PROA_TRY(entry.content, content(record.size_bytes));
  }
  entries_.push_back(std::move(entry));
  return {};
}

// A moved directory brought entries that the container then changed. Of those with one path the later counts, and
// what came earlier below a file, a whiteout, or a directory that shows nothing from below it, is gone.
std::vector<TreeEntry> Reader::settle() {
  std::vector<std::size_t> order(entries_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    return entries_[a].path == entries_[b].path ? a < b : cas::path_less(entries_[a].path, entries_[b].path);
  });
  std::vector<TreeEntry> last;
  std::vector<std::size_t> hiding;  // Entries above the one that is looked at.
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i + 1 < order.size() && entries_[order[i]].path == entries_[order[i + 1]].path) continue;
    const TreeEntry& entry = entries_[order[i]];
    const auto is_above = [&](const TreeEntry& other) {
      return other.path.empty() || (entry.path.size() > other.path.size() && entry.path.starts_with(other.path) && entry.path[other.path.size()] == '/');
    };
    while (!hiding.empty() && !is_above(entries_[hiding.back()])) hiding.pop_back();
    if (std::any_of(hiding.begin(), hiding.end(), [&](std::size_t each) { return order[i] < each; })) continue;
    if (entry.kind != EntryKind::kDirectory || entry.opaque) hiding.push_back(order[i]);
    last.push_back(entry);
  }
  return last;
}

Result<cas::Tree> Reader::read() {
  while (true) {
    PROA_TRY(LayerRecord record, next_record());
    if (record.end) {
      if (!record.error.empty()) return damaged(record.error);
      break;
    }
    PROA_TRY_VOID(add(std::move(record)));
  }
  PROA_TRY_VOID(batch_.commit());
  return cas::make_tree(settle());
}

}  // namespace

Result<cas::Tree> read_layer(int fd, const cas::Tree& lower, cas::ObjectStore& store, const LayerLimits& limits) {
  return Reader(fd, lower, store, limits).read();
}

}  // namespace proa::container
