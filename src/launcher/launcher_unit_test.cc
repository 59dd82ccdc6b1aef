// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <linux/filter.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "launcher/cgroup.h"
#include "launcher/erofs.h"
#include "launcher/protocol.h"
#include "launcher/ranges.h"
#include "launcher/seccomp.h"

namespace proa::launcher {
namespace {

// --- Cgroups of version 2, on plain files -----------------------------------------------------------------

class CgroupsV2Test : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("proa-cgroups-" + std::to_string(getpid()));
    std::filesystem::create_directories(root_ + "/ours/s1");
    write("cgroup.controllers", "cpuset cpu io memory pids\n");
    // The kernel makes these with the directory.
    for (const char* file : {"cgroup.subtree_control", "ours/cgroup.subtree_control", "ours/s1/memory.max", "ours/s1/memory.swap.max", "ours/s1/memory.oom.group", "ours/s1/cpu.max",
                             "ours/s1/cpu.weight", "ours/s1/pids.max", "ours/s1/cgroup.procs", "ours/s1/cgroup.kill"}) {
      write(file, "");
    }
    cgroups_ = find_cgroups(root_, "ours");
    ASSERT_NE(cgroups_, nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& file, const std::string& text) const { std::ofstream(root_ + "/" + file) << text; }
  std::string read(const std::string& file) const {
    std::stringstream text;
    text << std::ifstream(root_ + "/" + file).rdbuf();
    return text.str();
  }

  std::string root_;
  std::unique_ptr<Cgroups> cgroups_;
};

TEST_F(CgroupsV2Test, TakesVersionTwoWhereItHasTheControllersAndHandsThemDown) {
  EXPECT_EQ(cgroups_->version(), 2);
  EXPECT_EQ(read("cgroup.subtree_control"), "+cpu +memory +pids");
  EXPECT_EQ(read("ours/cgroup.subtree_control"), "+cpu +memory +pids");
}

TEST_F(CgroupsV2Test, WritesLimitsInTheKernelsUnits) {
  ASSERT_TRUE(cgroups_->create("s1", {.cpu_milli_max = 1500, .cpu_milli_weight = 1000, .memory_bytes_max = 64 << 20, .pids_max = 77}).ok());
  EXPECT_EQ(read("ours/s1/memory.max"), "67108864");
  EXPECT_EQ(read("ours/s1/memory.swap.max"), "0");
  EXPECT_EQ(read("ours/s1/cpu.max"), "150000 100000");
  EXPECT_EQ(read("ours/s1/cpu.weight"), "39");  // As engines convert 1024 shares.
  EXPECT_EQ(read("ours/s1/pids.max"), "77");
  ASSERT_TRUE(cgroups_->add("s1", 4711).ok());
  EXPECT_EQ(read("ours/s1/cgroup.procs"), "4711");
}

TEST_F(CgroupsV2Test, LeavesAloneWhatHasNoLimit) {
  ASSERT_TRUE(cgroups_->create("s1", {}).ok());
  for (const char* file : {"memory.max", "cpu.max", "cpu.weight", "pids.max"}) EXPECT_EQ(read(std::string("ours/s1/") + file), "") << file;
}

TEST_F(CgroupsV2Test, ReadsAccountsAndTellsOfKills) {
  write("ours/s1/cpu.stat", "usage_usec 123456\nuser_usec 1\nsystem_usec 2\n");
  write("ours/s1/memory.current", "1000\n");
  write("ours/s1/memory.peak", "2000\n");
  write("ours/s1/memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\n");
  const CgroupUsage usage = cgroups_->usage("s1");
  EXPECT_EQ(usage.cpu_micros, 123'456);
  EXPECT_EQ(usage.memory_bytes, 1000);
  EXPECT_EQ(usage.memory_bytes_peak, 2000);
  EXPECT_EQ(usage.oom_kills, 3);
  cgroups_->kill_all("s1");
  EXPECT_EQ(read("ours/s1/cgroup.kill"), "1");
  EXPECT_EQ(cgroups_->list(), std::vector<std::string>{"s1"});
}

TEST(Cgroups, AreNoneWhereNeitherVersionHasControllers) {
  EXPECT_EQ(find_cgroups("/nowhere", "ours"), nullptr);
}

// --- Tasks ------------------------------------------------------------------------------------------------

StartRecord good_task() {
  StartRecord record;
  record.trees = {sha256("a tree")};
  record.argv = {"program"};
  record.working_directory = "/";
  return record;
}

TEST(StartRecord, ComesBackAsItWent) {
  StartRecord record = good_task();
  record.env = {"A=b", ""};
  record.files = {{"name", Bytes("\0\xff", 2)}};
  record.uid = 65'535;
  EXPECT_EQ(decode<StartRecord>(encode(record)).value(), record);
  EXPECT_TRUE(check_start(record).ok());
}

TEST(StartRecord, IsRefusedOutOfBounds) {
  const auto refused = [](auto change) {
    StartRecord record = good_task();
    change(record);
    const auto checked = check_start(record);
    return !checked.ok() && checked.error().code == Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](StartRecord& record) { record.trees.clear(); }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.trees.resize(kTreesMax + 1); }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.argv.resize(kStringsMax + 1, "x"); }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.argv = {Bytes("a\0b", 3)}; }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.env = {Bytes("a\0b", 3)}; }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.working_directory = "here"; }));
  EXPECT_TRUE(refused([](StartRecord& record) { record.gid = 65'536; }));
  for (const char* name : {"", ".", "..", "a/b", "/a", "api.sock", "hosts", "resolv.conf", "hostname"}) {
    EXPECT_TRUE(refused([&](StartRecord& record) { record.files[name] = ""; })) << name;
  }
}

// --- The filter -------------------------------------------------------------------------------------------

TEST(Seccomp, AllowsNothingThatReachesTheMachineOrRareCornersOfTheKernel) {
  for (const char* name : {"mount",        "umount2",     "pivot_root",    "unshare",      "setns",         "bpf",           "perf_event_open", "userfaultfd",
                           "keyctl",       "add_key",     "request_key",   "io_uring_setup", "io_uring_enter", "io_uring_register", "init_module", "finit_module",
                           "delete_module", "kexec_load", "kexec_file_load", "reboot",     "swapon",        "swapoff",       "iopl",            "ioperm",
                           "open_by_handle_at", "fanotify_init", "quotactl", "acct",       "settimeofday",  "clock_settime", "clock_adjtime",   "adjtimex",
                           "syslog",       "clone3",      "clone",         "socket",       "personality",   "fsopen",        "open_tree",       "move_mount",
                           "mount_setattr", "pidfd_getfd", "move_pages",   "kcmp",         "lookup_dcookie", "vhangup"}) {
    const auto allowed = allowed_calls();
    EXPECT_EQ(std::find(allowed.begin(), allowed.end(), name), allowed.end()) << name << " is allowed without condition";
  }
}

TEST(Seccomp, MakesAProgramThatTheKernelCanTake) {
  const Bytes filter = make_filter().value();
  EXPECT_EQ(filter.size() % sizeof(sock_filter), 0U);
  EXPECT_LE(filter.size() / sizeof(sock_filter), static_cast<std::size_t>(BPF_MAXINSNS));
  EXPECT_GT(filter.size() / sizeof(sock_filter), allowed_calls().size());
}

// --- Images -----------------------------------------------------------------------------------------------

template <class T>
T at(const Bytes& image, std::size_t offset) {
  T value;
  std::memcpy(&value, image.data() + offset, sizeof value);
  return value;
}

// Where the inode with number `nid` is: the metadata begins with the second block, in units of 32 bytes.
std::size_t inode_at(std::uint64_t nid) { return 4096 + nid * 32; }

// The inode that the directory has under `name`; 0 if none.
std::size_t look_up(const Bytes& image, std::size_t directory, std::string_view name) {
  const auto size = at<std::uint64_t>(image, directory + 8);
  const std::size_t blocks = std::size_t{at<std::uint32_t>(image, directory + 16)} * 4096;
  for (std::size_t begin = 0; begin < size; begin += 4096) {
    const std::size_t block = blocks + begin;
    const std::size_t end = std::min<std::size_t>(4096, size - begin);
    const std::size_t count = at<std::uint16_t>(image, block + 8) / 12;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t from = at<std::uint16_t>(image, block + i * 12 + 8);
      const std::size_t to = i + 1 < count ? at<std::uint16_t>(image, block + (i + 1) * 12 + 8) : end;
      std::string_view found(image.data() + block + from, to - from);
      found = found.substr(0, found.find('\0'));
      if (found == name) return inode_at(at<std::uint64_t>(image, block + i * 12));
    }
  }
  return 0;
}

TEST(Erofs, HoldsNamesSizesAndWhereTheBytesAre) {
  cas::TreeEntry file{.path = "directory/file", .kind = cas::EntryKind::kFile, .mode = 0640, .uid = 7, .gid = 9, .mtime_nanos = -1, .size_bytes = 5ULL << 40, .content = sha256("x")};
  const cas::TreeEntry link{.path = "link", .kind = cas::EntryKind::kSymlink, .mode = 0777, .target = "directory/file"};
  const Bytes image = write_erofs(cas::make_tree({file, link}).value()).value();
  ASSERT_EQ(at<std::uint32_t>(image, 1024), 0xE0F5E1E2U);
  const std::size_t root = inode_at(at<std::uint16_t>(image, 1024 + 14));
  const std::size_t directory = look_up(image, root, "directory");
  ASSERT_NE(directory, 0U);
  EXPECT_EQ(look_up(image, directory, "."), directory);
  EXPECT_EQ(look_up(image, directory, ".."), root);
  const std::size_t inode = look_up(image, directory, "file");
  ASSERT_NE(inode, 0U);
  EXPECT_EQ(at<std::uint16_t>(image, inode + 4), 0100640);
  EXPECT_EQ(at<std::uint64_t>(image, inode + 8), 5ULL << 40);
  EXPECT_EQ(at<std::uint32_t>(image, inode + 24), 7U);
  EXPECT_EQ(at<std::uint32_t>(image, inode + 28), 9U);
  EXPECT_EQ(at<std::int64_t>(image, inode + 32), -1);
  EXPECT_EQ(at<std::uint32_t>(image, inode + 40), 999'999'999U);
  const std::string hex = file.content.hex();
  const std::string redirect = "overlay.redirect/" + hex.substr(0, 2) + "/" + hex.substr(2);
  EXPECT_NE(image.find(redirect, inode), Bytes::npos);
  EXPECT_NE(image.find("overlay.metacopy", inode), Bytes::npos);
  EXPECT_NE(image.find("directory/file", look_up(image, root, "link")), Bytes::npos);
}

TEST(Erofs, FindsEachNameOfADirectoryOfManyBlocks) {
  std::vector<cas::TreeEntry> entries;
  for (int i = 0; i < 3000; ++i) entries.push_back({.path = "name-" + std::to_string(i) + std::string(static_cast<std::size_t>(i % 200), 'n'), .kind = cas::EntryKind::kFile});
  const Bytes image = write_erofs(cas::make_tree(entries).value()).value();
  const std::size_t root = inode_at(at<std::uint16_t>(image, 1024 + 14));
  for (const cas::TreeEntry& entry : entries) ASSERT_NE(look_up(image, root, entry.path), 0U) << entry.path;
}

TEST(Erofs, RefusesWhiteouts) {
  EXPECT_EQ(write_erofs(cas::make_tree({{.path = "gone", .kind = cas::EntryKind::kWhiteout}}).value()).error().code, Code::kInvalidArgument);
}

// --- Ranges -----------------------------------------------------------------------------------------------

TEST(Ranges, AreTakenOnceAndFreeAgainWithTheirOwner) {
  const std::string kind = "test-" + std::to_string(getpid());
  auto first = claim_range(kind, 2, 1);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->number, 1U);
  const auto second = claim_range(kind, 2, 1);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->number, 0U);
  EXPECT_EQ(claim_range(kind, 2, 1).error().code, Code::kResourceExhausted);
  first->claim.reset(-1);
  EXPECT_EQ(claim_range(kind, 2, 1)->number, 1U);
}

}  // namespace
}  // namespace proa::launcher
