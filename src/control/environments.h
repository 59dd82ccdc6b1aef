// SPDX-License-Identifier: Apache-2.0
//
// Environments: the name spaces of a workspace, in which apps, secrets and other named things live.
//
// There is always a default one, made at the first start. Removing one does not look at what is in it:
// EnvironmentListener is told, and each owner lets go of its own.
//
// On the server's loop. Pointers are valid until the next call that changes environments.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/id.h"
#include "base/result.h"
#include "control/ledger.h"

namespace proa::control {

struct Environment {
  EnvironmentId id;
  std::string name;
  std::string web_suffix;             // Part of web addresses; "" for none.
  std::string image_builder_version;  // "" inherits the configured one.
  Time created;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.name), visit(3, self.web_suffix), visit(4, self.image_builder_version);
    visit(5, self.created);
  }
  friend bool operator==(const Environment&, const Environment&) = default;
};

struct EnvironmentChange {
  std::optional<std::string> name;
  std::optional<std::string> web_suffix;
  std::optional<std::string> image_builder_version;
};

class EnvironmentListener {
 public:
  virtual ~EnvironmentListener() = default;
  virtual void environment_removed(EnvironmentId environment) = 0;
};

// Names of deployed things: 1…64 characters of a-z, A-Z, 0-9, '-', '_', '.'; not of the form of an app's id.
// `what` begins the message, as "App name". kInvalidArgument.
Result<void> check_object_name(std::string_view what, std::string_view name);

class Environments {
 public:
  struct Config {
    std::string default_name = "main";
    std::string image_builder_version = "2025.06";  // The newest that all served clients know.
    std::size_t environments_max = 1000;
  };

  Environments(const Clock& clock, Random& random, Ledger& ledger, Config config);
  Environments(const Environments&) = delete;
  Environments& operator=(const Environments&) = delete;

  // Once, before anything else: reads what is stored, and makes the default environment if there is none.
  Result<void> load(store::Store& store);
  void listen(EnvironmentListener& listener) { listeners_.push_back(&listener); }

  // "" is the default one. kNotFound names the environment and those that there are.
  Result<EnvironmentId> resolve(std::string_view name) const;
  const Environment* find(EnvironmentId id) const;
  std::string name_of(EnvironmentId id) const;  // "" for one that is gone.
  std::string builder_version(EnvironmentId id) const;
  EnvironmentId default_id() const { return default_; }
  std::vector<Environment> list() const;  // By name.

  // kInvalidArgument for a bad name, kAlreadyExists, kResourceExhausted.
  Result<EnvironmentId> create(const std::string& name);
  // kNotFound, kInvalidArgument, kAlreadyExists (the new name or web suffix is another's).
  Result<void> update(std::string_view name, const EnvironmentChange& change);
  // kNotFound; kFailedPrecondition for the default one.
  Result<void> remove(std::string_view name);

 private:
  void put(const Environment& environment);
  Result<void> check_name(std::string_view name) const;

  const Clock& clock_;
  Random& random_;
  Ledger& ledger_;
  Config config_;
  std::map<EnvironmentId, Environment> environments_;
  std::map<std::string, EnvironmentId, std::less<>> by_name_;
  EnvironmentId default_;
  std::vector<EnvironmentListener*> listeners_;
};

}  // namespace proa::control
