// SPDX-License-Identifier: Apache-2.0
//
// A disk that is really full: a small tmpfs in a mount namespace of this process. Needs root.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "cas/object_store.h"

namespace proa::cas {
namespace {

namespace fs = std::filesystem;

TEST(FullDisk, IsSaidAndLeavesOnlyWholeObjects) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small disk needs root";
  ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
  ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  std::string directory = (fs::temp_directory_path() / "proa-disk-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  ASSERT_EQ(::mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=4m"), 0);
  {
    const auto store = ObjectStore::open(directory + "/objects").value();
    std::vector<Digest> kept;
    Error refused;
    for (int i = 0; i < 100 && refused.message.empty(); ++i) {
      std::string bytes(100'000, 'x');
      bytes += std::to_string(i);
      auto put = store->put_bytes(bytes);
      if (put.ok()) {
        kept.push_back(*put);
      } else {
        refused = put.error();
      }
    }
    EXPECT_EQ(refused.code, Code::kResourceExhausted);
    EXPECT_TRUE(refused.message.starts_with("disk full: ")) << refused.message;
    EXPECT_GT(kept.size(), 10U);
    for (const Digest& digest : kept) EXPECT_TRUE(store->verify(digest).ok());
    EXPECT_TRUE(fs::is_empty(directory + "/objects/tmp"));

    {
      const std::string bytes(64'000, 'y');
      Batch batch(*store);
      Result<Digest> last = Digest{};
      for (int i = 0; i < 100 && last.ok(); ++i) last = batch.put_bytes(bytes + std::to_string(i));
      EXPECT_EQ(last.error().code, Code::kResourceExhausted);
    }
    EXPECT_TRUE(fs::is_empty(directory + "/objects/tmp"));

    // Room again, and it goes on.
    ASSERT_TRUE(store->remove(kept.front()).ok());
    EXPECT_TRUE(store->put_bytes(std::string(50'000, 'z')).ok());
  }
  ::umount2(directory.c_str(), MNT_DETACH);
  fs::remove(directory);
}

}  // namespace
}  // namespace proa::cas
