// SPDX-License-Identifier: Apache-2.0
#include "control/environments.h"

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class EnvironmentsTest : public testing::Test {
 protected:
  EnvironmentsTest() { start(); }
  void start() {
    environments.reset();
    world.reopen();
    environments = std::make_unique<Environments>(world.loop, world.random, *world.ledger, Environments::Config{});
    ASSERT_TRUE(environments->load(*world.store).ok());
    world.settle();
  }
  World world;
  std::unique_ptr<Environments> environments;
};

TEST_F(EnvironmentsTest, ThereIsADefaultOneFromTheFirstStart) {
  const EnvironmentId main = environments->resolve("").value();
  EXPECT_EQ(environments->name_of(main), "main");
  EXPECT_EQ(environments->builder_version(main), "2025.06");
  EXPECT_EQ(environments->resolve("main").value(), main);
  start();
  EXPECT_EQ(environments->resolve("").value(), main);
}

TEST_F(EnvironmentsTest, OneThatIsMadeIsThereAfterARestart) {
  const EnvironmentId dev = environments->create("dev").value();
  EXPECT_EQ(environments->create("dev").error().code, Code::kAlreadyExists);
  ASSERT_TRUE(
      environments->update("dev", {.name = "stage", .web_suffix = "st", .image_builder_version = "2024.10"}).ok());
  start();
  EXPECT_EQ(environments->resolve("stage").value(), dev);
  EXPECT_EQ(environments->resolve("dev").error().code, Code::kNotFound);
  EXPECT_EQ(environments->find(dev)->web_suffix, "st");
  EXPECT_EQ(environments->builder_version(dev), "2024.10");
}

TEST_F(EnvironmentsTest, RefusesNamesThatCannotBe) {
  for (const std::string& name : {std::string(), std::string("a.b"), std::string("-a"), std::string("a b"),
                                  std::string(65, 'a'), "en-" + std::string(22, '0'), "ap-" + std::string(22, '0')}) {
    EXPECT_EQ(environments->create(name).error().code, Code::kInvalidArgument) << name;
  }
}

TEST_F(EnvironmentsTest, TheDefaultOneIsNotDeletedAndOthersAreTellingListeners) {
  struct Heard final : EnvironmentListener {
    std::vector<EnvironmentId> removed;
    void environment_removed(EnvironmentId environment) override { removed.push_back(environment); }
  } heard;
  environments->listen(heard);
  const EnvironmentId dev = environments->create("dev").value();
  EXPECT_EQ(environments->remove("main").error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(environments->remove("dev").ok());
  EXPECT_EQ(heard.removed, std::vector{dev});
  EXPECT_EQ(environments->remove("dev").error().code, Code::kNotFound);
}

TEST_F(EnvironmentsTest, WebSuffixesDiffer) {
  ASSERT_TRUE(environments->create("a_b").ok());
  EXPECT_EQ(environments->find(environments->resolve("a_b").value())->web_suffix, "a-b");
  ASSERT_TRUE(environments->create("c").ok());
  EXPECT_EQ(environments->update("c", {.web_suffix = "a-b"}).error().code, Code::kAlreadyExists);
}

}  // namespace
}  // namespace proa::control
