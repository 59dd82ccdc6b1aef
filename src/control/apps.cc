// SPDX-License-Identifier: Apache-2.0
#include "control/apps.h"

#include <algorithm>

#include "base/digest.h"

namespace proa::control {
namespace {

using store::Table;

// Of what an app needs a client's heartbeats to go on.
bool needs_heartbeats(AppState state) {
  return state == AppState::kInitializing || state == AppState::kEphemeral || state == AppState::kDetached;
}

Bytes deployment_key(AppId app, std::uint32_t version) { return key_of(app) + key_of(std::uint64_t{version}); }

Error stopped_error(const App& app) {
  std::string message = "App " + app.id.text() + (app.name.empty() ? "" : " ('" + app.name + "')");
  message += app.state == AppState::kStopping ? " is stopping" : " has stopped";
  if (!app.stop_reason.empty()) message += ": " + app.stop_reason;
  return failed_precondition(std::move(message));
}

template <class K, class V>
void load_into(store::Store& store, Table table, Result<void>& result, std::unordered_map<K, V>& into) {
  auto loaded = store.load(table, [&](BytesView, BytesView value) {
    auto record = decode<V>(value);
    if (record.ok()) {
      const K id = record->id;
      into[id] = std::move(record).value();
    } else if (result.ok()) {
      result = record.error();
    }
  });
  if (result.ok()) result = std::move(loaded);
}

Autoscaling merged(Autoscaling settings, const Autoscaling& over) {
  if (over.containers_min) settings.containers_min = over.containers_min;
  if (over.containers_max) settings.containers_max = over.containers_max;
  if (over.containers_buffer) settings.containers_buffer = over.containers_buffer;
  if (over.scaledown_window_seconds) settings.scaledown_window_seconds = over.scaledown_window_seconds;
  return settings;
}

Result<void> check_tags(const std::map<std::string, std::string>& tags, std::size_t tags_max) {
  constexpr std::size_t kTagBytesMax = 256;
  if (tags.size() > tags_max) {
    return invalid_argument("An app has at most " + std::to_string(tags_max) + " tags, not " +
                            std::to_string(tags.size()));
  }
  for (const auto& [key, value] : tags) {
    if (key.empty() || key.size() > kTagBytesMax || value.size() > kTagBytesMax) {
      return invalid_argument("The tag '" + key.substr(0, kTagBytesMax) +
                              "' is not allowed: keys and values have at most 256 bytes");
    }
  }
  return {};
}

}  // namespace

Apps::Apps(Loop& loop, Random& random, Ledger& ledger, Logger& log, Config config)
    : loop_(loop), random_(random), ledger_(ledger), log_(log), config_(config) {}

Apps::~Apps() { loop_.cancel(timer_); }

Result<void> Apps::load(store::Store& store) {
  Result<void> result;
  load_into(store, Table::kApp, result, apps_);
  load_into(store, Table::kFunction, result, functions_);
  load_into(store, Table::kDefinition, result, definitions_);
  load_into(store, Table::kClass, result, classes_);
  PROA_TRY_VOID(std::move(result));
  PROA_TRY_VOID(store.load(Table::kDeployment, [&](BytesView, BytesView value) {
    auto deployment = decode<Deployment>(value);
    if (!deployment.ok()) {
      result = deployment.error();
      return;
    }
    members_[deployment->app].versions.push_back(deployment->version);
    const std::pair key{deployment->app, deployment->version};
    deployments_[key] = std::move(deployment).value();
  }));
  PROA_TRY_VOID(std::move(result));
  for (const auto& [id, app] : apps_) {
    created_.seen(app.created);
    if (!app.live()) stopped_.insert(id);
    if (app.name.empty()) continue;
    const std::pair name{app.environment, app.name};
    if (app.live()) {
      by_name_[name] = id;
    } else if (AppId& last = previous_[name]; last.empty() || apps_.at(last).stopped < app.stopped) {
      last = id;
    }
  }
  for (const auto& [id, function] : functions_) {
    if (!function.base.empty()) {
      variants_[function.base].push_back(id);
      continue;
    }
    Members& members = members_[function.app];
    members.functions.push_back(id);
    if (function.current.empty() && !function.removed) members.unpublished[function.name] = id;
  }
  for (const auto& [id, item] : classes_) members_[item.app].classes.push_back(id);
  for (auto& [id, members] : members_) std::sort(members.versions.begin(), members.versions.end());
  return {};
}

void Apps::resume() {
  for (const auto& [id, app] : apps_) {
    if (needs_heartbeats(app.state)) {
      heartbeats_[id] = loop_.now();
      watch(loop_.now() + config_.heartbeat_expiry);
    }
  }
  if (!stopped_.empty()) watch(loop_.now() + std::chrono::minutes(1));
  std::vector<AppId> stopping;
  for (const AppId id : stopped_) {
    if (apps_.at(id).state == AppState::kStopping) stopping.push_back(id);
  }
  for (const AppId id : stopping) {
    for (AppListener* listener : listeners_) listener->app_stopping(id);
  }
}

// --- Apps ---------------------------------------------------------------------------------------------------

Result<AppId> Apps::create(NewApp app) {
  if (!needs_heartbeats(app.state)) return invalid_argument("An app begins as ephemeral, detached or initializing");
  PROA_TRY_VOID(check_tags(app.tags, config_.tags_max));
  if (apps_.size() - stopped_.size() >= config_.apps_live_max) {
    return resource_exhausted("The app was not created: " + std::to_string(apps_.size() - stopped_.size()) +
                              " apps are live, the configured limit; stop some");
  }
  const AppId id = AppId::make(random_, loop_.now());
  App& made = apps_[id];
  made = App{.id = id,
             .environment = app.environment,
             .description = std::move(app.description),
             .state = app.state,
             .created = created_.next(loop_.now()),
             .tags = std::move(app.tags),
             .created_by = std::move(app.created_by)};
  put(made);
  heartbeats_[id] = loop_.now();
  watch(loop_.now() + config_.heartbeat_expiry);
  return id;
}

Result<AppId> Apps::get(EnvironmentId environment, const std::string& name, Lookup lookup, const std::string& by) {
  const auto found = by_name_.find({environment, name});
  if (found != by_name_.end()) return found->second;
  if (lookup == Lookup::kExisting)
    return not_found("App '" + name + "' not found among the deployed apps of this environment");
  PROA_TRY_VOID(check_object_name("App name", name));
  PROA_TRY(
      const AppId id,
      create({.environment = environment, .state = AppState::kInitializing, .description = name, .created_by = by}));
  App& app = apps_.at(id);
  app.name = name;
  app.state = AppState::kDeployed;
  put(app);
  heartbeats_.erase(id);
  by_name_[{environment, name}] = id;
  return id;
}

AppId Apps::previous(EnvironmentId environment, const std::string& name) const {
  const auto found = previous_.find({environment, name});
  return found == previous_.end() ? AppId() : found->second;
}

const App* Apps::find(AppId app) const {
  const auto found = apps_.find(app);
  return found == apps_.end() ? nullptr : &found->second;
}

Result<const App*> Apps::require(AppId app) const {
  const App* const found = find(app);
  if (found == nullptr) return not_found("App '" + app.text() + "' not found");
  return found;
}

Result<App*> Apps::live_app(AppId app) {
  const auto found = apps_.find(app);
  if (found == apps_.end()) return not_found("App '" + app.text() + "' not found");
  if (!found->second.live()) return stopped_error(found->second);
  return &found->second;
}

std::vector<AppId> Apps::list(EnvironmentId environment) const {
  std::vector<const App*> all;
  for (const auto& [id, app] : apps_) {
    if (app.environment == environment) all.push_back(&app);
  }
  std::sort(all.begin(), all.end(), [](const App* a, const App* b) { return a->created < b->created; });
  std::vector<AppId> ids;
  ids.reserve(all.size());
  for (const App* app : all) ids.push_back(app->id);
  return ids;
}

Result<void> Apps::heartbeat(AppId app) {
  PROA_TRY(const App* live, live_app(app));
  if (needs_heartbeats(live->state)) heartbeats_[app] = loop_.now();
  return {};
}

Result<void> Apps::client_disconnect(AppId app, const std::string& reason) {
  const auto found = apps_.find(app);
  if (found == apps_.end()) return not_found("App '" + app.text() + "' not found");
  App& known = found->second;
  if (known.state == AppState::kEphemeral || known.state == AppState::kInitializing) {
    begin_stopping(known, reason);
  } else if (known.state == AppState::kDetached) {
    known.state = AppState::kDetachedDisconnected;
    put(known);
    heartbeats_.erase(app);
    if (!has_work_ || !has_work_(app)) begin_stopping(known, "its client left and its work is done");
  }
  return {};
}

Result<void> Apps::stop(AppId app, const std::string& reason) {
  const auto found = apps_.find(app);
  if (found == apps_.end()) return not_found("App '" + app.text() + "' not found");
  if (found->second.live()) begin_stopping(found->second, reason);
  return {};
}

void Apps::begin_stopping(App& app, const std::string& reason) {
  const AppId id = app.id;
  if (!app.name.empty()) {
    const std::pair name{app.environment, app.name};
    if (const auto found = by_name_.find(name); found != by_name_.end() && found->second == id) by_name_.erase(found);
    previous_[name] = id;
  }
  app.state = AppState::kStopping;
  app.stop_reason = reason;
  app.stopped = loop_.now();
  put(app);
  heartbeats_.erase(id);
  stopped_.insert(id);
  log_.info("app.stopping", {{"app", id.text()}, {"reason", reason}});
  for (AppListener* listener : listeners_) listener->app_stopping(id);
}

void Apps::stopped(AppId app) {
  const auto found = apps_.find(app);
  if (found == apps_.end() || found->second.state != AppState::kStopping) return;
  found->second.state = AppState::kStopped;
  found->second.stopped = loop_.now();
  put(found->second);
  watch(loop_.now() + config_.stopped_definitions_kept);
  for (AppListener* listener : listeners_) listener->app_stopped(app);
}

void Apps::idle(AppId app) {
  const auto found = apps_.find(app);
  if (found == apps_.end() || found->second.state != AppState::kDetachedDisconnected) return;
  begin_stopping(found->second, "its client left and its work is done");
}

Result<void> Apps::set_tags(AppId app, std::map<std::string, std::string> tags) {
  PROA_TRY(App * live, live_app(app));
  PROA_TRY_VOID(check_tags(tags, config_.tags_max));
  live->tags = std::move(tags);
  put(*live);
  return {};
}

std::vector<Deployment> Apps::deployments(AppId app) const {
  std::vector<Deployment> all;
  const auto members = members_.find(app);
  if (members == members_.end()) return all;
  for (auto version = members->second.versions.rbegin(); version != members->second.versions.rend(); ++version) {
    all.push_back(deployments_.at({app, *version}));
  }
  return all;
}

// --- Functions and classes ----------------------------------------------------------------------------------

Result<Function*> Apps::own_function(AppId app, FunctionId function) {
  const auto found = functions_.find(function);
  if (found == functions_.end()) return not_found("Function '" + function.text() + "' not found");
  if (found->second.app != app || !found->second.base.empty()) {
    return invalid_argument("Function '" + function.text() + "' is not one of app " + app.text());
  }
  return &found->second;
}

Result<FunctionId> Apps::reserve_function(AppId app, const std::string& name, FunctionId existing, Bytes reservation) {
  PROA_TRY_VOID(live_app(app));
  constexpr std::size_t kNameBytesMax = 512;
  if (name.empty() || name.size() > kNameBytesMax) {
    return invalid_argument("A function's name has 1 to 512 bytes, not " + std::to_string(name.size()));
  }
  Members& members = members_[app];
  if (existing.empty()) {
    const auto reserved = members.unpublished.find(name);
    if (reserved != members.unpublished.end()) existing = reserved->second;
  }
  if (!existing.empty()) {
    PROA_TRY(Function * function, own_function(app, existing));
    function->reservation = std::move(reservation);
    function->name = name;
    put(*function);
    return existing;
  }
  if (members.functions.size() >= config_.functions_max) {
    return resource_exhausted("Function '" + name + "' was not created: app " + app.text() + " has " +
                              std::to_string(members.functions.size()) + " functions, the configured limit");
  }
  const FunctionId id = FunctionId::make(random_, loop_.now());
  Function& function = functions_[id];
  function =
      Function{.id = id, .app = app, .name = name, .reservation = std::move(reservation), .created = loop_.now()};
  members.functions.push_back(id);
  members.unpublished[name] = id;
  put(function);
  return id;
}

Result<Declared> Apps::declare_function(AppId app, FunctionSpec spec, FunctionId existing) {
  if (check_parts_) PROA_TRY_VOID(check_parts_(spec));
  if (existing.empty()) {
    PROA_TRY(existing, reserve_function(app, spec.name, existing, {}));
  }
  PROA_TRY_VOID(live_app(app));
  PROA_TRY(Function * function, own_function(app, existing));
  for (const DefinitionId known : {function->pending, function->current}) {
    const auto found = definitions_.find(known);
    if (found == definitions_.end() || found->second.spec != spec) continue;
    // A pending definition that is not what the function is now declared to be is dropped with the next
    // publication; until then another client may still mean to publish it.
    if (function->pending != known) {
      function->pending = known == function->current ? DefinitionId() : known;
      put(*function);
    }
    return Declared{existing, known};
  }
  const DefinitionId id = DefinitionId::make(random_, loop_.now());
  const DefinitionId superseded = std::exchange(function->pending, id);
  function->name = spec.name;
  Definition& definition = definitions_[id];
  definition = Definition{.id = id, .function = existing, .spec = std::move(spec), .created = loop_.now()};
  ledger_.put(Table::kDefinition, key_of(id), definition);
  put(*function);
  if (!superseded.empty() && !referenced(*function, superseded)) drop_definition(superseded);
  return Declared{existing, id};
}

Result<ClassId> Apps::declare_class(AppId app, ClassId existing) {
  PROA_TRY_VOID(live_app(app));
  Members& members = members_[app];
  if (!existing.empty()) {
    const auto found = classes_.find(existing);
    if (found == classes_.end()) return not_found("Class '" + existing.text() + "' not found");
    if (found->second.app != app)
      return invalid_argument("Class '" + existing.text() + "' is not one of app " + app.text());
    return existing;
  }
  if (members.classes.size() >= config_.functions_max) {
    return resource_exhausted("The class was not created: app " + app.text() + " has too many classes");
  }
  const ClassId id = ClassId::make(random_, loop_.now());
  classes_[id] = Class{.id = id, .app = app};
  members.classes.push_back(id);
  ledger_.put(Table::kClass, key_of(id), classes_[id]);
  return id;
}

Result<void> Apps::check_publication(const App& app, const Publication& publication) const {
  const AppState state = publication.state.value_or(app.state);
  const bool fits = state == app.state || (state == AppState::kDeployed && app.state == AppState::kInitializing);
  if (!fits)
    return failed_precondition("App " + app.id.text() +
                               " was created for another kind of run and cannot be published as this one");
  if (state == AppState::kInitializing)
    return invalid_argument("An app that is being deployed is published as deployed");
  const std::string& name = publication.name.empty() ? app.name : publication.name;
  if (state == AppState::kDeployed) {
    PROA_TRY_VOID(check_object_name("App name", name));
    const auto owner = by_name_.find({app.environment, name});
    if (owner != by_name_.end() && owner->second != app.id) {
      return already_exists("App '" + name + "' was deployed by somebody else meanwhile; deploy again to update it");
    }
  }
  PROA_TRY_VOID(check_tags(publication.tags, config_.tags_max));
  for (const auto& [tag, id] : publication.functions) {
    const auto function = functions_.find(id);
    if (function == functions_.end()) return not_found("Function '" + tag + "' (" + id.text() + ") not found");
    if (function->second.app != app.id || !function->second.base.empty()) {
      return invalid_argument("Function '" + tag + "' (" + id.text() + ") is not one of app " + app.id.text());
    }
    const auto chosen = publication.definitions.find(id);
    if (chosen == publication.definitions.end()) {
      if (!function->second.pending.empty() || !function->second.current.empty()) continue;
      return failed_precondition("Function '" + tag + "' was reserved but never declared");
    }
    const auto definition = definitions_.find(chosen->second);
    if (definition == definitions_.end()) {
      return failed_precondition("The definition of function '" + tag +
                                 "' is gone: it was declared anew meanwhile; publish again");
    }
    if (definition->second.function != id) {
      return invalid_argument("Definition " + chosen->second.text() + " is not one of function '" + tag + "'");
    }
  }
  for (const auto& [tag, id] : publication.classes) {
    const auto found = classes_.find(id);
    if (found == classes_.end() || found->second.app != app.id) {
      return invalid_argument("Class '" + tag + "' (" + id.text() + ") is not one of app " + app.id.text());
    }
  }
  return {};
}

Result<Published> Apps::publish(Publication publication) {
  PROA_TRY(App * app, live_app(publication.app));
  PROA_TRY_VOID(check_publication(*app, publication));
  const AppState state = publication.state.value_or(app->state);
  if (state == AppState::kDeployed) {
    if (!publication.name.empty() && app->name != publication.name) {
      by_name_.erase({app->environment, app->name});
      app->name = publication.name;
    }
    by_name_[{app->environment, app->name}] = app->id;
    ++app->version;
    heartbeats_.erase(app->id);
  }
  Members& members = members_[app->id];
  publish_classes(publication, members);
  std::vector<FunctionId> changed;
  std::unordered_set<FunctionId> in_layout;
  for (const auto& [tag, id] : publication.functions) {
    in_layout.insert(id);
    Function& function = functions_.at(id);
    const auto chosen = publication.definitions.find(id);
    DefinitionId next = chosen != publication.definitions.end() ? chosen->second : function.pending;
    if (next.empty()) next = function.current;
    members.unpublished.erase(function.name);
    if (next != function.current || function.removed || function.autoscaling_override != Autoscaling{})
      changed.push_back(id);
    function.current = next;
    if (function.pending == next) function.pending = {};
    function.removed = false;
    function.autoscaling_override = {};
    function.name = tag;
    put(function);
  }
  for (const FunctionId id : members.functions) {
    Function& function = functions_.at(id);
    if (in_layout.contains(id) || function.current.empty() || function.removed) continue;
    function.removed = true;
    put(function);
    changed.push_back(id);
  }
  app->state = state;
  app->functions = publication.functions;
  app->classes = publication.classes;
  app->tags = publication.tags;
  app->published = loop_.now();
  put(*app);
  if (state == AppState::kDeployed) remember_deployment(*app, publication);
  const Published published{.version = app->version, .at = app->published};
  drop_unreferenced(*app);
  for (const FunctionId id : changed) tell_changed(id);
  return published;
}

// A class gets its name with its place in a layout. One that was declared and has none is abandoned.
void Apps::publish_classes(const Publication& publication, Members& members) {
  for (const auto& [tag, id] : publication.classes) {
    Class& item = classes_.at(id);
    if (item.name == tag) continue;
    item.name = tag;
    ledger_.put(Table::kClass, key_of(id), item);
  }
  std::erase_if(members.classes, [&](ClassId id) {
    if (!classes_.at(id).name.empty()) return false;
    classes_.erase(id);
    ledger_.erase(Table::kClass, key_of(id));
    return true;
  });
}

Result<Published> Apps::rollback(AppId app, std::uint32_t version, const std::string& by) {
  PROA_TRY(App * live, live_app(app));
  const auto found = deployments_.find({app, version});
  if (live->state != AppState::kDeployed || found == deployments_.end()) {
    return not_found("App '" + live->name + "' has no version " + std::to_string(version) + " to go back to; " +
                     std::to_string(config_.deployments_kept) + " versions are kept");
  }
  const Deployment& old = found->second;
  return publish({.app = app,
                  .name = live->name,
                  .functions = old.functions,
                  .classes = old.classes,
                  .definitions = old.definitions,
                  .tags = old.tags,
                  .deployment_tag = old.tag,
                  .client_version = old.client_version,
                  .deployed_by = by,
                  .commit_info = old.commit_info,
                  .rollback_of = version});
}

void Apps::tell_changed(FunctionId function) {
  std::vector<FunctionId> all{function};
  if (const auto variants = variants_.find(function); variants != variants_.end()) {
    all.insert(all.end(), variants->second.begin(), variants->second.end());
  }
  for (const FunctionId id : all) {
    for (AppListener* listener : listeners_) listener->function_changed(id);
  }
}

// --- What is kept and what goes -----------------------------------------------------------------------------

void Apps::remember_deployment(const App& app, const Publication& publication) {
  Deployment deployment{.app = app.id,
                        .version = app.version,
                        .deployed = app.published,
                        .tag = publication.deployment_tag,
                        .client_version = publication.client_version,
                        .deployed_by = publication.deployed_by,
                        .commit_info = publication.commit_info,
                        .functions = app.functions,
                        .classes = app.classes,
                        .definitions = {},
                        .tags = app.tags,
                        .rollback_of = publication.rollback_of};
  for (const auto& [tag, id] : app.functions) deployment.definitions[id] = functions_.at(id).current;
  ledger_.put(Table::kDeployment, deployment_key(app.id, app.version), deployment);
  deployments_[{app.id, app.version}] = std::move(deployment);
  Members& members = members_[app.id];
  members.versions.push_back(app.version);
  while (members.versions.size() > config_.deployments_kept) forget_deployment(app.id, members.versions.front());
}

void Apps::forget_deployment(AppId app, std::uint32_t version) {
  deployments_.erase({app, version});
  std::erase(members_[app].versions, version);
  ledger_.erase(Table::kDeployment, deployment_key(app, version));
}

bool Apps::referenced(const Function& function, DefinitionId definition) const {
  if (definition == function.current || definition == function.pending) return true;
  const auto members = members_.find(function.app);
  if (members == members_.end()) return false;
  for (const std::uint32_t version : members->second.versions) {
    const auto& definitions = deployments_.at({function.app, version}).definitions;
    const auto found = definitions.find(function.id);
    if (found != definitions.end() && found->second == definition) return true;
  }
  return false;
}

void Apps::drop_definition(DefinitionId definition) {
  if (definitions_.erase(definition) != 0) ledger_.erase(Table::kDefinition, key_of(definition));
}

void Apps::drop_function(FunctionId function) {
  if (const auto variants = variants_.find(function); variants != variants_.end()) {
    for (const FunctionId id : variants->second) {
      functions_.erase(id);
      variant_specs_.erase(id);
      ledger_.erase(Table::kFunction, key_of(id));
    }
    variants_.erase(variants);
  }
  functions_.erase(function);
  ledger_.erase(Table::kFunction, key_of(function));
}

// After a publication: definitions that neither run, nor wait, nor belong to a version one can go back to;
// functions that are in no such version; and reservations that were not taken up for long.
void Apps::drop_unreferenced(const App& app) {
  std::unordered_set<DefinitionId> kept;
  std::unordered_set<FunctionId> in_versions;
  Members& members = members_[app.id];
  for (const std::uint32_t version : members.versions) {
    for (const auto& [function, definition] : deployments_.at({app.id, version}).definitions) {
      kept.insert(definition);
      in_versions.insert(function);
    }
  }
  std::unordered_set<FunctionId> own(members.functions.begin(), members.functions.end());
  for (const FunctionId id : members.functions) {
    const Function& function = functions_.at(id);
    if (!function.current.empty()) kept.insert(function.current);
    if (!function.pending.empty()) kept.insert(function.pending);
    const bool abandoned = function.current.empty() && function.created + config_.reservation_kept < loop_.now();
    const bool gone = function.removed && !in_versions.contains(id) && app.state == AppState::kDeployed;
    if (!abandoned && !gone) continue;
    kept.erase(function.current);
    kept.erase(function.pending);
    if (const auto reserved = members.unpublished.find(function.name);
        reserved != members.unpublished.end() && reserved->second == id) {
      members.unpublished.erase(reserved);
    }
    own.erase(id);
    drop_function(id);
  }
  std::vector<DefinitionId> dropped;
  std::erase_if(members.functions, [&](FunctionId id) { return !own.contains(id); });
  for (const auto& [id, definition] : definitions_) {
    const auto owner = functions_.find(definition.function);
    const bool ours = owner == functions_.end() || owner->second.app == app.id;
    if (ours && !kept.contains(id)) dropped.push_back(id);
  }
  for (const DefinitionId id : dropped) drop_definition(id);
}

void Apps::forget_code(App& app) {
  const AppId id = app.id;
  if (const auto members = members_.find(id); members != members_.end()) {
    const std::unordered_set<FunctionId> own(members->second.functions.begin(), members->second.functions.end());
    std::vector<DefinitionId> dropped;
    for (const auto& [definition, record] : definitions_) {
      if (own.contains(record.function)) dropped.push_back(definition);
    }
    for (const DefinitionId definition : dropped) drop_definition(definition);
    for (const FunctionId function : own) drop_function(function);
    for (const ClassId item : members->second.classes) {
      classes_.erase(item);
      ledger_.erase(Table::kClass, key_of(item));
    }
    while (!members->second.versions.empty()) forget_deployment(id, members->second.versions.back());
    members_.erase(id);
  }
  app.functions.clear();
  app.classes.clear();
  app.code_forgotten = true;
  put(app);
  for (AppListener* listener : listeners_) listener->app_forgotten(id);
}

void Apps::forget(AppId app) {
  const App& record = apps_.at(app);
  const auto last = previous_.find({record.environment, record.name});
  if (last != previous_.end() && last->second == app) previous_.erase(last);
  apps_.erase(app);
  stopped_.erase(app);
  ledger_.erase(Table::kApp, key_of(app));
  for (AppListener* listener : listeners_) listener->app_erased(app);
}

// --- Variants and lookups -----------------------------------------------------------------------------------

Result<FunctionId> Apps::bind_variant(FunctionId base, Bytes parameters, Bytes options) {
  PROA_TRY(const Function* function, require(base));
  if (!function->base.empty()) {
    return invalid_argument("Function '" + base.text() +
                            "' is itself a variant; parameters and options are bound to its base '" +
                            function->base.text() + "'");
  }
  PROA_TRY_VOID(live_app(function->app));
  // The id follows from what it is for, so that the same request gives the same id whatever was forgotten.
  Hasher hasher(Hasher::Kind::kSha256);
  hasher.update(key_of(base) + key_of(std::uint64_t{parameters.size()}));
  hasher.update(parameters);
  hasher.update(options);
  const Bytes hash = hasher.finish();
  IdBits bits;
  for (std::size_t i = 0; i < 8; ++i) {
    bits.high = (bits.high << 8) | static_cast<std::uint8_t>(hash[i]);
    bits.low = (bits.low << 8) | static_cast<std::uint8_t>(hash[8 + i]);
  }
  const FunctionId id(bits);
  if (functions_.contains(id)) return id;
  if (!options.empty()) {
    const FunctionSpec* const latest = latest_spec(base);
    if (latest == nullptr)
      return failed_precondition("Function '" + base.text() +
                                 "' was not declared yet: options have nothing to apply to");
    const auto face = faces_.find(latest->face);
    if (face == faces_.end())
      return internal_error("no options are known for functions of the face '" + latest->face + "'");
    PROA_TRY_VOID(face->second->apply(*latest, options));
  }
  std::vector<FunctionId>& variants = variants_[base];
  if (variants.size() >= config_.variants_max) {
    return resource_exhausted("Function '" + function->name + "' has " + std::to_string(variants.size()) +
                              " sets of parameters and options, the configured limit");
  }
  variants.push_back(id);
  Function variant{.id = id,
                   .app = function->app,
                   .name = function->name,
                   .base = base,
                   .parameters = std::move(parameters),
                   .options = std::move(options),
                   .created = loop_.now()};
  put(variant);
  functions_[id] = std::move(variant);
  for (AppListener* listener : listeners_) listener->function_changed(id);
  return id;
}

Result<FunctionId> Apps::find_function(EnvironmentId environment, const std::string& app,
                                       const std::string& name) const {
  const auto owner = by_name_.find({environment, app});
  if (owner == by_name_.end())
    return not_found("App '" + app + "' not found among the deployed apps of this environment");
  const App& record = apps_.at(owner->second);
  const auto found = record.functions.find(name);
  if (found == record.functions.end()) return not_found("Function '" + name + "' not found in app '" + app + "'");
  return found->second;
}

Result<ClassId> Apps::find_class(EnvironmentId environment, const std::string& app, const std::string& name) const {
  const auto owner = by_name_.find({environment, app});
  if (owner == by_name_.end())
    return not_found("App '" + app + "' not found among the deployed apps of this environment");
  const App& record = apps_.at(owner->second);
  const auto found = record.classes.find(name);
  if (found == record.classes.end()) return not_found("Class '" + name + "' not found in app '" + app + "'");
  return found->second;
}

const Function* Apps::function(FunctionId function) const {
  const auto found = functions_.find(function);
  return found == functions_.end() ? nullptr : &found->second;
}

Result<const Function*> Apps::require(FunctionId id) const {
  const Function* const found = function(id);
  if (found == nullptr) return not_found("Function '" + id.text() + "' not found");
  return found;
}

const Class* Apps::find(ClassId id) const {
  const auto found = classes_.find(id);
  return found == classes_.end() ? nullptr : &found->second;
}

std::vector<FunctionId> Apps::variants(FunctionId base) const {
  const auto found = variants_.find(base);
  return found == variants_.end() ? std::vector<FunctionId>() : found->second;
}

DefinitionId Apps::current_definition(FunctionId id) const {
  const Function* const found = function(id);
  if (found == nullptr) return {};
  return found->base.empty() ? found->current : current_definition(found->base);
}

DefinitionId Apps::latest_definition(FunctionId id) const {
  const Function* const found = function(id);
  if (found == nullptr) return {};
  if (!found->base.empty()) return latest_definition(found->base);
  return found->pending.empty() ? found->current : found->pending;
}

const FunctionSpec* Apps::spec_of(const Function& function, DefinitionId definition) const {
  const auto found = definitions_.find(definition);
  if (found == definitions_.end()) return nullptr;
  if (function.base.empty() || function.options.empty()) return &found->second.spec;
  VariantSpec& cached = variant_specs_[function.id];
  if (cached.of == definition) return &cached.spec;
  const auto face = faces_.find(found->second.spec.face);
  if (face == faces_.end()) return nullptr;
  auto applied = face->second->apply(found->second.spec, function.options);
  if (!applied.ok()) {
    // They fitted when they were bound, and the base has changed since.
    log_.warning("function.options_do_not_fit", {{"function", function.id.text()}, {"why", applied.error().message}});
    return nullptr;
  }
  cached.of = definition;
  cached.spec = std::move(applied).value();
  return &cached.spec;
}

const FunctionSpec* Apps::spec(FunctionId id) const {
  const Function* const found = function(id);
  return found == nullptr ? nullptr : spec_of(*found, current_definition(id));
}

const FunctionSpec* Apps::latest_spec(FunctionId id) const {
  const Function* const found = function(id);
  return found == nullptr ? nullptr : spec_of(*found, latest_definition(id));
}

const Definition* Apps::definition(DefinitionId id) const {
  const auto found = definitions_.find(id);
  return found == definitions_.end() ? nullptr : &found->second;
}

Autoscaling Apps::autoscaling(FunctionId id) const {
  const FunctionSpec* const declared = spec(id);
  const Function* const found = function(id);
  if (found == nullptr) return {};
  return merged(declared == nullptr ? Autoscaling() : declared->autoscaling, found->autoscaling_override);
}

Result<Autoscaling> Apps::override_autoscaling(FunctionId id, const Autoscaling& settings) {
  const auto found = functions_.find(id);
  if (found == functions_.end()) return not_found("Function '" + id.text() + "' not found");
  PROA_TRY_VOID(live_app(found->second.app));
  const Autoscaling next = merged(autoscaling(id), settings);
  const std::uint32_t max = next.containers_max.value_or(0);
  if (max != 0 && next.containers_min.value_or(0) > max) {
    return invalid_argument("min_containers is " + std::to_string(*next.containers_min) +
                            ", more than max_containers, which is " + std::to_string(max));
  }
  found->second.autoscaling_override = merged(found->second.autoscaling_override, settings);
  put(found->second);
  for (AppListener* listener : listeners_) listener->function_changed(id);
  return next;
}

std::optional<FunctionView> Apps::view(FunctionId id) const {
  const Function* const found = function(id);
  if (found == nullptr) return std::nullopt;
  const Function* const base = found->base.empty() ? found : function(found->base);
  const App* const app = find(found->app);
  if (base == nullptr || app == nullptr || !app->live() || base->removed || base->current.empty()) return std::nullopt;
  const FunctionSpec* const declared = spec(id);
  if (declared == nullptr) return std::nullopt;
  return FunctionView{.id = id,
                      .base = base->id,
                      .app = app->id,
                      .definition = base->current,
                      .spec = declared,
                      .autoscaling = merged(declared->autoscaling, found->autoscaling_override),
                      .deployed = app->state == AppState::kDeployed};
}

void Apps::environment_removed(EnvironmentId environment) {
  for (const AppId id : list(environment)) (void)stop(id, "its environment was deleted");
}

// --- Time ---------------------------------------------------------------------------------------------------

// One timer, set to the first moment at which something may be due; sweep() finds out what is.
void Apps::watch(Time due) {
  if (due >= timer_due_) return;
  loop_.cancel(timer_);
  timer_due_ = due;
  timer_ = loop_.at(due, [this] {
    timer_due_ = kNever;
    sweep();
  });
}

void Apps::sweep() {
  const Time now = loop_.now();
  Time next = kNever;
  std::vector<AppId> silent;
  for (const auto& [id, last] : heartbeats_) {
    const Time due = last + config_.heartbeat_expiry;
    if (due <= now) {
      silent.push_back(id);
    } else {
      next = std::min(next, due);
    }
  }
  std::vector<AppId> done;
  for (const AppId id : stopped_) {
    const App& app = apps_.at(id);
    if (app.state != AppState::kStopped) continue;
    const Time due = app.stopped + (app.code_forgotten ? config_.stopped_apps_kept : config_.stopped_definitions_kept);
    if (due <= now) {
      done.push_back(id);
      if (!app.code_forgotten)
        next = std::min(next, std::max(now + std::chrono::minutes(1), app.stopped + config_.stopped_apps_kept));
    } else {
      next = std::min(next, due);
    }
  }
  for (const AppId id : silent) {
    App& app = apps_.at(id);
    if (app.state == AppState::kDetached) {
      (void)client_disconnect(id, "");
    } else {
      begin_stopping(
          app, "its client has not been heard of for " +
                   std::to_string(std::chrono::duration_cast<std::chrono::seconds>(config_.heartbeat_expiry).count()) +
                   " s");
    }
  }
  for (const AppId id : done) {
    App& app = apps_.at(id);
    if (app.code_forgotten) {
      forget(id);
    } else {
      forget_code(app);
    }
  }
  if (next != kNever) watch(next);
}

}  // namespace proa::control
