// SPDX-License-Identifier: Apache-2.0
//
// proa-cas: puts directories and archives into an object store and gets trees out of it, for scripts and tests.
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <vector>

#include "cas/import.h"
#include "cas/object_store.h"

namespace proa::cas {
namespace {

int usage() {
  std::fprintf(stderr,
               "usage: proa-cas OBJECTS import PATH      put a directory or tar archive, print its tree\n"
               "       proa-cas OBJECTS list TREE         print what is in a tree\n"
               "       proa-cas OBJECTS export TREE DIR   write a tree to an empty directory\n"
               "       proa-cas OBJECTS verify            read all objects and name those that are damaged\n");
  return 2;
}

int complain(const Error& error) {
  std::fprintf(stderr, "proa-cas: %s\n", error.message.c_str());
  return 1;
}

Result<Tree> import_any(ObjectStore& store, const std::string& path) {
  struct stat about{};
  if (stat(path.c_str(), &about) != 0) return errno_error(errno, path);
  if (S_ISDIR(about.st_mode)) return import_directory(store, path, {});
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY));
  return import_archive(store, fd.get(), {});
}

int verify_all(const ObjectStore& store) {
  int damaged = 0;
  int seen = 0;
  const auto walked = store.for_each([&](const ObjectInfo& info) {
    ++seen;
    if (const auto good = store.verify(info.digest); !good.ok()) ++damaged, complain(good.error());
    return true;
  });
  if (!walked.ok()) return complain(walked.error());
  std::printf("%d objects, %d damaged\n", seen, damaged);
  return damaged == 0 ? 0 : 1;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2 || (arguments.size() < 3 && arguments[1] != "verify")) return usage();
  auto store = ObjectStore::open(arguments[0]);
  if (!store.ok()) return complain(store.error());
  const std::string& verb = arguments[1];
  if (verb == "import") {
    auto tree = import_any(**store, arguments[2]);
    if (!tree.ok()) return complain(tree.error());
    const auto digest = (*store)->put_tree(*tree);
    if (!digest.ok()) return complain(digest.error());
    std::printf("%s\n", digest->hex().c_str());
    return 0;
  }
  if (verb == "verify") return verify_all(**store);
  const auto digest = Digest::from_hex(arguments[2]);
  if (!digest.ok()) return complain(digest.error());
  const auto tree = (*store)->get_tree(*digest);
  if (!tree.ok()) return complain(tree.error());
  if (verb == "list") {
    for (const TreeEntry& entry : tree->entries) {
      std::printf("%04o %5u %5u %10llu /%s%s%s\n", entry.mode, entry.uid, entry.gid,
                  static_cast<unsigned long long>(entry.size_bytes), entry.path.c_str(),
                  entry.target.empty() ? "" : " -> ", entry.target.c_str());
    }
    return 0;
  }
  if (verb == "export" && arguments.size() == 4) {
    const auto done = export_tree(**store, *tree, arguments[3]);
    return done.ok() ? 0 : complain(done.error());
  }
  return usage();
}

}  // namespace
}  // namespace proa::cas

int main(int argc, char** argv) { return proa::cas::run({argv + 1, argv + argc}); }
