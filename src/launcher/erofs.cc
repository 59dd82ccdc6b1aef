// SPDX-License-Identifier: Apache-2.0
#include "launcher/erofs.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace proa::launcher {
namespace {

using cas::EntryKind;
using cas::TreeEntry;

// DO NOT CHANGE: these are the kernel's.
constexpr std::uint32_t kMagic = 0xE0F5E1E2;
constexpr std::size_t kSuperOffset = 1024;
constexpr std::size_t kSuperSize = 128;
constexpr std::size_t kBlock = 4096;
constexpr unsigned kBlockBits = 12;
constexpr std::size_t kSlot = 32;  // Inodes begin at multiples of it; the number of the slot is the inode's.
constexpr std::size_t kInodeSize = 64;  // The extended form: 64-bit sizes and times of one's own.
constexpr std::uint32_t kFeatureChunkedFile = 0x4;
constexpr std::uint16_t kFlatPlain = 0;
constexpr std::uint16_t kFlatInline = 2;
constexpr std::uint16_t kChunkBased = 4;
constexpr unsigned kChunkBitsMax = 31;
constexpr std::uint8_t kXattrUser = 1;
constexpr std::uint8_t kXattrTrusted = 4;
constexpr std::uint8_t kXattrSecurity = 6;
constexpr std::size_t kXattrHeader = 12;
constexpr std::size_t kDirent = 12;

template <class T>
void put(Bytes& out, std::size_t at, T value) {
  std::memcpy(out.data() + at, &value, sizeof value);  // x86-64 and the format are both little-endian.
}
template <class T>
void append(Bytes& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void pad_to(Bytes& out, std::size_t multiple) { out.resize((out.size() + multiple - 1) / multiple * multiple, '\0'); }
std::size_t round_up(std::size_t value, std::size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void append_xattr(Bytes& out, std::uint8_t index, std::string_view name, std::string_view value) {
  append(out, static_cast<std::uint8_t>(name.size()));
  append(out, index);
  append(out, static_cast<std::uint16_t>(value.size()));
  out += name;
  out += value;
  pad_to(out, 4);
}

Bytes xattrs_of(const TreeEntry& entry) {
  Bytes out;
  if (entry.kind == EntryKind::kFile && entry.size_bytes > 0) {
    append_xattr(out, kXattrTrusted, "overlay.metacopy", "");
    const std::string hex = entry.content.hex();
    append_xattr(out, kXattrTrusted, "overlay.redirect", "/" + hex.substr(0, 2) + "/" + hex.substr(2));
  }
  constexpr std::string_view kUserPrefix = "user.";
  constexpr std::string_view kSecurityPrefix = "security.";
  for (const auto& [name, value] : entry.xattrs) {
    const std::string_view view = name;
    if (view.starts_with(kUserPrefix)) append_xattr(out, kXattrUser, view.substr(kUserPrefix.size()), value);
    if (view.starts_with(kSecurityPrefix)) append_xattr(out, kXattrSecurity, view.substr(kSecurityPrefix.size()), value);
  }
  return out;
}

std::uint8_t file_type(EntryKind kind) {
  switch (kind) {
    case EntryKind::kFile: return 1;
    case EntryKind::kDirectory: return 2;
    case EntryKind::kFifo: return 5;
    case EntryKind::kSymlink: return 7;
    case EntryKind::kWhiteout: break;
  }
  return 0;
}

std::uint16_t type_bits(EntryKind kind) {
  switch (kind) {
    case EntryKind::kFile: return S_IFREG;
    case EntryKind::kDirectory: return S_IFDIR;
    case EntryKind::kFifo: return S_IFIFO;
    case EntryKind::kSymlink: return S_IFLNK;
    case EntryKind::kWhiteout: break;
  }
  return 0;
}

struct Child {
  std::string_view name;
  std::size_t node;
};

struct Node {
  const TreeEntry* entry = nullptr;
  std::size_t parent = 0;
  std::vector<Child> children;
  Bytes xattrs;
  std::size_t data_size = 0;   // Of what follows the inode (chunk index, link target) or of the directory.
  std::size_t offset = 0;      // Of the inode, from the start of the metadata.
  std::size_t data_block = 0;  // Directories: where their blocks begin.

  std::size_t header_size() const { return kInodeSize + (xattrs.empty() ? 0 : kXattrHeader + xattrs.size()); }
  std::uint64_t nid() const { return offset / kSlot; }
};

// How many chunks, of the largest size there is, a file of this size has.
std::size_t chunks_of(std::uint64_t size) {
  const unsigned shift = kBlockBits + kChunkBitsMax;
  return static_cast<std::size_t>((size + (1ULL << shift) - 1) >> shift);
}

class Writer {
 public:
  Result<Bytes> write(const cas::Tree& tree);

 private:
  Result<void> collect(const cas::Tree& tree);
  static std::vector<Child> names_of(const std::vector<Node>& nodes, std::size_t node);
  std::size_t directory_size(std::size_t node) const;
  void lay_out();
  void write_inode(Bytes& out, std::size_t node) const;
  void write_directory(Bytes& out, std::size_t node) const;

  std::vector<Node> nodes_;
  std::size_t meta_bytes_ = 0;
  std::size_t blocks_ = 0;
};

Result<void> Writer::collect(const cas::Tree& tree) {
  nodes_.resize(tree.entries.size());
  std::vector<std::size_t> above;
  for (std::size_t i = 0; i < tree.entries.size(); ++i) {
    const TreeEntry& entry = tree.entries[i];
    if (entry.kind == EntryKind::kWhiteout) return invalid_argument("the tree has the whiteout '" + entry.path + "': only whole trees can be mounted");
    nodes_[i].entry = &entry;
    nodes_[i].xattrs = xattrs_of(entry);
    if (i > 0) {
      const auto slash = entry.path.rfind('/');
      const std::string_view parent = slash == std::string::npos ? std::string_view() : std::string_view(entry.path).substr(0, slash);
      while (tree.entries[above.back()].path != parent) above.pop_back();
      nodes_[i].parent = above.back();
      const std::string_view name = slash == std::string::npos ? std::string_view(entry.path) : std::string_view(entry.path).substr(slash + 1);
      nodes_[above.back()].children.push_back({name, i});
    }
    if (entry.kind == EntryKind::kDirectory) above.push_back(i);
    if (entry.kind == EntryKind::kSymlink) {
      nodes_[i].data_size = entry.target.size();
      if (nodes_[i].header_size() + entry.target.size() > kBlock) return invalid_argument("'" + entry.path + "': the link's target is too long to be mounted");
    }
    if (entry.kind == EntryKind::kFile) nodes_[i].data_size = chunks_of(entry.size_bytes) * sizeof(std::uint32_t);
  }
  return {};
}

// With "." and "..", in the order in which the kernel searches them.
std::vector<Child> Writer::names_of(const std::vector<Node>& nodes, std::size_t node) {
  std::vector<Child> names = nodes[node].children;
  names.push_back({".", node});
  names.push_back({"..", nodes[node].parent});
  std::sort(names.begin(), names.end(), [](const Child& a, const Child& b) { return a.name < b.name; });
  return names;
}

std::size_t Writer::directory_size(std::size_t node) const {
  std::size_t size = 0;
  std::size_t in_block = 0;
  for (const Child& child : names_of(nodes_, node)) {
    const std::size_t need = kDirent + child.name.size();
    if (in_block + need > kBlock) {
      size += kBlock;
      in_block = 0;
    }
    in_block += need;
  }
  return size + in_block;
}

void Writer::lay_out() {
  std::size_t at = 0;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    const bool is_directory = node.entry->kind == EntryKind::kDirectory;
    const std::size_t inline_size = is_directory ? 0 : node.data_size;
    if (is_directory) node.data_size = directory_size(i);
    std::size_t whole = node.header_size();
    // Link targets follow the inode in its block; a chunk index may cross into the next.
    if (node.entry->kind == EntryKind::kSymlink && inline_size > 0) {
      const std::size_t begin = round_up(at, kSlot);
      if (begin / kBlock != (begin + whole + inline_size - 1) / kBlock) at = round_up(at, kBlock);
    }
    at = round_up(at, kSlot);
    node.offset = at;
    if (node.entry->kind == EntryKind::kFile) whole = round_up(whole, sizeof(std::uint32_t));
    at += whole + inline_size;
  }
  meta_bytes_ = round_up(at, kBlock);
  std::size_t block = 1 + meta_bytes_ / kBlock;  // Block 0 is the super block's.
  for (Node& node : nodes_) {
    if (node.entry->kind != EntryKind::kDirectory) continue;
    node.data_block = block;
    block += round_up(node.data_size, kBlock) / kBlock;
  }
  blocks_ = block;
}

void Writer::write_inode(Bytes& out, std::size_t index) const {
  const Node& node = nodes_[index];
  const TreeEntry& entry = *node.entry;
  const std::size_t at = kBlock + node.offset;
  std::uint16_t layout = kFlatPlain;
  std::uint64_t size = entry.size_bytes;
  std::uint32_t where = 0;
  std::uint32_t links = 1;
  if (entry.kind == EntryKind::kDirectory) {
    size = node.data_size;
    where = static_cast<std::uint32_t>(node.data_block);
    links = 2;
    for (const Child& child : node.children) {
      if (nodes_[child.node].entry->kind == EntryKind::kDirectory) ++links;
    }
  } else if (entry.kind == EntryKind::kSymlink) {
    layout = kFlatInline;
    size = entry.target.size();
  } else if (entry.kind == EntryKind::kFile && size > 0) {
    layout = kChunkBased;
    where = kChunkBitsMax;  // The low bits of the chunk format: log2 of a chunk's blocks.
  }
  put(out, at + 0, static_cast<std::uint16_t>(1U | (static_cast<unsigned>(layout) << 1U)));  // 1: the extended form.
  const std::size_t xattr_words = node.xattrs.empty() ? 0 : 1 + node.xattrs.size() / 4;
  put(out, at + 2, static_cast<std::uint16_t>(xattr_words));
  put(out, at + 4, static_cast<std::uint16_t>(type_bits(entry.kind) | entry.mode));
  put(out, at + 8, size);
  put(out, at + 16, where);
  put(out, at + 20, static_cast<std::uint32_t>(index + 1));
  put(out, at + 24, entry.uid);
  put(out, at + 28, entry.gid);
  std::int64_t seconds = entry.mtime_nanos / 1'000'000'000;
  std::int64_t nanos = entry.mtime_nanos % 1'000'000'000;
  if (nanos < 0) {
    nanos += 1'000'000'000;
    --seconds;
  }
  put(out, at + 32, seconds);
  put(out, at + 40, static_cast<std::uint32_t>(nanos));
  put(out, at + 44, links);
  if (!node.xattrs.empty()) std::memcpy(out.data() + at + kInodeSize + kXattrHeader, node.xattrs.data(), node.xattrs.size());
  std::size_t tail = at + node.header_size();
  if (entry.kind == EntryKind::kSymlink) {
    std::memcpy(out.data() + tail, entry.target.data(), entry.target.size());
  } else if (layout == kChunkBased) {
    tail = round_up(tail, sizeof(std::uint32_t));
    for (std::size_t i = 0; i < chunks_of(size); ++i) put(out, tail + i * sizeof(std::uint32_t), std::numeric_limits<std::uint32_t>::max());
  }
}

void Writer::write_directory(Bytes& out, std::size_t index) const {
  const std::vector<Child> names = names_of(nodes_, index);
  std::size_t block = nodes_[index].data_block * kBlock;
  for (std::size_t first = 0; first < names.size();) {
    std::size_t last = first;
    std::size_t used = 0;
    while (last < names.size() && used + kDirent + names[last].name.size() <= kBlock) used += kDirent + names[last++].name.size();
    std::size_t name_at = (last - first) * kDirent;
    for (std::size_t i = first; i < last; ++i) {
      const std::size_t at = block + (i - first) * kDirent;
      put(out, at, nodes_[names[i].node].nid());
      put(out, at + 8, static_cast<std::uint16_t>(name_at));
      put(out, at + 10, file_type(nodes_[names[i].node].entry->kind));
      std::memcpy(out.data() + block + name_at, names[i].name.data(), names[i].name.size());
      name_at += names[i].name.size();
    }
    first = last;
    block += kBlock;
  }
}

Result<Bytes> Writer::write(const cas::Tree& tree) {
  PROA_TRY_VOID(collect(tree));
  lay_out();
  if (blocks_ * kBlock >= (4ULL << 30)) return invalid_argument("the tree has more than 4 GiB of names and attributes");
  Bytes out(blocks_ * kBlock, '\0');
  put(out, kSuperOffset + 0, kMagic);
  put(out, kSuperOffset + 12, static_cast<std::uint8_t>(kBlockBits));
  put(out, kSuperOffset + 14, static_cast<std::uint16_t>(nodes_[0].nid()));
  put(out, kSuperOffset + 16, static_cast<std::uint64_t>(nodes_.size()));
  put(out, kSuperOffset + 36, static_cast<std::uint32_t>(blocks_));
  put(out, kSuperOffset + 40, std::uint32_t{1});  // Where the metadata begins, in blocks.
  put(out, kSuperOffset + 80, kFeatureChunkedFile);
  static_assert(kSuperOffset + kSuperSize <= kBlock);
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    write_inode(out, i);
    if (nodes_[i].entry->kind == EntryKind::kDirectory) write_directory(out, i);
  }
  return out;
}

}  // namespace

Result<Bytes> write_erofs(const cas::Tree& tree) { return Writer().write(tree); }

}  // namespace proa::launcher
