// SPDX-License-Identifier: Apache-2.0
//
// Tree: a directory as a value. A sorted list of entries with mode, owner, time and content; regular files
// name their bytes by digest. Image layers, mounts, volume versions, snapshots and build contexts are trees.
//
// The encoding is canonical: the same directory gives the same bytes, and the tree's own digest is the
// SHA-256 of them. docs/formats/tree.md describes it. DO NOT CHANGE.
//
// Values only; nothing here touches a disk. The launcher reads trees that a hostile worker may have made,
// so decode() trusts nothing: see its bounds.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/codec.h"
#include "base/digest.h"
#include "base/result.h"

namespace proa::cas {

// Stored. DO NOT CHANGE.
enum class EntryKind : std::uint8_t { kDirectory = 1, kFile = 2, kSymlink = 3, kFifo = 4, kWhiteout = 5 };

struct TreeEntry {
  // Relative to the tree's root, without a leading or trailing slash; "" is the root itself.
  std::string path;
  EntryKind kind = EntryKind::kFile;
  std::uint32_t mode = 0;  // The low 12 bits of st_mode.
  std::uint32_t uid = 0;   // As seen inside a container.
  std::uint32_t gid = 0;
  std::int64_t mtime_nanos = 0;               // Since the epoch.
  std::uint64_t size_bytes = 0;               // Files.
  Digest content;                             // Files with a size other than 0: the object with their bytes.
  std::string target;                         // Symlinks.
  std::map<std::string, std::string> xattrs;  // user.* and security.capability only.
  // Directories in a layer: hides what lower layers have in it.
  bool opaque = false;

  static void fields(auto& visit, auto& self) {
    visit(1, self.path), visit(2, self.kind), visit(3, self.mode), visit(4, self.uid), visit(5, self.gid);
    visit(6, self.mtime_nanos), visit(7, self.size_bytes), visit(8, self.content), visit(9, self.target);
    visit(10, self.xattrs), visit(11, self.opaque);
  }
  friend bool operator==(const TreeEntry&, const TreeEntry&) = default;
};

struct Tree {
  // Sorted by path (bytewise on path components, so that a directory comes right before what is in it),
  // each path once, each entry's parent present as a directory, the root first.
  std::vector<TreeEntry> entries;

  friend bool operator==(const Tree&, const Tree&) = default;
};

constexpr std::size_t kTreeEntriesMax = 4'000'000;
constexpr std::size_t kPathBytesMax = 4095;  // PATH_MAX less the slash in front.
constexpr std::size_t kNameBytesMax = 255;   // NAME_MAX.

// True if `a` comes before `b` in a tree: components compared bytewise.
bool path_less(std::string_view a, std::string_view b);
// kInvalidArgument unless `path` is "" or names of 1…255 bytes joined by single slashes, none "." or "..",
// without NUL bytes, at most kPathBytesMax long.
Result<void> check_path(std::string_view path);

// Puts entries in order and adds missing parents (mode 0755, root's). kInvalidArgument for a bad path, a
// path that occurs twice with different entries, or an entry below something that is not a directory.
Result<Tree> make_tree(std::vector<TreeEntry> entries);

// `upper` laid over `lower`, as an overlay mount shows them: whiteouts and opaque directories take effect
// and are gone from the result.
Result<Tree> overlay(const Tree& lower, const Tree& upper);

Bytes encode_tree(const Tree& tree);
// kDataLoss unless the bytes are exactly what encode_tree() gives for some tree that keeps all the rules
// above.
Result<Tree> decode_tree(BytesView bytes);
Digest tree_digest(const Tree& tree);

// The entry at `path`, or null.
const TreeEntry* find(const Tree& tree, std::string_view path);

}  // namespace proa::cas
