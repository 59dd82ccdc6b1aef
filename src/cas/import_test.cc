// SPDX-License-Identifier: Apache-2.0
#include "cas/import.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace proa::cas {
namespace {

namespace fs = std::filesystem;

struct Member {
  std::string name;
  mode_t type = S_IFREG;
  std::string content;  // Or target, or the name that a hard link is to.
  bool hard_link = false;
  unsigned mode = 0644;
};

class ImportTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "proa-import-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    store_ = ObjectStore::open(directory_ + "/objects").value();
    fs::create_directory(directory_ + "/in");
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string in(const std::string& path) const { return directory_ + "/in/" + path; }

  std::string archive_of(const std::vector<Member>& members, bool compressed = false) const {
    std::string path = directory_ + "/archive";
    // For the writer's sake alone; the reader has to do without.
    ::setlocale(LC_CTYPE, "C.UTF-8");
    archive* writer = ::archive_write_new();
    ::archive_write_set_format_pax(writer);
    if (compressed) ::archive_write_add_filter_zstd(writer);
    EXPECT_EQ(::archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
    for (const Member& member : members) {
      archive_entry* entry = ::archive_entry_new();
      ::archive_entry_set_pathname(entry, member.name.c_str());
      ::archive_entry_set_mtime(entry, 1234567890, 5);
      ::archive_entry_set_uid(entry, 1000);
      ::archive_entry_set_gid(entry, 100);
      if (member.hard_link) {
        ::archive_entry_set_hardlink(entry, member.content.c_str());
      } else {
        ::archive_entry_set_filetype(entry, member.type);
        ::archive_entry_set_perm(entry, member.mode);
        if (member.type == S_IFLNK) ::archive_entry_set_symlink(entry, member.content.c_str());
        if (member.type == S_IFREG) ::archive_entry_set_size(entry, static_cast<la_int64_t>(member.content.size()));
      }
      EXPECT_EQ(::archive_write_header(writer, entry), ARCHIVE_OK) << ::archive_error_string(writer);
      if (!member.hard_link && member.type == S_IFREG) {
        ::archive_write_data(writer, member.content.data(), member.content.size());
      }
      ::archive_entry_free(entry);
    }
    ::archive_write_close(writer);
    ::archive_write_free(writer);
    ::setlocale(LC_CTYPE, "C");
    return path;
  }

  Result<Tree> unpack(const std::vector<Member>& members, const ArchiveOptions& options = {}) {
    const std::string path = archive_of(members);
    PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY));
    return import_archive(*store_, fd.get(), options);
  }

  std::string directory_;
  std::unique_ptr<ObjectStore> store_;
};

std::vector<std::string> paths(const Tree& of) {
  std::vector<std::string> all;
  for (const TreeEntry& entry : of.entries) all.push_back(entry.path);
  return all;
}

using Paths = std::vector<std::string>;

TEST_F(ImportTest, TakesADirectoryAsItIsAndGivesItBack) {
  fs::create_directories(in("d/empty"));
  std::ofstream(in("d/f")) << "content";
  std::ofstream(in("none"));
  fs::create_symlink("../outside", in("d/link"));
  ASSERT_EQ(::mkfifo(in("pipe").c_str(), 0600), 0);
  ASSERT_EQ(::chmod(in("d/f").c_str(), 04751), 0);
  const bool attributes = ::setxattr(in("d/f").c_str(), "user.k", "v", 1, 0) == 0;

  const Tree tree = import_directory(*store_, directory_ + "/in", {}).value();
  EXPECT_EQ(paths(tree), (Paths{"", "d", "d/empty", "d/f", "d/link", "none", "pipe"}));
  const TreeEntry* file = find(tree, "d/f");
  EXPECT_EQ(file->mode, 04751U);
  EXPECT_EQ(file->content, sha256("content"));
  EXPECT_EQ(file->uid, ::geteuid());
  if (attributes) EXPECT_EQ(file->xattrs.at("user.k"), "v");
  EXPECT_EQ(find(tree, "d/link")->target, "../outside");
  EXPECT_EQ(find(tree, "none")->content, Digest{});
  EXPECT_EQ(find(tree, "pipe")->kind, EntryKind::kFifo);

  ASSERT_TRUE(export_tree(*store_, tree, directory_ + "/out").ok());
  Tree again = import_directory(*store_, directory_ + "/out", {}).value();
  // A link's own time is not set.
  for (Tree* each : {&again}) {
    for (TreeEntry& entry : each->entries) {
      if (entry.kind == EntryKind::kSymlink || entry.kind == EntryKind::kFifo) {
        entry.mtime_nanos = find(tree, entry.path)->mtime_nanos;
      }
    }
  }
  EXPECT_EQ(again, tree);
  EXPECT_EQ(export_tree(*store_, tree, directory_ + "/out").error().code, Code::kFailedPrecondition);
}

TEST_F(ImportTest, KeepsADirectoryWithinItsBounds) {
  std::ofstream(in("f")) << "12345";
  const auto refused = import_directory(*store_, directory_ + "/in", {.bytes_max = 4});
  EXPECT_EQ(refused.error().code, Code::kOutOfRange);
  EXPECT_FALSE(store_->has(sha256("12345")).value());
}

TEST_F(ImportTest, ReadsAnArchiveWithNamesInAnyLanguage) {
  const Tree tree = unpack({{.name = "./", .type = S_IFDIR, .mode = 0755},
                            {.name = "./grüße/日本", .content = "hi", .mode = 0640},
                            {.name = "/abs", .type = S_IFLNK, .content = "/target/日本"},
                            {.name = "again", .content = "./grüße/日本", .hard_link = true}})
                        .value();
  EXPECT_EQ(paths(tree), (Paths{"", "abs", "again", "grüße", "grüße/日本"}));
  EXPECT_EQ(find(tree, "abs")->target, "/target/日本");
  const TreeEntry* file = find(tree, "again");
  EXPECT_EQ(file->content, sha256("hi"));
  EXPECT_EQ(file->mode, 0640U);
  EXPECT_EQ(file->uid, 1000U);
  EXPECT_EQ(file->mtime_nanos, 1234567890'000000005);
}

TEST_F(ImportTest, GivesAnArchivesFilesToRootOnRequest) {
  const Tree tree = unpack({{.name = "f", .content = "x"}}, {.owners = Owners::kRoot}).value();
  EXPECT_EQ(find(tree, "f")->uid, 0U);
}

TEST_F(ImportTest, LetsTheLastOfTwoEntriesCount) {
  const Tree tree = unpack({{.name = "f", .content = "one"}, {.name = "./f", .content = "two"}}).value();
  EXPECT_EQ(find(tree, "f")->content, sha256("two"));
}

TEST_F(ImportTest, UnderstandsTheWhiteoutsOfLayers) {
  const std::vector<Member> layer{{.name = "d/.wh.gone"},     {.name = "o/", .type = S_IFDIR, .mode = 0700},
                                  {.name = "o/.wh..wh..opq"}, {.name = "o/new", .content = "n"},
                                  {.name = ".wh.both"},       {.name = "both", .content = "b"},
                                  {.name = ".wh..wh.plnk"}};
  const Tree tree = unpack(layer, {.whiteouts = Whiteouts::kOci}).value();
  EXPECT_EQ(paths(tree), (Paths{"", "both", "d", "d/gone", "o", "o/new"}));
  EXPECT_EQ(find(tree, "d/gone")->kind, EntryKind::kWhiteout);
  EXPECT_EQ(find(tree, "both")->kind, EntryKind::kFile);
  EXPECT_TRUE(find(tree, "o")->opaque);
  EXPECT_EQ(find(tree, "o")->mode, 0700U);
  EXPECT_NE(find(unpack(layer).value(), "d/.wh.gone"), nullptr);
}

TEST_F(ImportTest, RefusesArchivesThatReachOutside) {
  EXPECT_EQ(unpack({{.name = "../x", .content = "x"}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(unpack({{.name = "a/../../x", .content = "x"}}).error().code, Code::kInvalidArgument);
  // Below a link: there is no directory of that name in the tree.
  EXPECT_EQ(unpack({{.name = "l", .type = S_IFLNK, .content = "/etc"}, {.name = "l/x", .content = "x"}}).error().code,
            Code::kInvalidArgument);
  EXPECT_EQ(unpack({{.name = "h", .content = "../../etc/passwd", .hard_link = true}}).error().code,
            Code::kInvalidArgument);
}

TEST_F(ImportTest, BoundsWhatAnArchiveUnpacksTo) {
  const std::string path = archive_of({{.name = "zeros", .content = std::string(5 << 20, '\0')}}, true);
  ASSERT_LT(fs::file_size(path), 100'000U);
  const OwnedFd fd = open_file(AT_FDCWD, path, O_RDONLY).value();
  EXPECT_EQ(import_archive(*store_, fd.get(), {.bytes_max = 1 << 20}).error().code, Code::kOutOfRange);
  EXPECT_EQ(unpack({{.name = "a"}, {.name = "b"}}, {.entries_max = 1}).error().code, Code::kOutOfRange);
}

TEST_F(ImportTest, RefusesAnArchiveThatIsCutShort) {
  const std::string path = archive_of({{.name = "f", .content = std::string(100'000, 'f')}});
  fs::resize_file(path, 50'000);
  const OwnedFd fd = open_file(AT_FDCWD, path, O_RDONLY).value();
  EXPECT_EQ(import_archive(*store_, fd.get(), {}).error().code, Code::kDataLoss);
  std::ofstream(path, std::ios::trunc) << "this is no archive";
  const OwnedFd other = open_file(AT_FDCWD, path, O_RDONLY).value();
  EXPECT_EQ(import_archive(*store_, other.get(), {}).error().code, Code::kDataLoss);
}

TEST_F(ImportTest, SaysWhichObjectOfAnExportIsDamaged) {
  std::ofstream(in("f")) << "content";
  const Tree tree = import_directory(*store_, directory_ + "/in", {}).value();
  const std::string object = store_->directory() + "/" + ObjectStore::name_of(sha256("content"));
  fs::permissions(object, fs::perms::owner_all);
  std::ofstream(object, std::ios::trunc) << "CONTENT";
  const auto failed = export_tree(*store_, tree, directory_ + "/out");
  EXPECT_EQ(failed.error().code, Code::kDataLoss);
  EXPECT_NE(failed.error().message.find("'f'"), std::string::npos);
}

}  // namespace
}  // namespace proa::cas
