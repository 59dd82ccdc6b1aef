// SPDX-License-Identifier: Apache-2.0
#include "container/layer_stream.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "launcher/export.h"

namespace proa::container {
namespace {

using cas::EntryKind;
using launcher::LayerRecord;

class LayerStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() / ("proa-layer-" + std::to_string(getpid()));
    store_ = cas::ObjectStore::open(directory_).value();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  static Bytes framed(const LayerRecord& record, BytesView content = {}) {
    const Bytes bytes = encode(record);
    const auto size = static_cast<std::uint32_t>(bytes.size());
    Bytes out(reinterpret_cast<const char*>(&size), sizeof size);
    return out + bytes + Bytes(content);
  }
  static LayerRecord of(std::string path, EntryKind kind) {
    LayerRecord record;
    record.path = std::move(path);
    record.kind = static_cast<std::uint8_t>(kind);
    record.mode = 0755;
    return record;
  }
  static Bytes root() { return framed(of("", EntryKind::kDirectory)); }
  static Bytes end(const std::string& error = "") {
    LayerRecord record;
    record.end = true;
    record.error = error;
    return framed(record);
  }
  Result<cas::Tree> read(const Bytes& stream, const cas::Tree& lower = cas::make_tree({}).value(), const LayerLimits& limits = {}) {
    const OwnedFd fd(memfd_create("stream", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), stream.data(), stream.size()), static_cast<ssize_t>(stream.size()));
    lseek(fd.get(), 0, SEEK_SET);
    return read_layer(fd.get(), lower, *store_, limits);
  }
  cas::TreeEntry file(std::string path, const std::string& text) {
    return {.path = std::move(path), .kind = EntryKind::kFile, .mode = 0644, .size_bytes = text.size(), .content = store_->put_bytes(text).value()};
  }

  std::string directory_;
  std::unique_ptr<cas::ObjectStore> store_;
};

TEST_F(LayerStreamTest, KeepsFilesLinksAndWhatIsGone) {
  LayerRecord written = of("d/file", EntryKind::kFile);
  written.size_bytes = 5;
  LayerRecord link = of("d/link", EntryKind::kSymlink);
  link.target = "file";
  LayerRecord gone = of("d/gone", EntryKind::kWhiteout);
  gone.mode = 0;
  const auto layer = read(root() + framed(of("d", EntryKind::kDirectory)) + framed(written, "hello") + framed(gone) + framed(link) + end());
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(store_->read(cas::find(*layer, "d/file")->content, 100).value(), "hello");
  EXPECT_EQ(cas::find(*layer, "d/link")->target, "file");
  EXPECT_EQ(cas::find(*layer, "d/gone")->kind, EntryKind::kWhiteout);
}

TEST_F(LayerStreamTest, TakesTheContentOfWhatOnlyChangedItsModeFromBelow) {
  const cas::Tree lower = cas::make_tree({file("a", "content")}).value();
  LayerRecord changed = of("b", EntryKind::kFile);
  changed.mode = 0600;
  changed.unchanged_content = true;
  changed.origin = "/a";
  const auto layer = read(root() + framed(changed) + end(), lower);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(cas::find(*layer, "b")->content, cas::find(lower, "a")->content);
  EXPECT_EQ(cas::find(*layer, "b")->mode, 0600U);
  changed.origin = "/nowhere";
  EXPECT_EQ(read(root() + framed(changed) + end(), lower).error().code, Code::kDataLoss);
}

TEST_F(LayerStreamTest, ChangesBelowAMovedDirectoryTakeEffect) {
  const cas::Tree lower = cas::make_tree({file("old/stays", "1"), file("old/gone/x", "2"), file("old/new-again/x", "3"), file("old/becomes-file/x", "4")}).value();
  LayerRecord moved = of("moved", EntryKind::kDirectory);
  moved.unchanged_content = true;
  moved.origin = "/old";
  LayerRecord gone = of("moved/gone", EntryKind::kWhiteout);
  gone.mode = 0;
  LayerRecord again = of("moved/new-again", EntryKind::kDirectory);
  again.opaque = true;
  const auto layer = read(root() + framed(moved) + framed(of("moved/becomes-file", EntryKind::kFile)) + framed(gone) + framed(again) + end(), lower);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_NE(cas::find(*layer, "moved/stays"), nullptr);
  EXPECT_EQ(cas::find(*layer, "moved/gone/x"), nullptr);
  EXPECT_EQ(cas::find(*layer, "moved/new-again/x"), nullptr);
  EXPECT_EQ(cas::find(*layer, "moved/becomes-file")->kind, EntryKind::kFile);
}

TEST_F(LayerStreamTest, SaysThatItIsCutShortWhereverItIs) {
  LayerRecord written = of("file", EntryKind::kFile);
  written.size_bytes = 5;
  const Bytes whole = root() + framed(written, "hello") + end();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto layer = read(whole.substr(0, size));
    ASSERT_FALSE(layer.ok()) << size;
    EXPECT_EQ(layer.error().code, Code::kDataLoss);
  }
}

TEST_F(LayerStreamTest, RefusesWhatIsNoLayer) {
  EXPECT_FALSE(read(root() + framed(of("../up", EntryKind::kFile)) + end()).ok());
  EXPECT_FALSE(read(root() + framed(of("/absolute", EntryKind::kFile)) + end()).ok());
  EXPECT_FALSE(read(root() + framed(of("kind", static_cast<EntryKind>(77))) + end()).ok());
  EXPECT_FALSE(read(root() + framed(of("file", EntryKind::kFile)) + framed(of("file/below", EntryKind::kFile)) + end()).ok());
  EXPECT_FALSE(read(Bytes("\xff\xff\xff\xff", 4) + Bytes(100, 'x')).ok());
  EXPECT_NE(read(root() + end("the disk has a bad sector")).error().message.find("bad sector"), std::string::npos);
}

TEST_F(LayerStreamTest, HoldsItsLimits) {
  LayerRecord large = of("large", EntryKind::kFile);
  large.size_bytes = 1ULL << 50;
  EXPECT_EQ(read(root() + framed(large) + end()).error().code, Code::kResourceExhausted);
  EXPECT_EQ(read(root() + framed(of("a", EntryKind::kFile)) + framed(of("b", EntryKind::kFile)) + end(), cas::make_tree({}).value(), {.entries_max = 2}).error().code,
            Code::kResourceExhausted);
}

}  // namespace
}  // namespace proa::container
