// SPDX-License-Identifier: Apache-2.0
#include "control/secrets.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"
#include "base/seal.h"

namespace proa::control {
namespace {

constexpr Duration kUseResolution = std::chrono::minutes(1);  // How exactly the last use is remembered.
const Bytes kProbeKey = "secret.probe";
constexpr std::string_view kProbe = "this is the key";

// What is sealed. DO NOT CHANGE.
struct Values {
  std::map<std::string, std::string> values;
  static void fields(auto& visit, auto& self) { visit(1, self.values); }
};

Error missing(const std::string& name) { return not_found("Secret '" + name + "' not found"); }

}  // namespace

Result<void> check_variable_name(std::string_view key) {
  const bool characters = std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
  constexpr std::size_t kNameBytesMax = 512;
  if (key.empty() || key.size() > kNameBytesMax || !characters || (key.front() >= '0' && key.front() <= '9')) {
    // The text is the client's own; it may have put a value where the name belongs, so it is not repeated.
    return invalid_argument(
        "A key of a secret is no name for an environment variable: letters, digits and "
        "underscores, not beginning with a digit");
  }
  return {};
}

Secrets::Secrets(Loop& loop, Random& random, Ledger& ledger, Bytes key, Config config)
    : loop_(loop), random_(random), ledger_(ledger), key_(std::move(key)), config_(config) {
  PROA_CHECK(key_.size() == kSealKeyBytes);
}

Secrets::~Secrets() { loop_.cancel(timer_); }

Result<void> Secrets::load(store::Store& store) {
  std::optional<Bytes> probe;
  PROA_TRY_VOID(store.load(store::Table::kMeta, [&](BytesView key, BytesView value) {
    if (key == kProbeKey) probe = Bytes(value);
  }));
  if (!probe) {
    ledger_.put_bytes(store::Table::kMeta, kProbeKey, seal(key_, kProbeKey, kProbe, random_));
  } else if (!unseal(key_, kProbeKey, *probe).ok()) {
    return failed_precondition(
        "the stored secrets were sealed with another key than the one in the key file: put that file back");
  }
  Result<void> decoded;
  PROA_TRY_VOID(store.load(store::Table::kSecret, [&](BytesView, BytesView value) {
    auto secret = decode<Secret>(value);
    if (!secret.ok()) {
      decoded = secret.error();
      return;
    }
    created_.seen(secret->created);
    if (secret->kind == SecretKind::kNamed) by_name_[{secret->environment, secret->name}] = secret->id;
    if (secret->kind == SecretKind::kAnonymous) of_app_[{secret->app, secret->fingerprint}] = secret->id;
    if (secret->kind == SecretKind::kEphemeral) ephemeral_.insert(secret->id);
    const SecretId id = secret->id;
    secrets_[id] = std::move(secret).value();
  }));
  if (!ephemeral_.empty()) watch();
  return decoded;
}

const Secret* Secrets::find(SecretId secret) const {
  const auto found = secrets_.find(secret);
  return found == secrets_.end() ? nullptr : &found->second;
}

Result<const Secret*> Secrets::require(SecretId secret) const {
  const Secret* const found = find(secret);
  if (found == nullptr) return missing(secret.text());
  return found;
}

Result<void> Secrets::check_values(const std::map<std::string, std::string>& values) const {
  std::size_t bytes = 0;
  for (const auto& [key, value] : values) {
    PROA_TRY_VOID(check_variable_name(key));
    if (value.find('\0') != std::string::npos) {
      return invalid_argument("The value of the secret's key '" + key +
                              "' has a NUL byte, which no environment variable can hold");
    }
    bytes += key.size() + value.size() + 2;
  }
  if (bytes > config_.values_bytes_max) {
    return resource_exhausted("A secret's keys and values have " + std::to_string(bytes) + " bytes together; " +
                              std::to_string(config_.values_bytes_max) + " are allowed");
  }
  return {};
}

void Secrets::fill(Secret& secret, const std::map<std::string, std::string>& values) {
  secret.keys.clear();
  for (const auto& [key, value] : values) secret.keys.push_back(key);
  const Bytes plain = encode(Values{values});
  secret.sealed = seal(key_, secret.id.text(), plain, random_);
  secret.fingerprint = hmac_sha256(key_, plain);
}

Result<std::map<std::string, std::string>> Secrets::open(const Secret& secret) const {
  PROA_TRY(const Bytes plain, unseal(key_, secret.id.text(), secret.sealed));
  PROA_TRY(Values values, decode<Values>(plain));
  return std::move(values.values);
}

Result<SecretId> Secrets::make(SecretRequest request, SecretKind kind) {
  PROA_TRY_VOID(check_values(request.values));
  if (secrets_.size() >= config_.secrets_max) {
    return resource_exhausted("The secret was not made: there are " + std::to_string(secrets_.size()) +
                              ", the configured limit");
  }
  Secret secret{.id = SecretId::make(random_, loop_.now()),
                .environment = request.environment,
                .kind = kind,
                .name = kind == SecretKind::kNamed ? request.name : "",
                .app = kind == SecretKind::kAnonymous ? request.app : AppId(),
                .created = created_.next(loop_.now()),
                .created_by = std::move(request.by)};
  fill(secret, request.values);
  if (kind == SecretKind::kAnonymous) {
    // The same values for the same app are the same secret, so that a redeploy that changes nothing is seen
    // to change nothing.
    SecretId& same = of_app_[{secret.app, secret.fingerprint}];
    if (!same.empty()) return same;
    same = secret.id;
  }
  if (kind == SecretKind::kNamed) by_name_[{secret.environment, secret.name}] = secret.id;
  if (kind == SecretKind::kEphemeral) {
    ephemeral_.insert(secret.id);
    watch();
  }
  put(secret);
  const SecretId id = secret.id;
  secrets_[id] = std::move(secret);
  return id;
}

Result<SecretId> Secrets::get_or_create(SecretRequest request) {
  if (request.creation == Creation::kAnonymous) return make(std::move(request), SecretKind::kAnonymous);
  if (request.creation == Creation::kEphemeral) return make(std::move(request), SecretKind::kEphemeral);
  PROA_TRY_VOID(check_object_name("Secret name", request.name));
  const auto found = by_name_.find({request.environment, request.name});
  if (found == by_name_.end()) {
    if (request.creation == Creation::kLookup) return missing(request.name);
    return make(std::move(request), SecretKind::kNamed);
  }
  Secret& secret = secrets_.at(found->second);
  if (request.creation == Creation::kFailIfExists)
    return already_exists("Secret '" + request.name + "' already exists");
  if (request.creation == Creation::kOverwrite) {
    PROA_TRY_VOID(check_values(request.values));
    fill(secret, request.values);
    put(secret);
    return secret.id;
  }
  std::string absent;
  for (const std::string& key : request.required_keys) {
    if (std::find(secret.keys.begin(), secret.keys.end(), key) == secret.keys.end())
      absent += (absent.empty() ? "" : ", ") + key;
  }
  if (!absent.empty()) return not_found("Secret is missing key(s): " + absent);
  return secret.id;
}

Result<void> Secrets::update(SecretId id, const std::vector<SecretChange>& changes) {
  const auto found = secrets_.find(id);
  if (found == secrets_.end()) return missing(id.text());
  if (found->second.kind != SecretKind::kNamed) return invalid_argument("Only secrets with a name can be changed");
  PROA_TRY(auto values, open(found->second));
  for (const SecretChange& change : changes) {
    if (change.value) {
      values[change.key] = *change.value;
    } else {
      values.erase(change.key);
    }
  }
  PROA_TRY_VOID(check_values(values));
  fill(found->second, values);
  put(found->second);
  return {};
}

void Secrets::erase(SecretId id) {
  const Secret& secret = secrets_.at(id);
  if (secret.kind == SecretKind::kNamed) by_name_.erase({secret.environment, secret.name});
  if (secret.kind == SecretKind::kAnonymous) of_app_.erase({secret.app, secret.fingerprint});
  ephemeral_.erase(id);
  secrets_.erase(id);
  ledger_.erase(store::Table::kSecret, key_of(id));
}

Result<void> Secrets::remove(SecretId id) {
  PROA_TRY_VOID(require(id));
  erase(id);
  return {};
}

std::vector<const Secret*> Secrets::list(EnvironmentId environment, Time before, std::size_t secrets_max) const {
  std::vector<const Secret*> all;
  for (const auto& [name, id] : by_name_) {
    const Secret& secret = secrets_.at(id);
    if (secret.environment == environment && secret.created < before) all.push_back(&secret);
  }
  std::sort(all.begin(), all.end(), [](const Secret* a, const Secret* b) { return a->created > b->created; });
  if (all.size() > secrets_max) all.resize(secrets_max);
  return all;
}

Result<std::map<std::string, std::string>> Secrets::use(SecretId id) {
  const auto found = secrets_.find(id);
  if (found == secrets_.end()) return missing(id.text());
  Secret& secret = found->second;
  if (loop_.now() - secret.used >= kUseResolution) {
    secret.used = loop_.now();
    put(secret);
  }
  return open(secret);
}

void Secrets::environment_removed(EnvironmentId environment) {
  std::vector<SecretId> gone;
  for (const auto& [name, id] : by_name_) {
    if (name.first == environment) gone.push_back(id);
  }
  for (const SecretId id : gone) erase(id);
}

void Secrets::app_forgotten(AppId app) {
  std::vector<SecretId> gone;
  for (auto item = of_app_.lower_bound({app, Digest()}); item != of_app_.end() && item->first.first == app; ++item) {
    gone.push_back(item->second);
  }
  for (const SecretId id : gone) erase(id);
}

// Looks at ephemeral secrets once an hour while there are any.
void Secrets::watch() {
  if (timer_ != 0) return;
  timer_ = loop_.at(loop_.now() + std::chrono::hours(1), [this] {
    timer_ = 0;
    std::vector<SecretId> gone;
    for (const SecretId id : ephemeral_) {
      const Secret& secret = secrets_.at(id);
      if (std::max(secret.created, secret.used) + config_.ephemeral_kept < loop_.now()) gone.push_back(id);
    }
    for (const SecretId id : gone) erase(id);
    if (!ephemeral_.empty()) watch();
  });
}

}  // namespace proa::control
