// SPDX-License-Identifier: Apache-2.0
#include "control/environments.h"

#include <algorithm>

#include "control/keys.h"

namespace proa::control {
namespace {

constexpr std::size_t kNameCharactersMax = 64;
const Bytes kDefaultKey = "environment.default";

bool alphanumeric(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

// Clients tell ids from names by this form alone.
bool looks_like_id(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix) && text.size() == prefix.size() + 22 &&
         std::all_of(text.begin() + static_cast<std::ptrdiff_t>(prefix.size()), text.end(), alphanumeric);
}

}  // namespace

Result<void> check_object_name(std::string_view what, std::string_view name) {
  const bool characters =
      std::all_of(name.begin(), name.end(), [](char c) { return alphanumeric(c) || c == '-' || c == '_' || c == '.'; });
  if (name.empty() || name.size() > kNameCharactersMax || !characters) {
    return invalid_argument(std::string(what) + " '" + std::string(name.substr(0, 2 * kNameCharactersMax)) +
                            "' is not allowed: a name has 1 to 64 letters, digits, dashes, underscores and dots");
  }
  if (looks_like_id(name, "ap-")) {
    return invalid_argument(std::string(what) + " '" + std::string(name) +
                            "' is not allowed: it looks like an app's id");
  }
  return {};
}

Environments::Environments(const Clock& clock, Random& random, Ledger& ledger, Config config)
    : clock_(clock), random_(random), ledger_(ledger), config_(std::move(config)) {}

Result<void> Environments::load(store::Store& store) {
  Result<void> decoded;
  PROA_TRY_VOID(store.load(store::Table::kEnvironment, [&](BytesView, BytesView value) {
    auto environment = decode<Environment>(value);
    if (!environment.ok()) {
      decoded = environment.error();
      return;
    }
    by_name_[environment->name] = environment->id;
    environments_[environment->id] = *environment;
  }));
  PROA_TRY_VOID(std::move(decoded));
  PROA_TRY_VOID(store.load(store::Table::kMeta, [&](BytesView key, BytesView value) {
    if (key != kDefaultKey) return;
    const auto id = EnvironmentId::parse(value);
    if (id.ok()) default_ = *id;
  }));
  if (!default_.empty() && environments_.contains(default_)) return {};
  PROA_TRY(default_, create(config_.default_name));
  ledger_.put_bytes(store::Table::kMeta, kDefaultKey, default_.text());
  return {};
}

void Environments::put(const Environment& environment) {
  ledger_.put(store::Table::kEnvironment, key_of(environment.id), environment);
}

Result<EnvironmentId> Environments::resolve(std::string_view name) const {
  if (name.empty()) return default_;
  const auto found = by_name_.find(name);
  if (found != by_name_.end()) return found->second;
  std::string known;
  for (const auto& [other, id] : by_name_) {
    if (known.size() > 200) {
      known += ", …";
      break;
    }
    known += (known.empty() ? "'" : ", '") + other + "'";
  }
  return not_found("Environment '" + std::string(name.substr(0, 2 * kNameCharactersMax)) + "' not found; there is " +
                   known);
}

const Environment* Environments::find(EnvironmentId id) const {
  const auto found = environments_.find(id);
  return found == environments_.end() ? nullptr : &found->second;
}

std::string Environments::name_of(EnvironmentId id) const {
  const Environment* const environment = find(id);
  return environment == nullptr ? std::string() : environment->name;
}

std::string Environments::builder_version(EnvironmentId id) const {
  const Environment* const environment = find(id);
  if (environment == nullptr || environment->image_builder_version.empty()) return config_.image_builder_version;
  return environment->image_builder_version;
}

std::vector<Environment> Environments::list() const {
  std::vector<Environment> all;
  for (const auto& [name, id] : by_name_) all.push_back(environments_.at(id));
  return all;
}

Result<void> Environments::check_name(std::string_view name) const {
  PROA_TRY_VOID(check_object_name("Environment name", name));
  if (!alphanumeric(name.front()) || name.find('.') != std::string_view::npos || looks_like_id(name, "en-")) {
    return invalid_argument("Environment name '" + std::string(name) +
                            "' is not allowed: it begins with a letter or digit, has no dot and is no id");
  }
  if (by_name_.contains(name)) return already_exists("Environment '" + std::string(name) + "' already exists");
  return {};
}

Result<EnvironmentId> Environments::create(const std::string& name) {
  PROA_TRY_VOID(check_name(name));
  if (environments_.size() >= config_.environments_max) {
    return resource_exhausted("Environment '" + name + "' was not created: there are " +
                              std::to_string(environments_.size()) + " already, the configured limit");
  }
  Environment environment{.id = EnvironmentId::make(random_, clock_.now()), .name = name, .created = clock_.now()};
  // Web addresses of the first environment have no suffix; those of others are told apart by it.
  if (!environments_.empty()) {
    std::string suffix = name;
    std::replace(suffix.begin(), suffix.end(), '_', '-');
    const bool taken = std::any_of(environments_.begin(), environments_.end(),
                                   [&](const auto& other) { return other.second.web_suffix == suffix; });
    environment.web_suffix = taken ? suffix + "-" + environment.id.text().substr(3, 5) : suffix;
  }
  by_name_[name] = environment.id;
  put(environments_[environment.id] = environment);
  return environment.id;
}

Result<void> Environments::update(std::string_view name, const EnvironmentChange& change) {
  PROA_TRY(const EnvironmentId id, resolve(name));
  Environment changed = environments_.at(id);
  if (change.name && *change.name != changed.name) {
    PROA_TRY_VOID(check_name(*change.name));
    changed.name = *change.name;
  }
  if (change.web_suffix && *change.web_suffix != changed.web_suffix) {
    const bool allowed =
        change.web_suffix->size() <= 40 && std::all_of(change.web_suffix->begin(), change.web_suffix->end(),
                                                       [](char c) { return alphanumeric(c) || c == '-'; });
    if (!allowed)
      return invalid_argument("The web suffix '" + *change.web_suffix +
                              "' is not allowed: at most 40 letters, digits and dashes");
    for (const auto& [other, environment] : environments_) {
      if (other != id && environment.web_suffix == *change.web_suffix) {
        return already_exists("The web suffix '" + *change.web_suffix + "' is that of environment '" +
                              environment.name + "'");
      }
    }
    changed.web_suffix = *change.web_suffix;
  }
  if (change.image_builder_version) changed.image_builder_version = *change.image_builder_version;
  by_name_.erase(environments_.at(id).name);
  by_name_[changed.name] = id;
  put(environments_[id] = std::move(changed));
  return {};
}

Result<void> Environments::remove(std::string_view name) {
  if (name.empty()) return invalid_argument("Which environment is to be deleted? No name was given");
  PROA_TRY(const EnvironmentId id, resolve(name));
  if (id == default_) {
    return failed_precondition("Environment '" + std::string(name) + "' is the default one and cannot be deleted");
  }
  by_name_.erase(environments_.at(id).name);
  environments_.erase(id);
  ledger_.erase(store::Table::kEnvironment, key_of(id));
  for (EnvironmentListener* listener : listeners_) listener->environment_removed(id);
  return {};
}

}  // namespace proa::control
