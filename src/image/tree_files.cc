// SPDX-License-Identifier: Apache-2.0
#include "image/tree_files.h"

#include <algorithm>
#include <unordered_map>

#include "image/glob.h"

namespace proa::image {
namespace {

using cas::EntryKind;
using cas::Tree;
using cas::TreeEntry;

constexpr int kLinksMax = 40;  // As the kernel's.

std::string_view parent_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}
std::string_view name_of(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string join(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  return std::string(directory) + "/" + std::string(name);
}

bool is_below(std::string_view path, std::string_view directory) {
  if (directory.empty()) return !path.empty();
  return path.size() > directory.size() && path.starts_with(directory) && path[directory.size()] == '/';
}

template <class At>
Result<std::string> resolve_in(std::string_view path, LastLink last, const At& at) {
  std::string done;
  std::string rest(path);
  int links = 0;
  while (!rest.empty()) {
    const auto slash = rest.find('/');
    const std::string name = rest.substr(0, slash);
    rest = slash == std::string::npos ? std::string() : rest.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      done = parent_of(done);
      continue;
    }
    const std::string next = join(done, name);
    const TreeEntry* entry = at(next);
    const bool is_last = rest.find_first_not_of('/') == std::string::npos;
    if (entry != nullptr && entry->kind == EntryKind::kSymlink && (!is_last || last == LastLink::kFollow)) {
      if (++links > kLinksMax) return invalid_argument("'/" + std::string(path) + "' leads through too many links");
      if (entry->target.starts_with('/')) done.clear();
      rest = entry->target + "/" + rest;
      if (rest.size() > 2 * cas::kPathBytesMax)
        return invalid_argument("'/" + std::string(path) + "' leads to too long a path");
      continue;
    }
    if (entry != nullptr && entry->kind != EntryKind::kDirectory && !is_last) {
      return invalid_argument("'/" + next + "' is not a directory");
    }
    done = next;
  }
  return done;
}

// The entries strictly below `directory`, which stand together.
std::pair<std::size_t, std::size_t> range_below(const Tree& tree, std::string_view directory) {
  const auto begin =
      std::upper_bound(tree.entries.begin(), tree.entries.end(), directory,
                       [](std::string_view path, const TreeEntry& entry) { return cas::path_less(path, entry.path); });
  auto end = begin;
  while (end != tree.entries.end() && is_below(end->path, directory)) ++end;
  return {static_cast<std::size_t>(begin - tree.entries.begin()), static_cast<std::size_t>(end - tree.entries.begin())};
}

class Copier {
 public:
  Copier(TreeEditor& target, const CopyRequest& request) : target_(target), request_(request) {}

  Result<void> all() {
    std::size_t found = 0;
    for (const std::string& source : request_.sources) {
      PROA_TRY(const std::vector<std::string> matches, expand(source));
      found += matches.size();
      for (const std::string& match : matches) {
        PROA_TRY_VOID(one(match));
      }
    }
    if (found == 0)
      return not_found("no file in " + request_.from_name + " matches '" + request_.sources.front() + "'");
    return {};
  }

 private:
  // The paths that a source names: itself, or what its pattern matches.
  Result<std::vector<std::string>> expand(const std::string& source) {
    const std::string path = clean_path(source);
    if (!has_wildcard(path)) return std::vector<std::string>{path};
    // The part before the first component with a pattern is an ordinary path, through links if need be.
    std::size_t start = 0;
    while (!has_wildcard(std::string_view(path).substr(start, path.find('/', start) - start)))
      start = path.find('/', start) + 1;
    const std::string pattern = path.substr(start);
    PROA_TRY_VOID(glob_match(pattern, ""));
    PROA_TRY(const std::string base, image::resolve(*request_.from, start == 0 ? "" : path.substr(0, start - 1)));
    std::vector<std::string> matches;
    const auto [begin, end] = range_below(*request_.from, base);
    for (std::size_t i = begin; i < end; ++i) {
      const std::string& candidate = request_.from->entries[i].path;
      PROA_TRY(const bool match,
               glob_match(pattern, std::string_view(candidate).substr(base.empty() ? 0 : base.size() + 1)));
      if (match) matches.push_back(candidate);
    }
    return matches;
  }

  Result<void> one(const std::string& source) {
    PROA_TRY(const std::string real, image::resolve(*request_.from, source));
    const TreeEntry* entry = cas::find(*request_.from, real);
    if (entry == nullptr) return not_found("'/" + source + "' is not in " + request_.from_name);
    PROA_TRY(const std::string destination, target_.resolve(clean_path(request_.destination)));
    if (entry->kind == EntryKind::kDirectory) return directory(*entry, destination);
    const TreeEntry* there = target_.at(destination);
    const bool into = request_.into_directory || request_.sources.size() > 1 ||
                      (there != nullptr && there->kind == EntryKind::kDirectory);
    if (!into) return file(*entry, destination);
    if (there != nullptr && there->kind != EntryKind::kDirectory) {
      return invalid_argument("the destination '/" + destination + "' is not a directory");
    }
    PROA_TRY_VOID(target_.make_directory(destination, owner_of_parents()));
    return file(*entry, join(destination, name_of(source)));
  }

  Result<void> directory(const TreeEntry& source, const std::string& destination) {
    const TreeEntry* there = target_.at(destination);
    if (there == nullptr) {
      PROA_TRY_VOID(target_.put(owned(source, destination), owner_of_parents()));
    } else if (there->kind != EntryKind::kDirectory) {
      return invalid_argument("a directory cannot be copied over the file '/" + destination + "'");
    }
    // Source directory → where it went: elsewhere than expected if the target has a link there.
    std::unordered_map<std::string, std::string> went{{source.path, destination}};
    const auto [begin, end] = range_below(*request_.from, source.path);
    for (std::size_t i = begin; i < end; ++i) {
      const TreeEntry& entry = request_.from->entries[i];
      if (entry.kind == EntryKind::kWhiteout) continue;
      const std::string to = join(went.at(std::string(parent_of(entry.path))), name_of(entry.path));
      if (entry.kind != EntryKind::kDirectory) {
        PROA_TRY_VOID(file(entry, to));
        continue;
      }
      PROA_TRY(const std::string real, target_.resolve(to));
      const TreeEntry* existing = target_.at(real);
      if (existing == nullptr) {
        PROA_TRY_VOID(target_.put(owned(entry, real), owner_of_parents()));
      } else if (existing->kind != EntryKind::kDirectory) {
        return invalid_argument("the directory '/" + entry.path + "' cannot be copied over the file '/" + to + "'");
      }
      went.emplace(entry.path, real);
    }
    return {};
  }

  Result<void> file(const TreeEntry& source, const std::string& destination) {
    const TreeEntry* there = target_.at(destination);
    if (destination.empty() || (there != nullptr && there->kind == EntryKind::kDirectory)) {
      return invalid_argument("the file '/" + source.path + "' cannot be copied over the directory '/" + destination +
                              "'");
    }
    return target_.put(owned(source, destination), owner_of_parents());
  }

  TreeEntry owned(const TreeEntry& source, std::string path) const {
    TreeEntry entry = source;
    entry.path = std::move(path);
    entry.opaque = false;
    if (request_.owner) {
      entry.uid = request_.owner->uid;
      entry.gid = request_.owner->gid;
    }
    if (request_.mode && entry.kind != EntryKind::kSymlink) entry.mode = *request_.mode;
    return entry;
  }

  Owner owner_of_parents() const { return request_.owner.value_or(Owner{}); }

  TreeEditor& target_;
  const CopyRequest& request_;
};

}  // namespace

std::string clean_path(std::string_view path) {
  std::vector<std::string_view> names;
  while (!path.empty()) {
    const auto slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (name.empty() || name == ".") continue;
    if (name != "..") {
      names.push_back(name);
    } else if (!names.empty()) {
      names.pop_back();
    }
  }
  std::string out;
  for (const std::string_view name : names) out = join(out, name);
  return out;
}

Result<std::string> resolve(const Tree& tree, std::string_view path, LastLink last) {
  return resolve_in(path, last, [&](std::string_view at) { return cas::find(tree, at); });
}

const TreeEntry* find_through_links(const Tree& tree, std::string_view path) {
  const auto real = resolve(tree, path);
  return real.ok() ? cas::find(tree, real.value()) : nullptr;
}

const TreeEntry* TreeEditor::at(std::string_view path) const {
  if (const auto change = changes_.find(path); change != changes_.end()) return &change->second;
  // A file that took the place of a link or file never has anything below it in the base, and directories are
  // never replaced, so the base answers for everything else.
  return cas::find(base_, path);
}

Result<std::string> TreeEditor::resolve(std::string_view path, LastLink last) const {
  return resolve_in(path, last, [&](std::string_view where) { return at(where); });
}

Result<void> TreeEditor::make_directory(std::string_view path, Owner owner) {
  PROA_TRY_VOID(cas::check_path(path));
  const TreeEntry* there = at(path);
  if (there != nullptr) {
    if (there->kind == EntryKind::kDirectory) return {};
    return invalid_argument("'/" + std::string(path) + "' is there and is not a directory");
  }
  TreeEntry entry;
  entry.path = path;
  entry.kind = EntryKind::kDirectory;
  entry.mode = 0755;
  entry.uid = owner.uid;
  entry.gid = owner.gid;
  return put(std::move(entry), owner);
}

Result<void> TreeEditor::put(TreeEntry entry, Owner parents_owner) {
  PROA_TRY_VOID(cas::check_path(entry.path));
  if (!entry.path.empty()) {
    PROA_TRY_VOID(make_directory(parent_of(entry.path), parents_owner));
  }
  keep_above(entry.path);
  std::string path = entry.path;
  changes_.insert_or_assign(std::move(path), std::move(entry));
  return {};
}

// An overlay takes a directory's metadata from the layer above, so those on the way are repeated unchanged.
void TreeEditor::keep_above(std::string_view path) {
  while (!path.empty()) {
    path = parent_of(path);
    if (changes_.find(path) != changes_.end()) return;
    const TreeEntry* there = cas::find(base_, path);
    if (there != nullptr) changes_.emplace(std::string(path), *there);
  }
}

Result<Tree> TreeEditor::finish() {
  std::vector<TreeEntry> entries;
  entries.reserve(changes_.size());
  for (auto& [path, entry] : changes_) entries.push_back(std::move(entry));
  changes_.clear();
  PROA_TRY(const Tree upper, cas::make_tree(std::move(entries)));
  return cas::overlay(base_, upper);
}

Result<void> copy_into(TreeEditor& target, const CopyRequest& request) {
  if (request.sources.empty()) return invalid_argument("there is nothing to copy");
  return Copier(target, request).all();
}

Result<Tree> without(const Tree& upper, const std::vector<std::string>& hidden) {
  std::vector<TreeEntry> kept;
  kept.reserve(upper.entries.size());
  for (const TreeEntry& entry : upper.entries) {
    const bool hide = std::any_of(hidden.begin(), hidden.end(), [&](const std::string& path) {
      return !path.empty() && (entry.path == path || is_below(entry.path, path));
    });
    if (!hide) kept.push_back(entry);
  }
  return cas::make_tree(std::move(kept));
}

}  // namespace proa::image
