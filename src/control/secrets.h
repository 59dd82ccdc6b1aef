// SPDX-License-Identifier: Apache-2.0
//
// Secrets: sets of environment variables, encrypted at rest.
//
// In memory and in the store a secret's values are sealed under the workspace's key and bound to its id;
// they are opened only to start what may see them. Neither values nor keys are ever logged.
//
// On the server's loop. Pointers are valid until the next call that changes secrets.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "control/apps.h"
#include "control/environments.h"
#include "control/keys.h"
#include "control/ledger.h"

namespace proa::control {

// What is to happen when a thing is asked for by name, or made without one.
enum class Creation : std::uint8_t {
  kLookup,  // kNotFound if it is not there.
  kCreateIfMissing,
  kFailIfExists,  // kAlreadyExists.
  kOverwrite,
  kAnonymous,  // Has no name, goes with its app.
  kEphemeral,  // Has no name, goes when it has not been used for long.
};

// Stored. DO NOT CHANGE numbers.
enum class SecretKind : std::uint8_t { kNamed = 1, kAnonymous = 2, kEphemeral = 3 };

struct Secret {
  SecretId id;
  EnvironmentId environment;
  SecretKind kind = SecretKind::kNamed;
  std::string name;
  AppId app;                      // Of anonymous ones.
  std::vector<std::string> keys;  // In order.
  Bytes sealed;                   // The values, as a record.
  Digest fingerprint;             // Keyed hash of the values: equal for equal ones, and tells nothing else.
  Time created;                   // Unlike any other's.
  Time used;                      // Last time a container got it; 0 if never.
  std::string created_by;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.environment), visit(3, self.kind), visit(4, self.name), visit(5, self.app);
    visit(6, self.keys), visit(7, self.sealed), visit(8, self.fingerprint), visit(9, self.created);
    visit(10, self.used), visit(11, self.created_by);
  }
  friend bool operator==(const Secret&, const Secret&) = default;
};

struct SecretRequest {
  EnvironmentId environment;
  Creation creation = Creation::kLookup;
  std::string name;
  AppId app;
  std::map<std::string, std::string> values;
  std::vector<std::string> required_keys;
  std::string by;
};

// Changes one variable; without a value it goes.
struct SecretChange {
  std::string key;
  std::optional<std::string> value;
};

class Secrets final : public EnvironmentListener, public AppListener {
 public:
  struct Config {
    std::size_t values_bytes_max = 64 << 10;  // Names and values of one secret; a process start must hold them.
    std::size_t secrets_max = 100'000;
    Duration ephemeral_kept = std::chrono::hours(24 * 7);  // Since its last use.
  };

  // `key` has kSealKeyBytes; `random` must be fit for keys.
  Secrets(Loop& loop, Random& random, Ledger& ledger, Bytes key, Config config);
  ~Secrets() override;
  Secrets(const Secrets&) = delete;
  Secrets& operator=(const Secrets&) = delete;

  // Once, before anything else. kFailedPrecondition if what is stored was sealed with another key.
  Result<void> load(store::Store& store);

  //   kNotFound            no such secret; or "Secret is missing key(s): a, b" of those required.
  //   kAlreadyExists       it is there and was to be made.
  //   kInvalidArgument     a name or variable that cannot be.
  //   kResourceExhausted   too many, or too big.
  Result<SecretId> get_or_create(SecretRequest request);
  const Secret* find(SecretId secret) const;
  Result<const Secret*> require(SecretId secret) const;
  // kNotFound, kInvalidArgument.
  Result<void> update(SecretId secret, const std::vector<SecretChange>& changes);
  Result<void> remove(SecretId secret);
  // Named ones made before `before`, the last made first.
  std::vector<const Secret*> list(EnvironmentId environment, Time before, std::size_t secrets_max) const;

  // Opens the secret for a container that is about to start. kNotFound, kDataLoss.
  Result<std::map<std::string, std::string>> use(SecretId secret);

  void environment_removed(EnvironmentId environment) override;
  void function_changed(FunctionId) override {}
  void app_stopping(AppId) override {}
  void app_forgotten(AppId app) override;

 private:
  Result<void> check_values(const std::map<std::string, std::string>& values) const;
  void fill(Secret& secret, const std::map<std::string, std::string>& values);
  Result<std::map<std::string, std::string>> open(const Secret& secret) const;
  Result<SecretId> make(SecretRequest request, SecretKind kind);
  void put(const Secret& secret) { ledger_.put(store::Table::kSecret, key_of(secret.id), secret); }
  void erase(SecretId secret);
  void watch();

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  Bytes key_;
  Config config_;
  std::unordered_map<SecretId, Secret> secrets_;
  std::map<std::pair<EnvironmentId, std::string>, SecretId> by_name_;
  std::map<std::pair<AppId, Digest>, SecretId> of_app_;
  std::unordered_set<SecretId> ephemeral_;
  UniqueTimes created_;
  Loop::TimerId timer_ = 0;
};

// kInvalidArgument unless `key` can be the name of an environment variable: letters, digits and
// underscores, not beginning with a digit.
Result<void> check_variable_name(std::string_view key);

}  // namespace proa::control
