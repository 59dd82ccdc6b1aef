// SPDX-License-Identifier: Apache-2.0
#include "control/images.h"

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class FakeBuilder final : public ImageBuilder {
 public:
  explicit FakeBuilder(Loop& loop) : loop_(loop) {}
  int builds = 0;
  std::optional<Error> fails;

  Async<Result<image::ImageRecord>> build(Image image, BuildLines& lines) override {
    ++builds;
    lines.line(LogStream::kStdout, "Step 1\n");
    co_await sleep_for(loop_, std::chrono::seconds(10));
    lines.line(LogStream::kStdout, "Step 2\n");
    if (fails) co_return *fails;
    image::ImageRecord record;
    record.tree = sha256(image.recipe.builder_version);
    co_return record;
  }

 private:
  Loop& loop_;
};

class ImagesTest : public testing::Test {
 protected:
  ImagesTest() { start(); }
  void start() {
    images.reset();
    world.reopen();
    images = std::make_unique<Images>(world.loop, world.random, *world.ledger, builder, world.log, config);
    ASSERT_TRUE(images->load(*world.store).ok());
  }
  ImageId get(const std::string& what, bool force = false) {
    image::Recipe recipe;
    recipe.builder_version = what;
    return images->get_or_build({.key = sha256(what), .recipe = recipe, .force = force}).value();
  }
  BuildPage follow(ImageId image, std::uint64_t after) {
    return world.run(images->follow(image, after, world.loop.now() + std::chrono::seconds(55))).value();
  }
  void finish(ImageId image) {
    std::uint64_t position = 0;
    for (BuildPage page; !page.ended; position = page.position) page = follow(image, position);
  }

  World world;
  FakeBuilder builder{world.loop};
  Images::Config config;
  std::unique_ptr<Images> images;
};

TEST_F(ImagesTest, TheSameRecipeIsBuiltOnceAndIsOneImage) {
  const ImageId id = get("a");
  EXPECT_EQ(get("a"), id);
  EXPECT_NE(get("b"), id);
  EXPECT_EQ(images->record(id).error().code, Code::kFailedPrecondition);
  finish(id);
  EXPECT_EQ(images->record(id).value().tree, sha256("a"));
  EXPECT_EQ(get("a"), id);
  EXPECT_EQ(builder.builds, 2);
  world.settle();
  start();
  EXPECT_EQ(get("a"), id);
  EXPECT_EQ(images->record(id).value().tree, sha256("a"));
  EXPECT_EQ(builder.builds, 2);
}

TEST_F(ImagesTest, LinesComeAsTheyArePrintedAndTheEndWithTheLast) {
  const ImageId id = get("a");
  const BuildPage first = follow(id, 0);
  ASSERT_EQ(first.lines.size(), 1U);
  EXPECT_EQ(first.lines[0].text, "Step 1\n");
  EXPECT_FALSE(first.ended);
  const BuildPage second = follow(id, first.position);
  ASSERT_EQ(second.lines.size(), 1U);
  EXPECT_EQ(second.lines[0].text, "Step 2\n");
  const BuildPage third = second.ended ? second : follow(id, second.position);
  EXPECT_TRUE(third.ended);
  EXPECT_EQ(follow(id, 0).lines.size(), 2U);  // For those who come late.
}

TEST_F(ImagesTest, AFailedBuildSaysWhyAndIsTriedAgainWhenAskedFor) {
  builder.fails = failed_precondition("pip failed");
  const ImageId id = get("a");
  finish(id);
  EXPECT_NE(images->record(id).error().message.find("pip failed"), std::string::npos);
  EXPECT_EQ(images->find(id)->error_code, Code::kFailedPrecondition);
  builder.fails.reset();
  EXPECT_EQ(get("a"), id);
  finish(id);
  EXPECT_TRUE(images->record(id).ok());
}

TEST_F(ImagesTest, AnInterruptedBuildBeginsAnewWhenSomebodyAsks) {
  const ImageId id = get("a");
  const std::uint64_t position = follow(id, 0).position;
  world.settle();
  start();
  EXPECT_EQ(builder.builds, 1);
  const BuildPage page = follow(id, position);
  EXPECT_EQ(builder.builds, 2);
  ASSERT_EQ(page.lines.size(), 1U);
  EXPECT_GT(page.position, position);
  finish(id);
  EXPECT_TRUE(images->record(id).ok());
}

TEST_F(ImagesTest, ForceBuildsAnotherImageAndKeepsTheOld) {
  const ImageId old = get("a");
  finish(old);
  const ImageId forced = get("a", true);
  EXPECT_NE(forced, old);
  finish(forced);
  EXPECT_TRUE(images->record(old).ok());
  EXPECT_EQ(get("a"), forced);
  world.settle();
  start();
  EXPECT_EQ(get("a"), forced);
}

TEST_F(ImagesTest, BuildsAtOnceAreBounded) {
  config.builds_max = 1;
  start();
  const ImageId id = get("a");
  EXPECT_EQ(images->get_or_build({.key = sha256("b")}).error().code, Code::kResourceExhausted);
  EXPECT_EQ(get("a"), id);
  finish(id);
  EXPECT_TRUE(images->get_or_build({.key = sha256("b")}).ok());
}

TEST_F(ImagesTest, StepsAreRemembered) {
  images->remember_step(sha256("step"), sha256("tree"));
  world.settle();
  start();
  EXPECT_EQ(images->find_step(sha256("step")), sha256("tree"));
  EXPECT_EQ(images->find_step(sha256("other")), std::nullopt);
}

TEST_F(ImagesTest, RemovesAndAdds) {
  image::ImageRecord record;
  record.tree = sha256("t");
  const ImageId id = images->add(record);
  EXPECT_EQ(images->record(id).value(), record);
  ASSERT_TRUE(images->remove(id).ok());
  EXPECT_EQ(images->record(id).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace proa::control
