// SPDX-License-Identifier: Apache-2.0
#include "app/seeds.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "control/rooms_testing.h"

namespace proa::app {
namespace {

namespace fs = std::filesystem;

const std::string kDependencies = "2025.06-cp312-manylinux_2_17-x86_64";

class StringLog final : public image::BuildLog {
 public:
  void write(image::LogStream, std::string_view part) override { text += part; }
  std::string text;
};

class SeedsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "proa-seeds-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    for (const char* each : {"cache/bases", "cache/mounts", "own/mounts", "tools"})
      fs::create_directories(directory + "/" + each);
    objects = cas::ObjectStore::open(directory + "/objects").value();
    seeds = std::make_unique<Seeds>(world.loop, pool, *objects, *world.ledger, world.log,
                                    SeedOptions{directory + "/cache", directory + "/own", directory + "/tools", "sh"});
  }
  void TearDown() override {
    world.settle();
    seeds.reset();
    fs::remove_all(directory);
  }
  void write(const std::string& path, const std::string& text) { std::ofstream(directory + "/" + path) << text; }
  // An archive with one file, and its description.
  void put_base(const std::string& name, const std::string& recipe, const std::string& content,
                const std::string& more) {
    write("content", content);
    const std::string archive = name + "-" + recipe + ".tar";
    ASSERT_EQ(
        std::system(("tar -C " + directory + " -cf " + directory + "/cache/bases/" + archive + " content").c_str()), 0);
    write("cache/bases/" + name + ".json",
          R"({"archive": ")" + archive + R"(", "recipe": ")" + recipe + R"(", )" + more + "}");
  }
  Digest resolve(const std::string& reference) {
    StringLog log;
    image::BaseRequest request;
    request.reference = reference;
    const auto base = world.run(seeds->resolve(std::move(request), log));
    EXPECT_TRUE(base.ok()) << base.error().message;
    return base.ok() ? base->tree : Digest();
  }
  std::string content_of(const Digest& tree) {
    const cas::Tree read = objects->get_tree(tree).value();
    return objects->read(cas::find(read, "content")->content, 100).value();
  }
  // The tool that makes what the client needs: it counts its runs.
  void put_tool(const std::string& last) {
    write("tools/client_deps.py", "echo run >> " + directory + "/runs\n" + last);
  }
  std::size_t runs() const {
    std::ifstream file(directory + "/runs");
    std::string line;
    std::size_t count = 0;
    while (std::getline(file, line)) ++count;
    return count;
  }

  Async<int> wait_for(Duration time) {
    co_await sleep_for(world.loop, time);
    co_return 0;
  }
  Async<> build(image::BuildLog& log, std::vector<Result<Digest>>& made) {
    made.push_back(co_await seeds->make_ready(kDependencies, log));
  }

  control::World world;
  InlinePool pool;
  std::string directory;
  std::unique_ptr<cas::ObjectStore> objects;
  std::unique_ptr<Seeds> seeds;
};

TEST_F(SeedsTest, ABaseThatWasMadeAnewIsFoundAtTheNextLookup) {
  put_base("b", "r1", "one", R"("aliases": ["python:3.12-slim"])");
  EXPECT_EQ(content_of(resolve("python:3.12-slim")), "one");
  put_base("b", "r2", "two", R"("aliases": ["python:3.12-slim"])");
  EXPECT_EQ(content_of(resolve("docker.io/library/python:3.12-slim")), "two");
}

TEST_F(SeedsTest, AnAddedBaseGoesFirstAndAnExactNameBeforeAPattern) {
  put_base("a", "r", "ours",
           R"("aliases": ["python:3.12-slim"], "alias_patterns": ["python:3.12.*-slim"], "extra_commands": ["RUN x"])");
  put_base("b", "r", "added", R"("aliases": ["python:3.12-slim"], "added": true)");
  put_base("c", "r", "exact", R"("aliases": ["python:3.12.9-slim"])");
  EXPECT_EQ(content_of(resolve("python:3.12-slim")), "added");
  EXPECT_EQ(content_of(resolve("python:3.12.4-slim")), "ours");
  EXPECT_EQ(content_of(resolve("python:3.12.9-slim")), "exact");
}

TEST_F(SeedsTest, ADamagedDescriptionIsPassedOver) {
  put_base("a", "r", "good", R"("aliases": ["x:1"], "config": {"env": {"A": 1}, "workdir": 7}, "added": "yes")");
  write("cache/bases/b.json", R"({"archive": 5})");
  write("cache/bases/c.json", "{");
  EXPECT_EQ(content_of(resolve("x:1")), "good");
}

TEST_F(SeedsTest, WhatTheClientNeedsIsMadeForABuildAndOnlyFoundForAContainer) {
  put_tool(
      "echo content > $PROA_CACHE/content\ntar -C $PROA_CACHE -cf $PROA_CACHE/mounts/x.tar content\n"
      "echo '{\"archive\": \"x.tar\", \"recipe\": \"r\"}' > $PROA_CACHE/mounts/$2-cp312-$6.json\n");
  StringLog log;
  // Two builds end at once: one maker.
  std::vector<Result<Digest>> made;
  Scope scope;
  scope.spawn(build(log, made));
  scope.spawn(build(log, made));
  while (made.size() < 2 && world.loop.step()) {
  }
  ASSERT_EQ(made.size(), 2U);
  ASSERT_TRUE(made[0].ok()) << made[0].error().message;
  EXPECT_EQ(*made[0], *made[1]);
  EXPECT_EQ(runs(), 1U);
  EXPECT_NE(log.text.find(kDependencies), std::string::npos);
  EXPECT_EQ(world.run(seeds->find(kDependencies)).value(), *made[0]);
  EXPECT_EQ(runs(), 1U);
}

TEST_F(SeedsTest, AContainerDoesNotWaitWhileItIsMadeAndAFailureHoldsForAMinute) {
  put_tool("echo no wheels for it >&2\nexit 1\n");
  EXPECT_EQ(world.run(seeds->find(kDependencies)).error().code, Code::kUnavailable);
  while (world.run(seeds->find(kDependencies)).error().code == Code::kUnavailable && world.loop.step()) {
  }
  const auto failed = world.run(seeds->find(kDependencies));
  EXPECT_EQ(failed.error().code, Code::kFailedPrecondition);
  EXPECT_NE(failed.error().message.find("no wheels for it"), std::string::npos) << failed.error().message;
  StringLog log;
  EXPECT_FALSE(world.run(seeds->make_ready(kDependencies, log)).ok());
  EXPECT_EQ(runs(), 1U);
  world.run(wait_for(std::chrono::seconds(61)));
  EXPECT_FALSE(world.run(seeds->make_ready(kDependencies, log)).ok());
  EXPECT_EQ(runs(), 2U);
}

}  // namespace
}  // namespace proa::app
