// SPDX-License-Identifier: Apache-2.0
#include "control/access.h"

#include <algorithm>

#include "base/check.h"
#include "base/seal.h"

namespace proa::control {
namespace {

using store::Table;

const Bytes kWorkspaceKey = "workspace";
constexpr std::string_view kSigningKeyPrefix = "signing-key/";
constexpr std::string_view kBase62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
// What people type: without digits and letters that look alike.
constexpr std::string_view kTyped = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
constexpr std::size_t kSecretCharacters = 32;
constexpr std::size_t kLoginCodesMax = 16;

Bytes signing_key_key(std::uint32_t id) { return Bytes(kSigningKeyPrefix) + key_of(std::uint64_t{id}); }

// A stamp: the lower half of its key's id and its last second, big-endian, and the beginning of an HMAC. 80 bits of that do
// where each guess is a request.
constexpr std::size_t kStampHeadBytes = 6;
constexpr std::size_t kStampMacBytes = 10;

Bytes stamp_mac(BytesView key, std::string_view purpose, std::string_view identity, BytesView head) {
  Bytes text = "proa stamp";
  for (const std::string_view part : {purpose, identity, head}) text += key_of(std::uint64_t{part.size()}) + Bytes(part);
  return Bytes(hmac_sha256(key, text).view().substr(0, kStampMacBytes));
}

std::uint32_t read_number(BytesView bytes) {
  std::uint32_t number = 0;
  for (const char byte : bytes) number = (number << 8) | static_cast<std::uint8_t>(byte);
  return number;
}

Digest hash_of(BytesView salt, std::string_view secret) { return sha256(Bytes(salt) + Bytes(secret)); }

}  // namespace

Access::Access(Loop& loop, Random& random, Ledger& ledger, Logger& log, Bytes seal_key, Config config)
    : loop_(loop),
      random_(random),
      ledger_(ledger),
      log_(log),
      seal_key_(std::move(seal_key)),
      config_(std::move(config)) {
  PROA_CHECK(seal_key_.size() == kSealKeyBytes);
}

Access::~Access() = default;

Result<void> Access::load_meta(store::Store& store) {
  Result<void> result;
  PROA_TRY_VOID(store.load(Table::kMeta, [&](BytesView key, BytesView value) {
    if (key == kWorkspaceKey) {
      auto workspace = decode<Workspace>(value);
      if (workspace.ok()) {
        workspace_ = std::move(workspace).value();
      } else {
        result = workspace.error();
      }
    } else if (key.starts_with(kSigningKeyPrefix)) {
      auto signing = decode<SigningKey>(value);
      if (!signing.ok()) {
        result = signing.error();
        return;
      }
      auto opened = unseal(seal_key_, key, signing->sealed);
      if (!opened.ok()) {
        result = failed_precondition(
            "the stored signing keys were sealed with another key than the one in the key file: put that file back");
        return;
      }
      signing->key = std::move(opened).value();
      const std::uint32_t id = signing->id;
      keys_[id] = std::move(signing).value();
    }
  }));
  return result;
}

Result<void> Access::load(store::Store& store) {
  PROA_TRY_VOID(load_meta(store));
  Result<void> result;
  PROA_TRY_VOID(store.load(Table::kToken, [&](BytesView, BytesView value) {
    auto token = decode<Token>(value);
    if (!token.ok()) {
      result = token.error();
      return;
    }
    created_.seen(token->created);
    const TokenId id = token->id;
    tokens_[id] = std::move(token).value();
  }));
  PROA_TRY_VOID(std::move(result));
  if (workspace_.id.empty()) {
    workspace_ = {.id = WorkspaceId::make(random_, loop_.now()), .name = config_.workspace, .created = loop_.now()};
    ledger_.put(Table::kMeta, kWorkspaceKey, workspace_);
  } else if (workspace_.name != config_.workspace) {
    workspace_.name = config_.workspace;
    ledger_.put(Table::kMeta, kWorkspaceKey, workspace_);
  }
  if (keys_.empty()) add_signing_key();
  return {};
}

std::string Access::random_text(std::size_t characters, std::string_view alphabet) {
  std::string text;
  text.reserve(characters);
  // Values at the upper end are thrown away, so that all characters are equally likely.
  const std::uint64_t fair = UINT64_MAX - UINT64_MAX % alphabet.size();
  while (text.size() < characters) {
    const std::uint64_t value = random_.next();
    if (value < fair) text += alphabet[value % alphabet.size()];
  }
  return text;
}

// --- Tokens -------------------------------------------------------------------------------------------------

Result<Identity> Access::authenticate(std::string_view id, std::string_view secret) const {
  const auto parsed = TokenId::parse(id);
  const auto found = parsed.ok() ? tokens_.find(*parsed) : tokens_.end();
  // An unknown id takes as long as a wrong secret.
  static const Token kNobody{.salt = Bytes(16, 'x')};
  const Token& token = found == tokens_.end() ? kNobody : found->second;
  const bool matches = equal_in_constant_time(hash_of(token.salt, secret.substr(0, 256)).view(), token.hash.view());
  const bool expired = token.expires != Time() && token.expires <= loop_.now();
  if (found == tokens_.end() || !matches || expired || token.disabled) {
    return unauthenticated(
        "The token id and secret are not accepted: the token is unknown, its secret is another, or it has expired");
  }
  return Identity{.workspace = workspace_.id, .token = token.id, .user = token.user};
}

Result<Credentials> Access::create_token(std::string name, std::string user, Duration life) {
  std::erase_if(tokens_, [&](const auto& item) {
    const bool gone = item.second.expires != Time() && item.second.expires <= loop_.now();
    if (gone) ledger_.erase(Table::kToken, key_of(item.first));
    return gone;
  });
  if (tokens_.size() >= config_.tokens_max) {
    return resource_exhausted("The token was not made: there are " + std::to_string(tokens_.size()) +
                              ", the configured limit; delete some");
  }
  Credentials credentials{.id = TokenId::make(random_, loop_.now()),
                          .secret = "as-" + random_text(kSecretCharacters, kBase62)};
  Token token{.id = credentials.id,
              .name = std::move(name),
              .user = std::move(user),
              .salt = random_.bytes(16),
              .created = created_.next(loop_.now())};
  if (life != Duration()) token.expires = loop_.now() + life;
  token.hash = hash_of(token.salt, credentials.secret);
  ledger_.put(Table::kToken, key_of(token.id), token);
  log_.info("token.created", {{"token", token.id.text()}, {"name", token.name}});
  tokens_[token.id] = std::move(token);
  return credentials;
}

Result<void> Access::remove_token(TokenId token) {
  if (tokens_.erase(token) == 0) return not_found("Token '" + token.text() + "' not found");
  ledger_.erase(Table::kToken, key_of(token));
  log_.info("token.deleted", {{"token", token.text()}});
  return {};
}

Result<void> Access::set_disabled(TokenId token, bool disabled) {
  const auto found = tokens_.find(token);
  if (found == tokens_.end()) return not_found("Token '" + token.text() + "' not found");
  found->second.disabled = disabled;
  ledger_.put(Table::kToken, key_of(token), found->second);
  return {};
}

const Token* Access::find(TokenId token) const {
  const auto found = tokens_.find(token);
  return found == tokens_.end() ? nullptr : &found->second;
}

std::vector<Token> Access::tokens() const {
  std::vector<Token> all;
  for (const auto& [id, token] : tokens_) all.push_back(token);
  std::sort(all.begin(), all.end(), [](const Token& a, const Token& b) { return a.created > b.created; });
  return all;
}

// --- Logging in ---------------------------------------------------------------------------------------------

void Access::drop_old_logins() {
  std::erase_if(logins_, [&](const auto& item) { return item.second.expires <= loop_.now(); });
  std::erase_if(codes_, [&](const auto& item) { return item.second <= loop_.now(); });
}

Result<Login> Access::begin_login(Duration life) {
  drop_old_logins();
  if (logins_.size() >= config_.logins_max) {
    return resource_exhausted("Too many logins are under way; try again in a few minutes");
  }
  LoginUnderWay under_way{.login = {.id = TokenFlowId::make(random_, loop_.now()),
                                    .code = random_text(4, kTyped) + "-" + random_text(4, kTyped),
                                    .wait_secret = random_text(kSecretCharacters, kBase62)},
                          .expires = loop_.now() + config_.login_life,
                          .token_life = life,
                          .changed = std::make_unique<Signal>(loop_)};
  const Login login = under_way.login;
  logins_[login.id] = std::move(under_way);
  return login;
}

Async<Result<std::optional<Credentials>>> Access::wait_login(TokenFlowId login, std::string wait_secret,
                                                             Time deadline) {
  while (true) {
    const auto found = logins_.find(login);
    const bool known = found != logins_.end() && found->second.expires > loop_.now() &&
                       equal_in_constant_time(found->second.login.wait_secret, wait_secret);
    if (!known) co_return not_found("This login is not under way any more: begin again");
    if (found->second.approved) co_return found->second.approved;
    const Time until = std::min(deadline, found->second.expires);
    const bool notified = co_await found->second.changed->wait_until(until);
    if (!notified && loop_.now() >= deadline) co_return std::optional<Credentials>();
  }
}

std::optional<std::string> Access::login_code_shown(TokenFlowId login) const {
  const auto found = logins_.find(login);
  if (found == logins_.end() || found->second.approved || found->second.expires <= loop_.now()) return std::nullopt;
  return found->second.login.code;
}

Result<void> Access::approve(TokenFlowId login, std::string name, std::string user) {
  const auto found = logins_.find(login);
  if (found == logins_.end() || found->second.expires <= loop_.now()) {
    return not_found("This login is not under way any more: begin again");
  }
  if (found->second.approved) return failed_precondition("This login was approved already");
  PROA_TRY(found->second.approved, create_token(std::move(name), std::move(user), found->second.token_life));
  found->second.changed->notify();
  return {};
}

Result<void> Access::approve_login(TokenFlowId login, std::string_view token_id, std::string_view token_secret) {
  PROA_TRY(const Identity identity, authenticate(token_id, token_secret));
  return approve(login, "login approved by " + identity.token.text(), identity.user);
}

Result<void> Access::approve_login(TokenFlowId login, std::string_view one_time_code) {
  drop_old_logins();
  std::string typed;
  for (const char c : one_time_code.substr(0, 64)) {
    if (c >= 'a' && c <= 'z') typed += static_cast<char>(c - 'a' + 'A');
    if ((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) typed += c;
  }
  std::string matching;
  for (const auto& [code, expires] : codes_) {
    if (equal_in_constant_time(code, typed)) matching = code;
  }
  if (matching.empty()) {
    if (!codes_.empty() && ++code_failures_ >= config_.login_code_failures_max) {
      codes_.clear();
      log_.warning("login.codes_withdrawn", {{"failures", code_failures_}});
    }
    return unauthenticated(
        "This code is not valid: it is used up, too old or mistyped; `proa login-code` gives a new one");
  }
  PROA_TRY_VOID(approve(login, "login approved by a one-time code", config_.user));
  codes_.erase(matching);
  return {};
}

std::string Access::create_login_code() {
  drop_old_logins();
  while (codes_.size() >= kLoginCodesMax) codes_.erase(codes_.begin());
  code_failures_ = 0;
  const std::string code = random_text(12, kTyped);
  codes_[code] = loop_.now() + config_.login_code_life;
  return code.substr(0, 4) + "-" + code.substr(4, 4) + "-" + code.substr(8);
}

// --- Signed tokens ------------------------------------------------------------------------------------------

void Access::add_signing_key() {
  SigningKey signing{
      .id = keys_.empty() ? 1 : keys_.rbegin()->first + 1, .created = loop_.now(), .key = random_.bytes(32)};
  const Bytes row = signing_key_key(signing.id);
  signing.sealed = seal(seal_key_, row, signing.key, random_);
  ledger_.put(Table::kMeta, row, signing);
  keys_[signing.id] = std::move(signing);
  drop_old_keys();
}

// A key goes when everything that was signed with it has expired: the next one's age tells.
void Access::drop_old_keys() {
  while (keys_.size() > 1) {
    const auto oldest = keys_.begin();
    if (std::next(oldest)->second.created + config_.signature_life_max > loop_.now()) return;
    ledger_.erase(Table::kMeta, signing_key_key(oldest->first));
    keys_.erase(oldest);
  }
}

const Access::SigningKey& Access::signing_key() {
  if (keys_.rbegin()->second.created + config_.signing_key_life <= loop_.now()) add_signing_key();
  return keys_.rbegin()->second;
}

std::string Access::sign(std::string_view purpose, std::string identity, Duration life,
                         std::optional<std::int64_t> index) {
  const SigningKey& signing = signing_key();
  return sign_jwt({.purpose = std::string(purpose),
                   .identity = std::move(identity),
                   .issued = loop_.now(),
                   .expires = loop_.now() + std::min(life, config_.signature_life_max),
                   .index = index},
                  signing.id, signing.key);
}

Result<JwtClaims> Access::verify(std::string_view token, std::string_view purpose) const {
  PROA_TRY(const std::uint32_t id, jwt_key_id(token));
  const auto signing = keys_.find(id);
  if (signing == keys_.end()) return unauthenticated("the token is not accepted: its key was replaced");
  return verify_jwt(token, signing->second.key, purpose, loop_.now());
}

std::string Access::stamp(std::string_view purpose, std::string_view identity, Duration life) {
  const SigningKey& signing = signing_key();
  const Time last = loop_.now() + std::min(life, config_.signature_life_max);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(last).time_since_epoch().count();
  const Bytes head = key_of(std::uint64_t{signing.id} << 32 | static_cast<std::uint32_t>(seconds)).substr(2);
  return to_base64url(head + stamp_mac(signing.key, purpose, identity, head));
}

Result<Time> Access::check_stamp(std::string_view stamp, std::string_view purpose, std::string_view identity) const {
  const auto refused = [] { return unauthenticated("the signature is not accepted: it is for something else, or too old"); };
  const Result<Bytes> bytes = from_base64url(stamp);
  if (!bytes.ok() || bytes->size() != kStampHeadBytes + kStampMacBytes) return refused();
  const BytesView head = BytesView(*bytes).substr(0, kStampHeadBytes);
  const std::uint32_t id = read_number(head.substr(0, 2));
  const auto signing = std::find_if(keys_.begin(), keys_.end(), [&](const auto& each) { return (each.first & 0xffffU) == id; });
  if (signing == keys_.end()) return refused();
  const Bytes mac = stamp_mac(signing->second.key, purpose, identity, head);
  if (!equal_in_constant_time(mac, BytesView(*bytes).substr(kStampHeadBytes))) return refused();
  const Time last = Time(std::chrono::seconds(read_number(head.substr(2))));
  if (last <= loop_.now()) return refused();
  return last;
}

}  // namespace proa::control
