// SPDX-License-Identifier: Apache-2.0
#include "control/secrets.h"

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class SecretsTest : public testing::Test {
 protected:
  SecretsTest() { start(); }
  void start() {
    secrets.reset();
    world.reopen();
    secrets = std::make_unique<Secrets>(world.loop, world.random, *world.ledger, world.key, Secrets::Config{});
    ASSERT_TRUE(secrets->load(*world.store).ok());
    world.settle();
  }
  Result<SecretId> get(Creation creation, std::map<std::string, std::string> values,
                       std::vector<std::string> required = {}) {
    return secrets->get_or_create({.environment = environment,
                                   .creation = creation,
                                   .name = "s",
                                   .app = app,
                                   .values = std::move(values),
                                   .required_keys = std::move(required)});
  }
  World world;
  EnvironmentId environment{IdBits{1, 1}};
  AppId app{IdBits{2, 2}};
  std::unique_ptr<Secrets> secrets;
};

TEST_F(SecretsTest, AreThereAfterARestartAndOpenOnlyToTheirUse) {
  const SecretId id = get(Creation::kCreateIfMissing, {{"B", "2"}, {"A", "password-1"}}).value();
  EXPECT_EQ(secrets->find(id)->keys, (std::vector<std::string>{"A", "B"}));
  start();
  EXPECT_EQ(get(Creation::kLookup, {}).value(), id);
  EXPECT_EQ(secrets->find(id)->used, Time());
  EXPECT_EQ(secrets->use(id).value(), (std::map<std::string, std::string>{{"A", "password-1"}, {"B", "2"}}));
  EXPECT_EQ(secrets->find(id)->used, world.loop.now());
}

TEST_F(SecretsTest, TheDiskDoesNotHoldTheirValues) {
  (void)get(Creation::kCreateIfMissing, {{"A", "password-1"}});
  (void)get(Creation::kAnonymous, {{"A", "password-2"}});
  world.settle();
  for (const auto& table : world.disk.tables) {
    for (const auto& [key, value] : table) EXPECT_EQ(value.find("password"), Bytes::npos);
  }
}

TEST_F(SecretsTest, AnotherKeyIsNoticedAtTheStart) {
  Secrets other(world.loop, world.random, *world.ledger, Bytes(kSealKeyBytes, 'x'), {});
  EXPECT_EQ(other.load(*world.store).error().code, Code::kFailedPrecondition);
}

TEST_F(SecretsTest, CreationMeansWhatItSays) {
  EXPECT_EQ(get(Creation::kLookup, {}).error(), not_found("Secret 's' not found"));
  const SecretId id = get(Creation::kFailIfExists, {{"A", "1"}}).value();
  EXPECT_EQ(get(Creation::kFailIfExists, {{"A", "2"}}).error().code, Code::kAlreadyExists);
  EXPECT_EQ(get(Creation::kCreateIfMissing, {{"A", "2"}}).value(), id);
  EXPECT_EQ(secrets->use(id).value().at("A"), "1");
  EXPECT_EQ(get(Creation::kOverwrite, {{"C", "3"}}).value(), id);
  EXPECT_EQ(secrets->find(id)->keys, std::vector<std::string>{"C"});
  ASSERT_TRUE(secrets->remove(id).ok());
  EXPECT_EQ(get(Creation::kLookup, {}).error().code, Code::kNotFound);
}

TEST_F(SecretsTest, SaysWhichRequiredKeysAreMissing) {
  ASSERT_TRUE(get(Creation::kCreateIfMissing, {{"A", "1"}}).ok());
  EXPECT_EQ(get(Creation::kLookup, {}, {"missing-key", "A", "b"}).error().message,
            "Secret is missing key(s): missing-key, b");
}

TEST_F(SecretsTest, TheSameValuesOfOneAppAreOneSecret) {
  const SecretId id = get(Creation::kAnonymous, {{"A", "1"}}).value();
  EXPECT_EQ(get(Creation::kAnonymous, {{"A", "1"}}).value(), id);
  EXPECT_NE(get(Creation::kAnonymous, {{"A", "2"}}).value(), id);
  start();
  EXPECT_EQ(get(Creation::kAnonymous, {{"A", "1"}}).value(), id);
  secrets->app_forgotten(app);
  EXPECT_EQ(secrets->find(id), nullptr);
}

TEST_F(SecretsTest, RefusesWhatNoEnvironmentCanHold) {
  EXPECT_EQ(get(Creation::kAnonymous, {{"1A", "x"}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get(Creation::kAnonymous, {{"A=B", "x"}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get(Creation::kAnonymous, {{"", "x"}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get(Creation::kAnonymous, {{"A", std::string("x\0y", 3)}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(get(Creation::kAnonymous, {{"A", std::string(70'000, 'x')}}).error().code, Code::kResourceExhausted);
}

TEST_F(SecretsTest, ListsArePagedByTimesThatDiffer) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(
        secrets
            ->get_or_create(
                {.environment = environment, .creation = Creation::kCreateIfMissing, .name = "n" + std::to_string(i)})
            .ok());
  }
  std::vector<std::string> names;
  Time before = kNever;
  while (true) {
    const auto page = secrets->list(environment, before, 2);
    if (page.empty()) break;
    for (const Secret* secret : page) names.push_back(secret->name);
    before = page.back()->created;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"n4", "n3", "n2", "n1", "n0"}));
}

TEST_F(SecretsTest, ChangesSingleKeys) {
  const SecretId id = get(Creation::kCreateIfMissing, {{"A", "1"}, {"B", "2"}}).value();
  ASSERT_TRUE(secrets->update(id, {{"B", std::nullopt}, {"C", "3"}}).ok());
  EXPECT_EQ(secrets->use(id).value(), (std::map<std::string, std::string>{{"A", "1"}, {"C", "3"}}));
}

TEST_F(SecretsTest, EphemeralOnesGoWhenNobodyUsesThem) {
  const SecretId id = get(Creation::kEphemeral, {{"A", "1"}}).value();
  world.loop.run_for(std::chrono::hours(24 * 6));
  ASSERT_TRUE(secrets->use(id).ok());
  world.loop.run_for(std::chrono::hours(24 * 6));
  EXPECT_NE(secrets->find(id), nullptr);
  world.loop.run_for(std::chrono::hours(24 * 2));
  EXPECT_EQ(secrets->find(id), nullptr);
}

}  // namespace
}  // namespace proa::control
