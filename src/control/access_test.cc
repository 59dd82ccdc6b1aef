// SPDX-License-Identifier: Apache-2.0
#include "control/access.h"

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class AccessTest : public testing::Test {
 protected:
  AccessTest() { start(); }
  void start() {
    access.reset();
    world.reopen();
    access = std::make_unique<Access>(world.loop, world.random, *world.ledger, world.log, world.key, Access::Config{});
    ASSERT_TRUE(access->load(*world.store).ok());
    world.settle();
  }
  World world;
  std::unique_ptr<Access> access;
};

TEST_F(AccessTest, ATokenIsAcceptedWithItsSecretOnly) {
  EXPECT_FALSE(access->has_tokens());
  const Credentials token = access->create_token("first", "owner", {}).value();
  EXPECT_EQ(token.secret.size(), 35U);
  const Identity identity = access->authenticate(token.id.text(), token.secret).value();
  EXPECT_EQ(identity.token, token.id);
  EXPECT_EQ(identity.workspace, access->workspace().id);
  EXPECT_EQ(access->authenticate(token.id.text(), token.secret + "x").error().code, Code::kUnauthenticated);
  EXPECT_EQ(access->authenticate("ak-0000000000000000000001", token.secret).error().code, Code::kUnauthenticated);
  EXPECT_EQ(access->authenticate("", "").error().code, Code::kUnauthenticated);
}

TEST_F(AccessTest, TokensAndTheWorkspaceOutliveTheProcessAndSecretsAreNotOnTheDisk) {
  const Credentials token = access->create_token("first", "owner", {}).value();
  const WorkspaceId workspace = access->workspace().id;
  start();
  EXPECT_TRUE(access->has_tokens());
  EXPECT_EQ(access->workspace().id, workspace);
  EXPECT_TRUE(access->authenticate(token.id.text(), token.secret).ok());
  for (const auto& table : world.disk.tables) {
    for (const auto& [key, value] : table) EXPECT_EQ(value.find(token.secret.substr(3)), Bytes::npos);
  }
}

TEST_F(AccessTest, ATokenEndsWhenItWasToEndOrIsDeletedOrDisabled) {
  const Credentials brief = access->create_token("brief", "owner", std::chrono::hours(1)).value();
  world.loop.run_for(std::chrono::hours(1));
  EXPECT_FALSE(access->authenticate(brief.id.text(), brief.secret).ok());
  const Credentials token = access->create_token("other", "owner", {}).value();
  ASSERT_TRUE(access->set_disabled(token.id, true).ok());
  EXPECT_FALSE(access->authenticate(token.id.text(), token.secret).ok());
  ASSERT_TRUE(access->set_disabled(token.id, false).ok());
  EXPECT_TRUE(access->authenticate(token.id.text(), token.secret).ok());
  ASSERT_TRUE(access->remove_token(token.id).ok());
  EXPECT_FALSE(access->authenticate(token.id.text(), token.secret).ok());
  EXPECT_EQ(access->remove_token(token.id).error().code, Code::kNotFound);
}

TEST_F(AccessTest, ALoginWaitsUntilSomebodyWithATokenApprovesIt) {
  const Credentials token = access->create_token("first", "owner", {}).value();
  const Login login = access->begin_login({}).value();
  const auto soon = [&] { return world.loop.now() + std::chrono::seconds(40); };
  EXPECT_FALSE(world.run(access->wait_login(login.id, login.wait_secret, soon())).value().has_value());
  EXPECT_EQ(world.run(access->wait_login(login.id, "other", soon())).error().code, Code::kNotFound);
  EXPECT_EQ(access->login_code_shown(login.id), login.code);
  EXPECT_EQ(access->approve_login(login.id, token.id.text(), "as-wrong").error().code, Code::kUnauthenticated);
  ASSERT_TRUE(access->approve_login(login.id, token.id.text(), token.secret).ok());
  const auto made = world.run(access->wait_login(login.id, login.wait_secret, soon())).value();
  ASSERT_TRUE(made.has_value());
  EXPECT_TRUE(access->authenticate(made->id.text(), made->secret).ok());
  EXPECT_EQ(access->approve_login(login.id, token.id.text(), token.secret).error().code, Code::kFailedPrecondition);
}

TEST_F(AccessTest, AWaitingLoginHearsOfItsApproval) {
  const Login login = access->begin_login({}).value();
  std::string code = access->create_login_code();
  world.loop.at(world.loop.now() + std::chrono::seconds(5),
                [&] { ASSERT_TRUE(access->approve_login(login.id, code).ok()); });
  EXPECT_TRUE(world.run(access->wait_login(login.id, login.wait_secret, world.loop.now() + std::chrono::minutes(1)))
                  .value()
                  .has_value());
}

TEST_F(AccessTest, AOneTimeCodeIsGoodOnceForAWhileAndNotForGuessing) {
  const Login first = access->begin_login({}).value();
  const Login second = access->begin_login({}).value();
  std::string code = access->create_login_code();
  for (char& c : code) c = static_cast<char>(std::tolower(c));
  ASSERT_TRUE(access->approve_login(first.id, code).ok());
  EXPECT_EQ(access->approve_login(second.id, code).error().code, Code::kUnauthenticated);
  code = access->create_login_code();
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(access->approve_login(second.id, "AAAA-AAAA-AAAA").ok());
  EXPECT_FALSE(access->approve_login(second.id, code).ok());
  code = access->create_login_code();
  world.loop.run_for(std::chrono::minutes(10));
  const Login third = access->begin_login({}).value();
  EXPECT_FALSE(access->approve_login(third.id, code).ok());
}

TEST_F(AccessTest, LoginsAreBoundedAndExpire) {
  Login login;
  for (int i = 0; i < 100; ++i) login = access->begin_login({}).value();
  EXPECT_EQ(access->begin_login({}).error().code, Code::kResourceExhausted);
  world.loop.run_for(std::chrono::minutes(11));
  EXPECT_TRUE(access->begin_login({}).ok());
  EXPECT_EQ(world.run(access->wait_login(login.id, login.wait_secret, kNever)).error().code, Code::kNotFound);
}

TEST_F(AccessTest, WhatWasSignedIsVerifiedAfterARestartAndAfterANewKey) {
  const std::string token = access->sign(kPurposeInput, "in-1", std::chrono::hours(24 * 20), 7);
  EXPECT_EQ(access->verify(token, kPurposeInput).value().index, 7);
  EXPECT_FALSE(access->verify(token, kPurposeApi).ok());
  start();
  EXPECT_EQ(access->verify(token, kPurposeInput).value().identity, "in-1");
  world.loop.run_for(std::chrono::hours(24 * 15));
  const std::string before = access->sign(kPurposeApi, "a", std::chrono::hours(24 * 20));
  world.loop.run_for(std::chrono::hours(24 * 16));
  const std::string after = access->sign(kPurposeApi, "a", std::chrono::hours(1));
  EXPECT_NE(jwt_key_id(before).value(), jwt_key_id(after).value());
  EXPECT_TRUE(access->verify(before, kPurposeApi).ok());
  EXPECT_TRUE(access->verify(after, kPurposeApi).ok());
  EXPECT_FALSE(access->verify(token, kPurposeInput).ok());  // Expired.
  world.loop.run_for(std::chrono::hours(24 * 31));
  (void)access->sign(kPurposeApi, "a", std::chrono::hours(1));
  EXPECT_FALSE(access->verify(before, kPurposeApi).ok());
}

TEST_F(AccessTest, AStampHoldsForItsPurposeAndIdentityUntilItsEndAndOverRestarts) {
  const std::string stamp = access->stamp(kPurposeView, "ap-1", std::chrono::hours(1));
  EXPECT_EQ(stamp.size(), 22U);
  const Time end = access->check_stamp(stamp, kPurposeView, "ap-1").value();
  EXPECT_LE(end, world.loop.now() + std::chrono::hours(1));
  EXPECT_GT(end, world.loop.now() + std::chrono::minutes(59));
  EXPECT_EQ(access->check_stamp(stamp, kPurposeView, "ap-2").error().code, Code::kUnauthenticated);
  EXPECT_FALSE(access->check_stamp(stamp, kPurposeLoginForm, "ap-1").ok());
  EXPECT_FALSE(access->check_stamp("", kPurposeView, "ap-1").ok());
  EXPECT_FALSE(access->check_stamp(stamp + "AAAA", kPurposeView, "ap-1").ok());
  for (std::size_t i = 0; i < stamp.size(); ++i) {
    std::string changed = stamp;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(access->check_stamp(changed, kPurposeView, "ap-1").ok()) << i;
  }
  start();
  EXPECT_TRUE(access->check_stamp(stamp, kPurposeView, "ap-1").ok());
  world.loop.run_for(std::chrono::hours(1));
  EXPECT_FALSE(access->check_stamp(stamp, kPurposeView, "ap-1").ok());
}

TEST_F(AccessTest, AStampIsNotTakenForAnotherSplitOfTheSameText) {
  const std::string stamp = access->stamp("ab", "c", std::chrono::hours(1));
  EXPECT_TRUE(access->check_stamp(stamp, "ab", "c").ok());
  EXPECT_FALSE(access->check_stamp(stamp, "a", "bc").ok());
}

}  // namespace
}  // namespace proa::control
