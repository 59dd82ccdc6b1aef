// SPDX-License-Identifier: Apache-2.0
#include "cas/tree.h"

#include <algorithm>

namespace proa::cas {
namespace {

// DO NOT CHANGE: the first bytes of every encoded tree.
constexpr BytesView kMagic = "proa tree 1\n";

Error broken(std::string_view why) { return {Code::kDataLoss, "not a tree: " + std::string(why)}; }

std::string_view parent_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

Result<void> check_entry(const TreeEntry& entry) {
  PROA_TRY_VOID(check_path(entry.path));
  if (entry.mode > 07777) return invalid_argument("'" + entry.path + "': a mode has 12 bits");
  switch (entry.kind) {
    case EntryKind::kDirectory:
    case EntryKind::kFifo:
    case EntryKind::kFile: break;
    case EntryKind::kWhiteout:
      if (entry.path.empty()) return invalid_argument("the root of a tree cannot be a whiteout");
      break;
    case EntryKind::kSymlink:
      if (entry.target.empty() || entry.target.size() > kPathBytesMax || entry.target.find('\0') != std::string::npos) {
        return invalid_argument("'" + entry.path + "': a symlink needs a target of 1 to 4095 bytes");
      }
      break;
    default: return invalid_argument("'" + entry.path + "': an unknown kind of entry");
  }
  const bool has_content = entry.kind == EntryKind::kFile && entry.size_bytes != 0;
  if (has_content == (entry.content == Digest{})) {
    return invalid_argument("'" + entry.path + "': content belongs to files with a size, and to each of them");
  }
  if (entry.kind != EntryKind::kFile && entry.size_bytes != 0) {
    return invalid_argument("'" + entry.path + "': only files have a size");
  }
  if (entry.kind != EntryKind::kSymlink && !entry.target.empty()) {
    return invalid_argument("'" + entry.path + "': only symlinks have a target");
  }
  if (entry.kind != EntryKind::kDirectory && entry.opaque) {
    return invalid_argument("'" + entry.path + "': only directories are opaque");
  }
  for (const auto& [name, value] : entry.xattrs) {
    const bool allowed = name.starts_with("user.") || name == "security.capability";
    if (!allowed || name.size() > 255 || value.size() > 4096) {
      return invalid_argument("'" + entry.path + "': the attribute '" + name + "' cannot be kept");
    }
  }
  return {};
}

bool entry_less(const TreeEntry& a, const TreeEntry& b) { return path_less(a.path, b.path); }

// All the rules but those of a single entry: order, uniqueness, parents.
Result<void> check_tree(const Tree& tree) {
  if (tree.entries.empty() || !tree.entries.front().path.empty())
    return invalid_argument("a tree begins with its root");
  if (tree.entries.size() > kTreeEntriesMax) return invalid_argument("a tree has at most 4,000,000 entries");
  std::vector<const TreeEntry*> above;  // The directories from the root down to the last entry.
  for (const TreeEntry& entry : tree.entries) {
    PROA_TRY_VOID(check_entry(entry));
    if (above.empty()) {
      if (entry.kind != EntryKind::kDirectory) return invalid_argument("the root of a tree is a directory");
      above.push_back(&entry);
      continue;
    }
    const TreeEntry& before = *(&entry - 1);
    if (!path_less(before.path, entry.path)) return invalid_argument("'" + entry.path + "' is out of order");
    const std::string_view parent = parent_of(entry.path);
    while (!above.empty() && above.back()->path != parent) above.pop_back();
    if (above.empty()) return invalid_argument("'" + entry.path + "' has no directory to be in");
    if (entry.kind == EntryKind::kDirectory) above.push_back(&entry);
  }
  return {};
}

}  // namespace

bool path_less(std::string_view a, std::string_view b) {
  // A slash sorts before every other byte: then a directory is followed by what is in it.
  const auto rank = [](char c) { return c == '/' ? 0U : static_cast<unsigned char>(c) + 1U; };
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(),
                                      [&](char x, char y) { return rank(x) < rank(y); });
}

Result<void> check_path(std::string_view path) {
  if (path.empty()) return {};
  if (path.size() > kPathBytesMax) return invalid_argument("a path of more than 4095 bytes");
  std::size_t start = 0;
  while (true) {
    const auto slash = path.find('/', start);
    const std::string_view name = path.substr(start, slash == std::string_view::npos ? slash : slash - start);
    if (name.empty() || name == "." || name == ".." || name.size() > kNameBytesMax ||
        name.find('\0') != std::string_view::npos) {
      return invalid_argument("'" + std::string(path) + "' is not a plain relative path");
    }
    if (slash == std::string_view::npos) return {};
    start = slash + 1;
  }
}

Result<Tree> make_tree(std::vector<TreeEntry> entries) {
  std::sort(entries.begin(), entries.end(), entry_less);
  Tree tree;
  tree.entries.reserve(entries.size() + 1);
  if (entries.empty() || !entries.front().path.empty()) {
    tree.entries.push_back({.path = "", .kind = EntryKind::kDirectory, .mode = 0755});
  }
  for (TreeEntry& entry : entries) {
    PROA_TRY_VOID(check_path(entry.path));
    if (!tree.entries.empty() && tree.entries.back().path == entry.path) {
      if (tree.entries.back() == entry) continue;
      return invalid_argument("'" + entry.path + "' is there twice, with different content");
    }
    // The parents that nobody named. Those that are there are among the last entries' parents.
    std::vector<std::string_view> missing;
    for (std::string_view parent = parent_of(entry.path); !parent.empty(); parent = parent_of(parent)) {
      const std::string_view last = tree.entries.back().path;
      const bool there =
          last == parent || (last.size() > parent.size() && last.starts_with(parent) && last[parent.size()] == '/');
      if (there) break;
      missing.push_back(parent);
    }
    for (auto parent = missing.rbegin(); parent != missing.rend(); ++parent) {
      tree.entries.push_back({.path = std::string(*parent), .kind = EntryKind::kDirectory, .mode = 0755});
    }
    tree.entries.push_back(std::move(entry));
  }
  PROA_TRY_VOID(check_tree(tree));
  return tree;
}

Result<Tree> overlay(const Tree& lower, const Tree& upper) {
  const auto below = [](std::string_view path, std::string_view directory) {
    return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
  };
  std::vector<TreeEntry> merged;
  merged.reserve(lower.entries.size() + upper.entries.size());
  auto from_lower = lower.entries.begin();
  const auto skip_below = [&](std::string_view directory) {
    while (from_lower != lower.entries.end() && below(from_lower->path, directory)) ++from_lower;
  };
  for (const TreeEntry& over : upper.entries) {
    while (from_lower != lower.entries.end() && path_less(from_lower->path, over.path)) merged.push_back(*from_lower++);
    const bool hides = from_lower != lower.entries.end() && from_lower->path == over.path;
    const bool was_directory = hides && from_lower->kind == EntryKind::kDirectory;
    if (hides) ++from_lower;
    const bool keeps_content = over.kind == EntryKind::kDirectory && was_directory && !over.opaque;
    if (!keeps_content && !over.path.empty()) skip_below(over.path);
    if (over.path.empty() && over.opaque) from_lower = lower.entries.end();
    if (over.kind == EntryKind::kWhiteout) continue;
    merged.push_back(over);
    merged.back().opaque = false;
  }
  merged.insert(merged.end(), from_lower, lower.entries.end());
  return make_tree(std::move(merged));
}

Bytes encode_tree(const Tree& tree) {
  Bytes out(kMagic);
  for (const TreeEntry& entry : tree.entries) {
    const Bytes record = encode(entry);
    codec::put_varint(out, record.size());
    out += record;
  }
  return out;
}

Result<Tree> decode_tree(BytesView bytes) {
  if (!bytes.starts_with(kMagic)) return broken("it does not begin as one");
  Tree tree;
  BytesView rest = bytes.substr(kMagic.size());
  while (!rest.empty()) {
    if (tree.entries.size() == kTreeEntriesMax) return broken("too many entries");
    std::uint64_t size = 0;
    unsigned shift = 0;
    while (true) {
      if (rest.empty() || shift > 28) return broken("cut short");
      const auto byte = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      size |= static_cast<std::uint64_t>(byte & 127U) << shift;
      if (byte < 128) break;
      shift += 7;
    }
    if (size > rest.size()) return broken("cut short");
    PROA_TRY(auto entry, decode<TreeEntry>(rest.substr(0, size)));
    tree.entries.push_back(std::move(entry));
    rest.remove_prefix(size);
  }
  if (auto good = check_tree(tree); !good.ok()) return broken(good.error().message);
  if (encode_tree(tree) != bytes) return broken("not in its canonical form");
  return tree;
}

Digest tree_digest(const Tree& tree) { return sha256(encode_tree(tree)); }

const TreeEntry* find(const Tree& tree, std::string_view path) {
  const auto place =
      std::lower_bound(tree.entries.begin(), tree.entries.end(), path,
                       [](const TreeEntry& entry, std::string_view wanted) { return path_less(entry.path, wanted); });
  return place != tree.entries.end() && place->path == path ? &*place : nullptr;
}

}  // namespace proa::cas
