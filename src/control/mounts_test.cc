// SPDX-License-Identifier: Apache-2.0
#include "control/mounts.h"

#include <set>

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class FakeContent final : public ContentStore {
 public:
  std::map<Digest, Bytes> objects;
  std::map<BlobId, Bytes> blobs;
  std::map<Digest, cas::Tree> trees;

  Async<Result<std::vector<std::optional<std::uint64_t>>>> sizes(std::vector<Digest> wanted) override {
    std::vector<std::optional<std::uint64_t>> all;
    for (const Digest& digest : wanted) {
      const auto found = objects.find(digest);
      all.push_back(found == objects.end() ? std::nullopt : std::optional<std::uint64_t>(found->second.size()));
    }
    co_return all;
  }
  Async<Result<void>> put_bytes(Digest expected, Bytes bytes) override {
    if (sha256(bytes) != expected) co_return invalid_argument("other bytes");
    objects[expected] = std::move(bytes);
    co_return Result<void>();
  }
  Async<Result<std::uint64_t>> put_blob(Digest expected, BlobId blob) override {
    const auto found = blobs.find(blob);
    if (found == blobs.end()) co_return not_found("no blob");
    if (sha256(found->second) != expected) co_return invalid_argument("other bytes");
    objects[expected] = found->second;
    co_return std::uint64_t{found->second.size()};
  }
  Async<Result<Digest>> put_tree(cas::Tree tree) override {
    const Digest digest = cas::tree_digest(tree);
    trees[digest] = std::move(tree);
    co_return digest;
  }
};

class FakeGlobal final : public GlobalMounts {
 public:
  std::map<std::string, Digest> known;
  Async<Result<Digest>> find(std::string name) override {
    const auto found = known.find(name);
    if (found == known.end()) co_return not_found("no " + name);
    co_return found->second;
  }
};

class MountsTest : public testing::Test {
 protected:
  MountsTest() { start(); }
  void start() {
    mounts.reset();
    world.reopen();
    mounts = std::make_unique<Mounts>(world.loop, world.random, *world.ledger, content, global,
                                      WorkspaceId(IdBits{9, 9}), Mounts::Config{});
    ASSERT_TRUE(mounts->load(*world.store).ok());
  }
  Digest upload(const Bytes& bytes) {
    EXPECT_TRUE(world.run(mounts->put(sha256(bytes), bytes)).ok());
    return sha256(bytes);
  }
  Result<MountId> get(MountRequest request) { return world.run(mounts->get_or_create(std::move(request))); }

  World world;
  FakeContent content;
  FakeGlobal global;
  AppId app{IdBits{2, 2}};
  EnvironmentId environment{IdBits{1, 1}};
  std::unique_ptr<Mounts> mounts;
};

TEST_F(MountsTest, AWorkspaceSeesOnlyContentThatItUploaded) {
  content.objects[sha256("foreign")] = "foreign";
  const Digest own = upload("own");
  const std::vector<Digest> asked{own, sha256("foreign"), sha256("absent")};
  EXPECT_EQ(world.run(mounts->missing(asked)).value(), (std::vector{sha256("foreign"), sha256("absent")}));
  world.settle();
  start();
  EXPECT_EQ(world.run(mounts->missing({own})).value(), std::vector<Digest>());
  content.objects.erase(own);
  EXPECT_EQ(world.run(mounts->missing({own})).value(), std::vector{own});
}

TEST_F(MountsTest, ContentMustBeWhatItIsSaidToBe) {
  EXPECT_EQ(world.run(mounts->put(sha256("a"), "b")).error().code, Code::kInvalidArgument);
  EXPECT_FALSE(mounts->may_use(sha256("a")));
  const BlobId blob(IdBits{3, 3});
  content.blobs[blob] = "big";
  EXPECT_EQ(world.run(mounts->put_blob(sha256("other"), blob)).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(world.run(mounts->put_blob(sha256("big"), blob)).ok());
  EXPECT_TRUE(mounts->may_use(sha256("big")));
  content.blobs.erase(blob);
  EXPECT_TRUE(world.run(mounts->put_blob(sha256("big"), blob)).ok());
  EXPECT_EQ(world.run(mounts->put_blob(sha256("small"), blob)).error().code, Code::kNotFound);
}

TEST_F(MountsTest, MakesATreeOfItsFiles) {
  const Digest a = upload("aaa");
  const Digest empty = upload("");
  const MountId id = get({.app = app, .files = {{"/root/x/a.py", a, 0100755}, {"/root/empty", empty, 0}}}).value();
  const cas::Tree& tree = content.trees.at(mounts->find(id)->tree);
  const cas::TreeEntry* file = cas::find(tree, "root/x/a.py");
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->content, a);
  EXPECT_EQ(file->size_bytes, 3U);
  EXPECT_EQ(file->mode, 0755U);
  EXPECT_EQ(cas::find(tree, "root/empty")->content, Digest());
  EXPECT_EQ(cas::find(tree, "root/x")->kind, cas::EntryKind::kDirectory);
}

TEST_F(MountsTest, TheSameFilesAreTheSameMountInWhateverOrder) {
  const Digest a = upload("a");
  const Digest b = upload("b");
  const MountId id = get({.app = app, .files = {{"/a", a}, {"/b", b}}}).value();
  EXPECT_EQ(get({.app = app, .files = {{"/b", b}, {"/a", a}}}).value(), id);
  EXPECT_NE(get({.app = app, .files = {{"/b", a}, {"/a", b}}}).value(), id);
  const MountId other = get({.app = AppId(IdBits{5, 5}), .files = {{"/a", a}, {"/b", b}}}).value();
  EXPECT_NE(other, id);
  EXPECT_EQ(mounts->find(other)->checksum(), mounts->find(id)->checksum());
  world.settle();
  start();
  EXPECT_EQ(get({.app = app, .files = {{"/a", a}, {"/b", b}}}).value(), id);
  mounts->app_forgotten(app);
  EXPECT_EQ(mounts->find(id), nullptr);
  EXPECT_NE(mounts->find(other), nullptr);
}

TEST_F(MountsTest, RefusesFilesThatCannotBe) {
  const Digest a = upload("a");
  EXPECT_EQ(get({.app = app, .files = {{"a", a}}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get({.app = app, .files = {{"/../a", a}}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get({.app = app, .files = {{"/a", a}, {"/a/b", a}}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get({.app = app, .files = {{"/a", sha256("never uploaded")}}}).error().code, Code::kNotFound);
  EXPECT_TRUE(get({.app = app, .files = {}}).ok());
}

TEST_F(MountsTest, DeployedOnesAreFoundByName) {
  const Digest a = upload("a");
  MountRequest request{.creation = Creation::kLookup, .environment = environment, .name = "m", .files = {{"/a", a}}};
  EXPECT_EQ(get(request).error().code, Code::kNotFound);
  request.creation = Creation::kFailIfExists;
  const MountId id = get(request).value();
  EXPECT_EQ(get(request).error().code, Code::kAlreadyExists);
  request.creation = Creation::kCreateIfMissing;
  EXPECT_EQ(get(request).value(), id);
  world.settle();
  start();
  request.creation = Creation::kLookup;
  EXPECT_EQ(get(request).value(), id);
  mounts->environment_removed(environment);
  EXPECT_EQ(get(request).error().code, Code::kNotFound);
}

TEST_F(MountsTest, GlobalOnesComeWithTheServerAndKeepTheirIdWhileTheyAreTheSame) {
  const MountRequest request{.creation = Creation::kLookup, .global = true, .name = "client-1.0"};
  EXPECT_EQ(get(request).error().code, Code::kNotFound);
  global.known["client-1.0"] = sha256("tree");
  const MountId id = get(request).value();
  EXPECT_EQ(mounts->find(id)->tree, sha256("tree"));
  world.settle();
  start();
  EXPECT_EQ(get(request).value(), id);
  global.known["client-1.0"] = sha256("newer tree");
  EXPECT_NE(get(request).value(), id);
  EXPECT_NE(mounts->find(id), nullptr);
  EXPECT_EQ(get({.creation = Creation::kCreateIfMissing, .global = true, .name = "x"}).error().code,
            Code::kPermissionDenied);
}

}  // namespace
}  // namespace proa::control
