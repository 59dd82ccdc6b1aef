// SPDX-License-Identifier: Apache-2.0
//
// What a build does to trees without running anything: finding a file through links, COPY, WORKDIR, and
// taking out of a layer what must not stay in it.
//
// Pure functions on values, any thread. Paths are those of trees: relative to the root, no leading slash.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cas/tree.h"

namespace proa::image {

struct Owner {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  friend bool operator==(const Owner&, const Owner&) = default;
};

enum class LastLink { kFollow, kKeep };

// "/a/./b/../c/" → "a/c". Never leaves the root.
std::string clean_path(std::string_view path);

// Where `path` leads in `tree`, links followed as chroot would. The end, and what is above it, need not exist.
//   kInvalidArgument  more than 40 links, or something on the way is a file.
Result<std::string> resolve(const cas::Tree& tree, std::string_view path, LastLink last = LastLink::kFollow);

// The entry to which `path` leads, or null.
const cas::TreeEntry* find_through_links(const cas::Tree& tree, std::string_view path);

// Changes to a tree, kept apart from it until they are laid over it.
class TreeEditor {
 public:
  // `base` must outlive the editor.
  explicit TreeEditor(const cas::Tree& base) : base_(base) {}

  // The entry as it is now, or null.
  const cas::TreeEntry* at(std::string_view path) const;
  Result<std::string> resolve(std::string_view path, LastLink last = LastLink::kFollow) const;

  // Makes the directory and those above it; nothing if it is there. `path` is resolved.
  //   kInvalidArgument  something that is no directory stands in the way.
  Result<void> make_directory(std::string_view path, Owner owner);
  // Replaces what is at entry.path; its directory is made if it is missing.
  Result<void> put(cas::TreeEntry entry, Owner parents_owner);

  bool changed() const { return !changes_.empty(); }
  // The tree with the changes.
  Result<cas::Tree> finish();

 private:
  struct PathLess {
    using is_transparent = void;
    bool operator()(std::string_view a, std::string_view b) const { return cas::path_less(a, b); }
  };
  void keep_above(std::string_view path);

  const cas::Tree& base_;
  std::map<std::string, cas::TreeEntry, PathLess> changes_;
};

struct CopyRequest {
  const cas::Tree* from = nullptr;
  std::string from_name;             // For errors: "the build context", "the stage 'build'".
  std::vector<std::string> sources;  // As written, variables filled in: paths and patterns.
  std::string destination;           // Absolute.
  bool into_directory = false;       // It was written with a slash at its end, or as ".".
  std::optional<Owner> owner;        // Without one each entry keeps its own.
  std::optional<std::uint32_t> mode;
};

// COPY as Docker does it: the contents of directories, files under their own names, links among the sources
// followed, links inside directories kept. A link in the target that leads to a directory is followed.
//   kNotFound          a source is not there, or no pattern matched anything.
//   kInvalidArgument   a file where a directory must be, or the other way round; a malformed pattern.
Result<void> copy_into(TreeEditor& target, const CopyRequest& request);

// `upper` without the entries at or below any of `hidden` (paths of trees).
Result<cas::Tree> without(const cas::Tree& upper, const std::vector<std::string>& hidden);

}  // namespace proa::image
