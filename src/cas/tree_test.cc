// SPDX-License-Identifier: Apache-2.0
#include "cas/tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/clock.h"

namespace proa::cas {
namespace {

TreeEntry directory(std::string path, bool opaque = false) {
  return {.path = std::move(path), .kind = EntryKind::kDirectory, .mode = 0755, .opaque = opaque};
}

TreeEntry file(std::string path, std::string_view content = "x") {
  return {.path = std::move(path), .mode = 0644, .size_bytes = content.size(), .content = sha256(content)};
}

TreeEntry symlink(std::string path, std::string target) {
  return {.path = std::move(path), .kind = EntryKind::kSymlink, .mode = 0777, .target = std::move(target)};
}

TreeEntry whiteout(std::string path) { return {.path = std::move(path), .kind = EntryKind::kWhiteout}; }

Tree tree(std::vector<TreeEntry> entries) { return make_tree(std::move(entries)).value(); }

std::vector<std::string> paths(const Tree& of) {
  std::vector<std::string> all;
  for (const TreeEntry& entry : of.entries) all.push_back(entry.path);
  return all;
}

using Paths = std::vector<std::string>;

TEST(Tree, PutsADirectoryRightBeforeWhatIsInIt) {
  const Tree made = tree({file("a.b"), file("a/z"), file("a-b"), file("a/b/c"), directory("a")});
  EXPECT_EQ(paths(made), (Paths{"", "a", "a/b", "a/b/c", "a/z", "a-b", "a.b"}));
}

TEST(Tree, AddsTheParentsThatNobodyNamed) {
  const Tree made = tree({file("x/y/z"), file("x/y/a")});
  EXPECT_EQ(paths(made), (Paths{"", "x", "x/y", "x/y/a", "x/y/z"}));
  EXPECT_EQ(find(made, "x/y")->mode, 0755U);
}

TEST(Tree, RefusesWhatIsNotADirectoryTree) {
  EXPECT_FALSE(make_tree({file("a"), file("a/b")}).ok());
  EXPECT_FALSE(make_tree({file("a", "1"), file("a", "2")}).ok());
  EXPECT_TRUE(make_tree({file("a"), file("a")}).ok());
  for (const char* bad : {"/a", "a/", "a//b", ".", "a/./b", "..", "a/../b"}) {
    EXPECT_FALSE(make_tree({file(bad)}).ok()) << bad;
  }
  EXPECT_FALSE(make_tree({file(std::string(256, 'n'))}).ok());
  EXPECT_FALSE(make_tree({file(std::string("a\0b", 3))}).ok());
  EXPECT_FALSE(make_tree({symlink("a", "")}).ok());
}

TEST(Tree, RefusesFieldsThatBelongToAnotherKind) {
  TreeEntry sized_directory = directory("d");
  sized_directory.size_bytes = 1;
  TreeEntry opaque_file = file("f");
  opaque_file.opaque = true;
  TreeEntry no_content = file("f");
  no_content.content = {};
  TreeEntry trusted = file("f");
  trusted.xattrs["trusted.overlay.redirect"] = "/etc";
  TreeEntry wide_mode = file("f");
  wide_mode.mode = 010000;
  for (const TreeEntry& bad : {sized_directory, opaque_file, no_content, trusted, wide_mode}) {
    EXPECT_FALSE(make_tree({bad}).ok()) << bad.path;
  }
}

TEST(Tree, EncodesTheSameDirectoryToTheSameBytes) {
  const Tree one = tree({file("b"), symlink("a", "b"), directory("c")});
  const Tree other = tree({directory("c"), file("b"), symlink("a", "b")});
  EXPECT_EQ(encode_tree(one), encode_tree(other));
  EXPECT_EQ(decode_tree(encode_tree(one)).value(), one);
  // DO NOT CHANGE: trees are stored by this digest.
  EXPECT_EQ(tree_digest(one).hex(), "fe55fbb84ad26e40c2ead12f172f67dedad8e5ebcf394ec6130d701a30e88ab2");
}

TEST(Tree, RefusesEveryDamagedEncodingAndNeverDies) {
  TreeEntry attributed = file("a/f");
  attributed.xattrs["user.k"] = "v";
  const Tree good = tree({attributed, symlink("l", "a/f"), directory("o", true), whiteout("w")});
  const Bytes bytes = encode_tree(good);
  SeededRandom random(7);
  for (int round = 0; round < 3'000; ++round) {
    Bytes damaged = bytes;
    switch (random.below(4)) {
      case 0: damaged.resize(random.below(damaged.size())); break;
      case 1: damaged[random.below(damaged.size())] = static_cast<char>(random.next()); break;
      case 2: damaged.erase(random.below(damaged.size()), 1 + random.below(9)); break;
      default: damaged.insert(random.below(damaged.size()), random.bytes(1 + random.below(9))); break;
    }
    const auto decoded = decode_tree(damaged);
    // What is accepted is a tree in its one form, whatever the damage made of it.
    if (decoded.ok()) EXPECT_EQ(encode_tree(*decoded), damaged);
  }
}

TEST(Overlay, AWhiteoutRemovesAFileAndAWholeDirectory) {
  const Tree lower = tree({file("keep"), file("gone"), file("d/x"), file("d/y"), file("d2")});
  const Tree upper = tree({whiteout("gone"), whiteout("d")});
  EXPECT_EQ(paths(overlay(lower, upper).value()), (Paths{"", "d2", "keep"}));
}

TEST(Overlay, AnOpaqueDirectoryHidesWhatWasBelowIt) {
  const Tree lower = tree({file("d/old"), file("d/sub/old"), file("e")});
  const Tree upper = tree({directory("d", true), file("d/new")});
  const Tree merged = overlay(lower, upper).value();
  EXPECT_EQ(paths(merged), (Paths{"", "d", "d/new", "e"}));
  EXPECT_FALSE(find(merged, "d")->opaque);
}

TEST(Overlay, ADirectoryMergesAndAnythingElseReplaces) {
  const Tree lower = tree({file("d/a"), file("f"), directory("g"), file("g/x")});
  const Tree upper = tree({file("d/b"), file("f/now-a-directory"), symlink("g", "d")});
  EXPECT_EQ(paths(overlay(lower, upper).value()), (Paths{"", "d", "d/a", "d/b", "f", "f/now-a-directory", "g"}));
}

// The obvious way: a map of all paths, changed entry by entry.
Paths naive_overlay(const Tree& lower, const Tree& upper) {
  std::map<std::string, EntryKind> all;
  for (const TreeEntry& entry : lower.entries) all[entry.path] = entry.kind;
  const auto remove_below = [&](const std::string& path) {
    std::erase_if(all, [&](const auto& item) { return item.first.starts_with(path + "/"); });
  };
  std::map<std::string, EntryKind> added;
  for (const TreeEntry& entry : upper.entries) {
    if (entry.path.empty()) continue;
    const auto place = all.find(entry.path);
    const bool was_directory = place != all.end() && place->second == EntryKind::kDirectory;
    if (entry.kind != EntryKind::kDirectory || !was_directory || entry.opaque) remove_below(entry.path);
    all.erase(entry.path);
    if (entry.kind != EntryKind::kWhiteout) added[entry.path] = entry.kind;
  }
  all.merge(added);
  Paths result;
  for (const auto& [path, kind] : all) result.push_back(path);
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return path_less(a, b); });
  return result;
}

TEST(Overlay, AgreesWithTheObviousWayOnRandomTrees) {
  SeededRandom random(3);
  const auto random_tree = [&](bool is_layer) {
    std::vector<TreeEntry> entries;
    for (std::uint64_t i = 0, count = random.below(12); i < count; ++i) {
      std::string path(1, static_cast<char>('a' + random.below(3)));
      for (std::uint64_t depth = random.below(3); depth > 0; --depth) {
        path += std::string("/") + static_cast<char>('a' + random.below(3));
      }
      switch (random.below(is_layer ? 5 : 3)) {
        case 0: entries.push_back(file(path)); break;
        case 1: entries.push_back(directory(path)); break;
        case 2: entries.push_back(symlink(path, "t")); break;
        case 3: entries.push_back(whiteout(path)); break;
        default: entries.push_back(directory(path, true)); break;
      }
    }
    return make_tree(std::move(entries));
  };
  int compared = 0;
  for (int round = 0; round < 2000; ++round) {
    const auto lower = random_tree(false);
    const auto upper = random_tree(true);
    if (!lower.ok() || !upper.ok()) continue;  // Two entries at one place, or one below a file.
    ++compared;
    EXPECT_EQ(paths(overlay(*lower, *upper).value()), naive_overlay(*lower, *upper));
  }
  EXPECT_GT(compared, 100);
}

}  // namespace
}  // namespace proa::cas
