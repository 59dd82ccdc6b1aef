// SPDX-License-Identifier: Apache-2.0
//
// Access: who may speak to us. The workspace, its tokens, logging in by browser, and the signed tokens that
// we hand out ourselves.
//
// Token secrets are stored hashed and compared in constant time. A login is approved only by somebody who
// holds a token already or a one-time code that the machine's owner asked for; a login under way is in
// memory only. Signing keys are sealed at rest, and replaced from time to time.
//
// On the server's loop. `random` must be fit for keys.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/id.h"
#include "base/jwt.h"
#include "base/log.h"
#include "base/result.h"
#include "control/keys.h"
#include "control/ledger.h"
#include "rt/loop.h"

namespace proa::control {

struct Workspace {
  WorkspaceId id;
  std::string name;
  Time created;

  static void fields(auto& visit, auto& self) { visit(1, self.id), visit(2, self.name), visit(3, self.created); }
  friend bool operator==(const Workspace&, const Workspace&) = default;
};

struct Token {
  TokenId id;
  std::string name;  // For a person: where it came from.
  std::string user;
  Bytes salt;
  Digest hash;  // SHA-256 of salt and secret; the secret has 190 random bits, so that no slow hash is needed.
  Time created;
  Time expires;  // 0: never.
  bool disabled = false;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.name), visit(3, self.user), visit(4, self.salt), visit(5, self.hash);
    visit(6, self.created), visit(7, self.expires), visit(8, self.disabled);
  }
  friend bool operator==(const Token&, const Token&) = default;
};

// A new token: the only time that its secret is seen.
struct Credentials {
  TokenId id;
  std::string secret;  // "as-" and 32 letters and digits.
};

struct Identity {
  WorkspaceId workspace;
  TokenId token;
  std::string user;
};

struct Login {
  TokenFlowId id;
  std::string code;         // Shown in the terminal and on the page, to be compared by a person.
  std::string wait_secret;  // Known only to the client that waits.
};

// Purposes of signed tokens.
constexpr std::string_view kPurposeApi = "api";
constexpr std::string_view kPurposeInput = "input";
constexpr std::string_view kPurposeCall = "call";
constexpr std::string_view kPurposeRouter = "router";
// Purposes of stamps.
constexpr std::string_view kPurposeView = "view";
constexpr std::string_view kPurposeLoginForm = "login-form";

class Access {
 public:
  struct Config {
    std::string workspace = "proa";
    std::string user = "owner";
    std::size_t tokens_max = 10'000;
    Duration login_life = std::chrono::minutes(10);
    std::size_t logins_max = 100;  // Under way at once: beginning one needs no credentials.
    Duration login_code_life = std::chrono::minutes(10);
    std::size_t login_code_failures_max = 10;  // Then no code is valid any more.
    Duration signing_key_life = std::chrono::hours(24 * 30);
    Duration signature_life_max = std::chrono::hours(24 * 30);  // Of what is signed with one.
  };

  Access(Loop& loop, Random& random, Ledger& ledger, Logger& log, Bytes seal_key, Config config);
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

  // Once, before anything else: reads what is stored, makes the workspace and the first signing key.
  Result<void> load(store::Store& store);
  const Workspace& workspace() const { return workspace_; }

  // --- Tokens
  // kUnauthenticated: unknown, wrong, disabled or expired; which of these is not told.
  Result<Identity> authenticate(std::string_view id, std::string_view secret) const;
  // True if there are none: whoever starts the server makes the first one.
  bool has_tokens() const { return !tokens_.empty(); }
  // A `life` of 0 does not end. kResourceExhausted.
  Result<Credentials> create_token(std::string name, std::string user, Duration life);
  Result<void> remove_token(TokenId token);  // kNotFound.
  Result<void> set_disabled(TokenId token, bool disabled);
  const Token* find(TokenId token) const;
  std::vector<Token> tokens() const;  // Newest first.

  // --- Logging in
  // A `life` of 0 makes a token that does not end. kResourceExhausted.
  Result<Login> begin_login(Duration life);
  // Finishes when the login was approved, or with nothing at `deadline`. May be repeated until the login
  // expires. kNotFound if there is no such login or `wait_secret` is another's.
  Async<Result<std::optional<Credentials>>> wait_login(TokenFlowId login, std::string wait_secret, Time deadline);
  // What the page shows; nothing if there is no such login or it is approved.
  std::optional<std::string> login_code_shown(TokenFlowId login) const;
  // kNotFound, kUnauthenticated, kResourceExhausted.
  Result<void> approve_login(TokenFlowId login, std::string_view token_id, std::string_view token_secret);
  Result<void> approve_login(TokenFlowId login, std::string_view one_time_code);
  // A code that approves one login, for whoever can run commands on the server's machine.
  std::string create_login_code();
  Duration login_code_life() const { return config_.login_code_life; }

  // --- Signed tokens
  std::string sign(std::string_view purpose, std::string identity, Duration life,
                   std::optional<std::int64_t> index = std::nullopt);
  Result<JwtClaims> verify(std::string_view token, std::string_view purpose) const;  // kUnauthenticated.
  // A signature for `identity`, which is not in it: 22 characters, short enough for an address that a person sees.
  std::string stamp(std::string_view purpose, std::string_view identity, Duration life);
  // Until when it holds. kUnauthenticated: it is for something else, too old, or not ours.
  Result<Time> check_stamp(std::string_view stamp, std::string_view purpose, std::string_view identity) const;

 private:
  struct SigningKey {
    std::uint32_t id = 0;
    Bytes sealed;
    Time created;
    Bytes key;  // Opened; not stored.
    static void fields(auto& visit, auto& self) { visit(1, self.id), visit(2, self.sealed), visit(3, self.created); }
  };
  struct LoginUnderWay {
    Login login;
    Time expires;
    Duration token_life{};
    std::optional<Credentials> approved;
    std::unique_ptr<Signal> changed;
  };

  Result<void> load_meta(store::Store& store);
  void add_signing_key();
  const SigningKey& signing_key();
  void drop_old_keys();
  void drop_old_logins();
  std::string random_text(std::size_t characters, std::string_view alphabet);
  Result<void> approve(TokenFlowId login, std::string name, std::string user);

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  Logger& log_;
  Bytes seal_key_;
  Config config_;
  Workspace workspace_;
  std::unordered_map<TokenId, Token> tokens_;
  std::map<std::uint32_t, SigningKey> keys_;  // The last one signs.
  std::map<TokenFlowId, LoginUnderWay> logins_;
  std::map<std::string, Time> codes_;  // One-time codes and when they end.
  std::size_t code_failures_ = 0;
  UniqueTimes created_;
};

}  // namespace proa::control
