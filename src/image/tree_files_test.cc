// SPDX-License-Identifier: Apache-2.0
#include "image/tree_files.h"

#include <gtest/gtest.h>

#include "image/probe.h"

namespace proa::image {
namespace {

using cas::EntryKind;
using cas::Tree;
using cas::TreeEntry;

TreeEntry file(std::string path, std::string_view content = "x", std::uint32_t mode = 0644) {
  TreeEntry entry;
  entry.path = std::move(path);
  entry.mode = mode;
  entry.size_bytes = content.size();
  if (!content.empty()) entry.content = sha256(content);
  return entry;
}
TreeEntry directory(std::string path, std::uint32_t mode = 0755) {
  TreeEntry entry;
  entry.path = std::move(path);
  entry.kind = EntryKind::kDirectory;
  entry.mode = mode;
  return entry;
}
TreeEntry link(std::string path, std::string target) {
  TreeEntry entry;
  entry.path = std::move(path);
  entry.kind = EntryKind::kSymlink;
  entry.mode = 0777;
  entry.target = std::move(target);
  return entry;
}
Tree tree(std::vector<TreeEntry> entries) { return cas::make_tree(std::move(entries)).value(); }

// "dir/ dir/file link@" without parents that every test has.
std::string list(const Tree& of) {
  std::string out;
  for (const TreeEntry& entry : of.entries) {
    if (entry.path.empty()) continue;
    if (!out.empty()) out += " ";
    out += entry.path + (entry.kind == EntryKind::kDirectory ? "/" : entry.kind == EntryKind::kSymlink ? "@" : "");
  }
  return out;
}

struct Copy {
  std::vector<std::string> sources;
  std::string destination;
  bool into = false;
};

Result<Tree> copy(const Tree& target, const Tree& from, const Copy& what) {
  TreeEditor editor(target);
  CopyRequest request;
  request.from = &from;
  request.from_name = "the build context";
  request.sources = what.sources;
  request.destination = what.destination;
  request.into_directory = what.into;
  PROA_TRY_VOID(copy_into(editor, request));
  return editor.finish();
}

std::string copied(const Tree& target, const Tree& from, const Copy& what) {
  const auto result = copy(target, from, what);
  return result.ok() ? list(result.value()) : result.error().message;
}

TEST(Resolve, FollowsLinksLikeARoot) {
  const Tree t = tree({directory("usr/lib"), link("lib", "usr/lib"), link("abs", "/usr"), link("up", "../../usr"),
                       link("loop", "loop"), file("usr/lib/f")});
  EXPECT_EQ(resolve(t, "lib/f").value(), "usr/lib/f");
  EXPECT_EQ(resolve(t, "abs/lib/new/deep").value(), "usr/lib/new/deep");
  EXPECT_EQ(resolve(t, "up/lib").value(), "usr/lib");
  EXPECT_EQ(resolve(t, "lib", LastLink::kKeep).value(), "lib");
  EXPECT_EQ(resolve(t, "lib/../x").value(), "usr/x");
  EXPECT_FALSE(resolve(t, "loop").ok());
  EXPECT_FALSE(resolve(t, "usr/lib/f/x").ok());
}

TEST(Copy, AFileGoesToANameOrIntoADirectory) {
  const Tree context = tree({file("a"), file("d/b"), directory("d/e")});
  EXPECT_EQ(copied(tree({}), context, {{"/a"}, "/x/y"}), "x/ x/y");
  EXPECT_EQ(copied(tree({}), context, {{"a"}, "/x", true}), "x/ x/a");
  EXPECT_EQ(copied(tree({directory("x")}), context, {{"a"}, "/x"}), "x/ x/a");
  EXPECT_EQ(copied(tree({file("x")}), context, {{"a"}, "/x"}), "x");
  EXPECT_EQ(copied(tree({file("x")}), context, {{"a"}, "/x", true}), "the destination '/x' is not a directory");
  EXPECT_EQ(copied(tree({}), context, {{"a", "d/b"}, "/x", true}), "x/ x/a x/b");
}

TEST(Copy, ADirectoryGivesItsContents) {
  const Tree context = tree({file("a"), file("d/b"), directory("d/e", 0700)});
  EXPECT_EQ(copied(tree({}), context, {{"/d"}, "/x"}), "x/ x/b x/e/");
  EXPECT_EQ(copied(tree({file("old")}), context, {{"."}, "/", true}), "a d/ d/b d/e/ old");
  EXPECT_EQ(copied(tree({}), context, {{"/d/."}, "/usr/local"}), "usr/ usr/local/ usr/local/b usr/local/e/");
  EXPECT_NE(copied(tree({file("x")}), context, {{"/d"}, "/x"}).find("over the file"), std::string::npos);
  EXPECT_NE(copied(tree({file("x/e/f"), directory("x/b")}), context, {{"/d"}, "/x"}).find("over the directory"),
            std::string::npos);
}

TEST(Copy, LinksInTheTargetAreFollowedIfTheyLeadToDirectories) {
  const Tree target = tree({directory("usr/bin", 0711), link("bin", "usr/bin"), link("f", "usr/file")});
  const Tree context = tree({file("bin/tool"), file("f")});
  EXPECT_EQ(copied(target, context, {{"."}, "/", true}), "bin@ f usr/ usr/bin/ usr/bin/tool");
  EXPECT_EQ(cas::find(copy(target, context, {{"."}, "/", true}).value(), "usr/bin")->mode, 0711U);
  EXPECT_EQ(copied(target, context, {{"f"}, "/bin/x"}), "bin@ f@ usr/ usr/bin/ usr/bin/x");
  EXPECT_EQ(copied(target, context, {{"f"}, "/f"}), "bin@ f@ usr/ usr/bin/ usr/file");
}

TEST(Copy, SourcesThatAreLinksAreFollowedAndLinksBelowAreKept) {
  const Tree context = tree({file("d/b", "bb"), link("d/l", "b"), link("to-b", "d/b"), link("to-d", "/d")});
  EXPECT_EQ(copied(tree({}), context, {{"to-b"}, "/x"}), "x");
  EXPECT_EQ(copied(tree({}), context, {{"to-b"}, "/x", true}), "x/ x/to-b");
  EXPECT_EQ(copied(tree({}), context, {{"to-d"}, "/x"}), "x/ x/b x/l@");
}

TEST(Copy, PatternsMatchWithinOneLevel) {
  const Tree context =
      tree({file("a1.txt"), file("a2.txt"), file("b.md"), file("d1/x"), file("d2/y"), file("s/t/a3.txt")});
  EXPECT_EQ(copied(tree({}), context, {{"a*.txt"}, "/x", true}), "x/ x/a1.txt x/a2.txt");
  EXPECT_EQ(copied(tree({}), context, {{"d?"}, "/x", true}), "x/ x/x x/y");
  EXPECT_EQ(copied(tree({}), context, {{"/s/*/a*"}, "/x", true}), "x/ x/a3.txt");
  EXPECT_EQ(copied(tree({}), context, {{"b.md", "no*"}, "/x", true}), "x/ x/b.md");
  EXPECT_EQ(copied(tree({}), context, {{"no*"}, "/x", true}), "no file in the build context matches 'no*'");
  EXPECT_EQ(copied(tree({}), context, {{"no"}, "/x"}), "'/no' is not in the build context");
  EXPECT_NE(copied(tree({}), context, {{"[a"}, "/x"}).find("malformed pattern"), std::string::npos);
}

TEST(Copy, OwnersAndModesCanBeSet) {
  const Tree context = tree({file("d/b", "x", 0600), link("d/l", "b")});
  const Tree target = tree({});
  TreeEditor editor(target);
  CopyRequest request;
  request.from = &context;
  request.sources = {"d"};
  request.destination = "/p/x";
  request.owner = Owner{5, 6};
  request.mode = 0755;
  ASSERT_TRUE(copy_into(editor, request).ok());
  const Tree result = editor.finish().value();
  EXPECT_EQ(cas::find(result, "p")->uid, 5U);
  EXPECT_EQ(cas::find(result, "p/x/b")->mode, 0755U);
  EXPECT_EQ(cas::find(result, "p/x/b")->gid, 6U);
  EXPECT_EQ(cas::find(result, "p/x/l")->mode, 0777U);
}

TEST(Without, TakesOutWholeSubtrees) {
  const Tree upper =
      tree({file("proc/x"), file("process"), file("etc/hosts"), file("etc/hosts.allow"), file("a/cache/b")});
  EXPECT_EQ(list(without(upper, {"proc", "etc/hosts", "a/cache"}).value()), "a/ etc/ etc/hosts.allow process");
}

TEST(Probe, FindsPythonPackagesAndLibc) {
  const Tree t = tree({file("usr/local/bin/python3.11", "py", 0755), link("usr/local/bin/python", "python3.11"),
                       file("usr/local/lib/libpython3.11.so.1.0", "lib"),
                       directory("usr/local/lib/python3.11/site-packages/six-1.16.0.dist-info"),
                       directory("elsewhere/six-2.dist-info"), file("lib/x86_64-linux-gnu/libc.so.6", "libc")});
  ImageConfig config;
  EXPECT_EQ(find_libc(t), Libc::kGlibc);
  EXPECT_EQ(python_packages(t), (std::map<std::string, std::string>{{"six", "1.16.0"}}));
  const Digest identity = runtime_identity(t, config);
  EXPECT_NE(identity, Digest{});
  config.env = {"PATH=/usr/local/bin"};
  EXPECT_EQ(runtime_identity(t, config), identity);
  config.env = {"PATH=/none"};
  EXPECT_NE(runtime_identity(t, config), identity);
  EXPECT_EQ(runtime_identity(tree({}), config), Digest{});
  const RuntimeInfo info = read_probe(
      "proa-version Python 3.11.2 (main) [GCC 12.2.0] \nproa-tag cp311\nproa-libc ldd (Debian GLIBC 2.36) 2.36\n");
  EXPECT_EQ(info.python_version_info, "Python 3.11.2 (main) [GCC 12.2.0]");
  EXPECT_EQ(info.python_tag, "cp311");
  EXPECT_EQ(info.libc_version_info, "ldd (Debian GLIBC 2.36) 2.36");
}

}  // namespace
}  // namespace proa::image
