// SPDX-License-Identifier: Apache-2.0
#include "image/recipe.h"

#include <gtest/gtest.h>

#include "image/base_resolver.h"
#include "image/config.h"
#include "image/users.h"

namespace proa::image {
namespace {

Recipe sample() {
  Recipe recipe;
  recipe.parents["base"] = ImageId(IdBits{1, 2});
  recipe.dockerfile_commands = {"FROM base", "RUN echo hi"};
  recipe.context_files = {{"/b", "2"}, {"/a", "1"}};
  recipe.context = sha256("context");
  recipe.build_args = {{"V", "1"}};
  recipe.secret_keys = {"TOKEN", "KEY"};
  recipe.builder_version = "2025.06";
  return recipe;
}

TEST(RecipeKey, IsKnownForAKnownRecipe) {
  // Stored: a change here rebuilds everybody's images.
  EXPECT_EQ(recipe_key(Recipe{}).hex(), "b138b7f1abca7f2b66462c576f09754d2747d4b08cb84db69f95ec09f47d0b94");
  EXPECT_EQ(recipe_key(sample()).hex(), "d1f6eb5a3e27ecf52d6a8913fde06cfca1e8f7e04c7ffa6d8a52fbe79bf485e8");
}

TEST(RecipeKey, DoesNotDependOnTheOrderOfFilesAndSecrets) {
  Recipe other = sample();
  std::swap(other.context_files[0], other.context_files[1]);
  other.secret_keys = {"KEY", "TOKEN", "KEY"};
  EXPECT_EQ(recipe_key(sample()), recipe_key(other));
}

TEST(RecipeKey, DependsOnAllThatChangesTheImage) {
  std::vector<Recipe> recipes{sample()};
  const auto vary = [&](auto change) {
    Recipe recipe = sample();
    change(recipe);
    recipes.push_back(recipe);
  };
  vary([](Recipe& r) { r.parents["base"] = ImageId(IdBits{1, 3}); });
  vary([](Recipe& r) { r.dockerfile_commands[1] += " "; });
  vary([](Recipe& r) { r.dockerfile_commands = {"FROM base\nRUN echo hi"}; });
  vary([](Recipe& r) { r.context_files[0].data = "3"; });
  vary([](Recipe& r) { r.context = sha256("other"); });
  vary([](Recipe& r) { r.build_args["V"] = "2"; });
  vary([](Recipe& r) { r.secret_keys.pop_back(); });
  vary([](Recipe& r) { r.registry_auth = RegistryAuth::kAws; });
  vary([](Recipe& r) { r.gpu_type = "T4"; });
  vary([](Recipe& r) { r.volumes["/v"] = VolumeId(IdBits{1, 1}); });
  vary([](Recipe& r) { r.build_function.push_back({"d", "g", "i"}); });
  vary([](Recipe& r) { r.builder_version = "2026.10"; });
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(recipe_key(recipes[i]), recipe_key(recipes[j])) << i << " " << j;
  }
}

TEST(Records, ComeBackAsTheyWere) {
  ImageRecord record;
  record.tree = sha256("tree");
  record.config.env = {"A=1", "EMPTY="};
  record.config.cmd = {"sleep", ""};
  record.config.labels = {{"k", "v"}};
  record.runtime.python_tag = "cp311";
  record.runtime.libc = Libc::kMusl;
  record.python_packages = {{"six", "1.16.0"}};
  record.created = from_micros(12);
  EXPECT_EQ(decode<ImageRecord>(encode(record)).value(), record);
  EXPECT_EQ(decode<Recipe>(encode(sample())).value(), sample());
}

TEST(Env, KeepsEachNameOnce) {
  std::vector<std::string> env{"A=1", "AB=2"};
  set_env(env, "A", "3");
  set_env(env, "C", "");
  EXPECT_EQ(env, (std::vector<std::string>{"A=3", "AB=2", "C="}));
  EXPECT_STREQ(find_env(env, "AB"), "2");
  EXPECT_EQ(find_env(env, "B"), nullptr);
}

TEST(Users, AreFoundByNameAndNumber) {
  const std::string passwd =
      "root:x:0:0:root:/root:/bin/sh\nmamba:x:57439:57440:,,,:/home/mamba:/bin/bash\nbad:x:99999999:0::/:\n";
  const std::string group = "root:x:0:\nstaff:x:50:a,b\n";
  EXPECT_EQ(find_account("", passwd, group).value(), (Account{0, 0, "/root"}));
  EXPECT_EQ(find_account("", "", "").value(), (Account{0, 0, "/root"}));
  EXPECT_EQ(find_account("mamba", passwd, group).value(), (Account{57439, 57440, "/home/mamba"}));
  EXPECT_EQ(find_account("57439", passwd, group).value(), (Account{57439, 57440, "/home/mamba"}));
  EXPECT_EQ(find_account("1000", passwd, group).value(), (Account{1000, 0, "/"}));
  EXPECT_EQ(find_account("1000:staff", passwd, group).value(), (Account{1000, 50, "/"}));
  EXPECT_EQ(find_account("mamba:7", passwd, group).value(), (Account{57439, 7, "/home/mamba"}));
  EXPECT_EQ(find_owner("1000", passwd, group).value(), (Account{1000, 1000, "/"}));
  EXPECT_EQ(find_owner("mamba", passwd, group).value(), (Account{57439, 57440, "/home/mamba"}));
  EXPECT_NE(find_account("nobody", passwd, group).error().message.find("no user 'nobody'"), std::string::npos);
  EXPECT_NE(find_account("root:none", passwd, group).error().message.find("no group 'none'"), std::string::npos);
  EXPECT_FALSE(find_account("70000", passwd, group).ok());
  EXPECT_FALSE(find_account("bad", passwd, group).ok());
}

TEST(References, AreBroughtToOneForm) {
  EXPECT_EQ(canonical_reference("python"), "python:latest");
  EXPECT_EQ(canonical_reference("docker.io/library/python:3.11"), "python:3.11");
  EXPECT_EQ(canonical_reference("ghcr.io/astral-sh/uv:latest"), "ghcr.io/astral-sh/uv:latest");
  EXPECT_EQ(canonical_reference("localhost:5000/a"), "localhost:5000/a:latest");
  EXPECT_EQ(canonical_reference("a/b:1@sha256:cd"), "a/b@sha256:cd");
}

}  // namespace
}  // namespace proa::image
