// SPDX-License-Identifier: Apache-2.0
//
// Apps: apps, their functions and classes, and which definition of each is the current one.
//
// A function keeps its id for the life of its app, through every redeploy; a definition is what it was
// declared to be at one time. Declaring makes a pending definition; publishing makes it current. Until then
// what runs is the old one.
//
// On the server's loop. Everything returned by pointer is valid until the next call that changes apps: do
// not keep it across a co_await.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "control/calls.h"
#include "control/environments.h"
#include "control/keys.h"
#include "control/ledger.h"
#include "control/types.h"
#include "rt/loop.h"

namespace proa::control {

// Stored. DO NOT CHANGE numbers.
enum class AppState : std::uint8_t {
  kInitializing = 1,  // Created by a deploy that has not published yet.
  kEphemeral = 2,     // Lives as long as its client's heartbeats.
  kDetached = 3,
  kDetachedDisconnected = 4,  // Its client has left; stops when its work is done.
  kDeployed = 5,
  kStopping = 6,
  kStopped = 7,
};

struct App {
  AppId id;
  EnvironmentId environment;
  std::string name;  // Of a deployment; "" for others.
  std::string description;
  AppState state = AppState::kInitializing;
  Time created;
  Time stopped;
  std::string stop_reason;
  std::map<std::string, FunctionId> functions;  // The published layout, by tag.
  std::map<std::string, ClassId> classes;
  std::map<std::string, std::string> tags;
  std::uint32_t version = 0;    // Grows with each publication of a deployed app.
  Time published;               // Last; 0 if never.
  std::string created_by;       // For a person.
  bool code_forgotten = false;  // Stopped for so long that only this record is left.

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.environment), visit(3, self.name), visit(4, self.description);
    visit(5, self.state), visit(6, self.created), visit(7, self.stopped), visit(8, self.stop_reason);
    visit(9, self.functions), visit(10, self.classes), visit(11, self.tags), visit(12, self.version);
    visit(13, self.published), visit(14, self.created_by), visit(15, self.code_forgotten);
  }
  friend bool operator==(const App&, const App&) = default;
  bool live() const { return state != AppState::kStopping && state != AppState::kStopped; }
};

struct Function {
  FunctionId id;
  AppId app;
  std::string name;      // Tag.
  DefinitionId current;  // Empty until published.
  DefinitionId pending;  // Declared and not yet published.
  // A variant of `base`: the same code with its own parameters or options, and its own containers.
  FunctionId base;
  Bytes parameters;
  Bytes options;                     // Face's own form.
  Autoscaling autoscaling_override;  // Until the next publication.
  bool removed = false;              // Not in the layout any more.
  // Metadata that the face gave when it reserved the id, for handles made before the declaration.
  Bytes reservation;
  Time created;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.app), visit(3, self.name), visit(4, self.current), visit(5, self.pending);
    visit(6, self.base), visit(7, self.parameters), visit(8, self.options), visit(9, self.autoscaling_override);
    visit(10, self.removed), visit(11, self.reservation), visit(12, self.created);
  }
  friend bool operator==(const Function&, const Function&) = default;
};

struct Definition {
  DefinitionId id;
  FunctionId function;
  FunctionSpec spec;
  Time created;
  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.function), visit(3, self.spec), visit(4, self.created);
  }
  friend bool operator==(const Definition&, const Definition&) = default;
};

// A class has no code of its own: its service function "Cls.*" has. The id is what handles name.
struct Class {
  ClassId id;
  AppId app;
  std::string name;

  static void fields(auto& visit, auto& self) { visit(1, self.id), visit(2, self.app), visit(3, self.name); }
  friend bool operator==(const Class&, const Class&) = default;
};

// One publication of a deployed app, with what is needed to go back to it.
struct Deployment {
  AppId app;
  std::uint32_t version = 0;
  Time deployed;
  std::string tag;
  std::string client_version;
  std::string deployed_by;
  std::string commit_info;  // Face's own form.
  std::map<std::string, FunctionId> functions;
  std::map<std::string, ClassId> classes;
  std::map<FunctionId, DefinitionId> definitions;
  std::map<std::string, std::string> tags;
  std::uint32_t rollback_of = 0;  // The version that was brought back.

  static void fields(auto& visit, auto& self) {
    visit(1, self.app), visit(2, self.version), visit(3, self.deployed), visit(4, self.tag);
    visit(5, self.client_version), visit(6, self.deployed_by), visit(7, self.commit_info);
    visit(8, self.functions), visit(9, self.classes), visit(10, self.definitions), visit(11, self.tags);
    visit(12, self.rollback_of);
  }
  friend bool operator==(const Deployment&, const Deployment&) = default;
};

// Who must hear of changes: the scheduler, calls, logs, secrets. Told on the loop, after the change.
class AppListener {
 public:
  virtual ~AppListener() = default;
  // The function's current definition or settings changed, or it came to life or was removed.
  virtual void function_changed(FunctionId function) = 0;
  // The app is kStopping: end its containers and inputs, then call Apps::stopped().
  virtual void app_stopping(AppId app) = 0;
  // The app is kStopped: nothing of it runs any more.
  virtual void app_stopped(AppId app) { (void)app; }
  // The app stopped long ago: its code was forgotten, and what belongs to it alone may go.
  virtual void app_forgotten(AppId app) { (void)app; }
  // The app is not known any more.
  virtual void app_erased(AppId app) { (void)app; }
};

// What a face makes of a base's spec when a variant has options of its own.
class VariantOptions {
 public:
  virtual ~VariantOptions() = default;
  // kInvalidArgument if these options cannot be.
  virtual Result<FunctionSpec> apply(const FunctionSpec& base, BytesView options) const = 0;
};

struct NewApp {
  EnvironmentId environment;
  AppState state = AppState::kEphemeral;  // kInitializing, kEphemeral or kDetached.
  std::string description;
  std::map<std::string, std::string> tags;
  std::string created_by;
};

struct Publication {
  AppId app;
  std::optional<AppState> state;  // None: as it is.
  std::string name;               // Of a deployment.
  std::map<std::string, FunctionId> functions;
  std::map<std::string, ClassId> classes;
  // The definition of each function that is to become current. One that is not named takes its pending
  // one, or keeps the current.
  std::map<FunctionId, DefinitionId> definitions;
  std::map<std::string, std::string> tags;
  std::string deployment_tag;
  std::string client_version;
  std::string deployed_by;
  std::string commit_info;
  std::uint32_t rollback_of = 0;
};

struct Published {
  std::uint32_t version = 0;  // 0 unless deployed.
  Time at;
};

struct Declared {
  FunctionId function;
  DefinitionId definition;
};

enum class Lookup : std::uint8_t { kExisting, kCreateIfMissing };

class Apps final : public FunctionBook, public EnvironmentListener {
 public:
  struct Config {
    Duration heartbeat_expiry = std::chrono::seconds(90);        // Clients send one every 15 s.
    Duration stopped_definitions_kept = std::chrono::hours(24);  // Results may be asked for that long.
    Duration stopped_apps_kept = std::chrono::hours(24 * 30);
    Duration reservation_kept = std::chrono::hours(1);  // Of functions that no publication took up.
    std::size_t deployments_kept = 20;                  // For each app; one can go back to these.
    std::size_t functions_max = 10'000;                 // For each app, variants apart.
    std::size_t variants_max = 10'000;                  // For each function.
    std::size_t tags_max = 100;
    std::size_t apps_live_max = 100'000;
  };

  Apps(Loop& loop, Random& random, Ledger& ledger, Logger& log, Config config);
  ~Apps() override;
  Apps(const Apps&) = delete;
  Apps& operator=(const Apps&) = delete;

  // Before load(): who else takes part.
  void listen(AppListener& listener) { listeners_.push_back(&listener); }
  void add_face(std::string face, const VariantOptions& options) { faces_[std::move(face)] = &options; }
  // Whether anything of an app is still to be done. Without it nothing ever is.
  void set_work(std::function<bool(AppId)> has_work) { has_work_ = std::move(has_work); }
  // Says whether all that a declaration names is there; kNotFound and the like go to whoever declares.
  void set_parts(std::function<Result<void>(const FunctionSpec&)> check) { check_parts_ = std::move(check); }

  // Once, before anything else: reads what is stored.
  Result<void> load(store::Store& store);
  // After everything has loaded: tells listeners again of apps that were stopping, and begins to watch
  // heartbeats, as if one had come from each app now.
  void resume();

  // --- Apps
  // kInvalidArgument (a state that an app cannot begin with), kResourceExhausted.
  Result<AppId> create(NewApp app);
  // A live deployed app by name. With kCreateIfMissing it is made, deployed and empty. kNotFound.
  Result<AppId> get(EnvironmentId environment, const std::string& name, Lookup lookup, const std::string& by = {});
  // A stopped app that had this name last, if any.
  AppId previous(EnvironmentId environment, const std::string& name) const;
  const App* find(AppId app) const;
  // Like find(), but kNotFound, naming the id.
  Result<const App*> require(AppId app) const;
  std::vector<AppId> list(EnvironmentId environment) const;  // Oldest first.
  // kNotFound; kFailedPrecondition if it is stopping or stopped.
  Result<void> heartbeat(AppId app);
  // Its client has gone, on purpose. Ephemeral and unpublished apps stop, detached ones when their work is
  // done; for deployed ones, and those that have stopped, it means nothing.
  Result<void> client_disconnect(AppId app, const std::string& reason);
  Result<void> stop(AppId app, const std::string& reason);
  // Everything of a stopping app has ended. Does nothing for others.
  void stopped(AppId app);
  // The last piece of the app's work is done: a detached app without a client stops.
  void idle(AppId app);
  Result<void> set_tags(AppId app, std::map<std::string, std::string> tags);
  std::vector<Deployment> deployments(AppId app) const;  // Newest first.

  // --- Functions and classes
  // Gives the function an id before it is declared. An `existing` one is kept, and so is one that was
  // reserved by this name and not published yet.
  //   kNotFound, kInvalidArgument (the id is another app's), kFailedPrecondition (the app is stopped).
  Result<FunctionId> reserve_function(AppId app, const std::string& name, FunctionId existing, Bytes reservation);
  // Declares what the function is to be from the next publication on. Same errors.
  Result<Declared> declare_function(AppId app, FunctionSpec spec, FunctionId existing);
  // An `existing` one is kept; a new one gets its name when it is published.
  Result<ClassId> declare_class(AppId app, ClassId existing);
  // Makes declarations current, and the app's layout exactly these.
  //   kNotFound, kInvalidArgument (what is named is not of this app), kFailedPrecondition (the app is
  //   stopped, or was created for something else), kAlreadyExists (another app has this name).
  Result<Published> publish(Publication publication);
  // Makes an earlier deployment's layout current again, as a new version. kNotFound, kFailedPrecondition.
  Result<Published> rollback(AppId app, std::uint32_t version, const std::string& by);

  // The function that runs `base`'s code with its own parameters or options: the same id each time, and
  // over redeploys. kNotFound, kInvalidArgument (options; a variant as base), kResourceExhausted.
  Result<FunctionId> bind_variant(FunctionId base, Bytes parameters, Bytes options);

  // By name in a live deployed app. kNotFound says what of it is missing.
  Result<FunctionId> find_function(EnvironmentId environment, const std::string& app, const std::string& name) const;
  Result<ClassId> find_class(EnvironmentId environment, const std::string& app, const std::string& name) const;
  const Function* function(FunctionId function) const;
  Result<const Function*> require(FunctionId function) const;
  const Class* find(ClassId id) const;
  std::vector<FunctionId> variants(FunctionId base) const;
  // What runs now; for variants with their options. Null if it is not published.
  const FunctionSpec* spec(FunctionId function) const;
  // What was declared last, published or not; what runs now if nothing is pending.
  const FunctionSpec* latest_spec(FunctionId function) const;
  const Definition* definition(DefinitionId id) const;
  // The definition that spec() comes from: the base's for variants.
  DefinitionId current_definition(FunctionId function) const;
  DefinitionId latest_definition(FunctionId function) const;

  // Settings that hold until the next publication; fields that are not set stay as they are.
  Result<Autoscaling> override_autoscaling(FunctionId function, const Autoscaling& settings);
  Autoscaling autoscaling(FunctionId function) const;

  // --- FunctionBook
  std::optional<FunctionView> view(FunctionId function) const override;
  // --- EnvironmentListener
  void environment_removed(EnvironmentId environment) override;

 private:
  struct Members {
    std::vector<FunctionId> functions;  // Variants apart.
    std::vector<ClassId> classes;
    std::map<std::string, FunctionId> unpublished;
    std::vector<std::uint32_t> versions;  // Oldest first.
  };
  struct VariantSpec {
    DefinitionId of;
    FunctionSpec spec;
  };

  void put(const App& app) { ledger_.put(store::Table::kApp, key_of(app.id), app); }
  void put(const Function& function) { ledger_.put(store::Table::kFunction, key_of(function.id), function); }
  Result<App*> live_app(AppId app);
  Result<Function*> own_function(AppId app, FunctionId function);
  const FunctionSpec* spec_of(const Function& function, DefinitionId definition) const;
  Result<void> check_publication(const App& app, const Publication& publication) const;
  void publish_classes(const Publication& publication, Members& members);
  void remember_deployment(const App& app, const Publication& publication);
  void forget_deployment(AppId app, std::uint32_t version);
  bool referenced(const Function& function, DefinitionId definition) const;
  void drop_definition(DefinitionId definition);
  void drop_function(FunctionId function);
  void drop_unreferenced(const App& app);
  void forget_code(App& app);
  void forget(AppId app);
  void begin_stopping(App& app, const std::string& reason);
  void tell_changed(FunctionId function);
  void watch(Time due);
  void sweep();

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  Logger& log_;
  Config config_;
  std::vector<AppListener*> listeners_;
  std::map<std::string, const VariantOptions*, std::less<>> faces_;
  std::function<bool(AppId)> has_work_;
  std::function<Result<void>(const FunctionSpec&)> check_parts_;

  std::unordered_map<AppId, App> apps_;
  std::unordered_map<AppId, Members> members_;
  std::unordered_map<FunctionId, Function> functions_;
  std::unordered_map<DefinitionId, Definition> definitions_;
  std::unordered_map<ClassId, Class> classes_;
  std::map<std::pair<AppId, std::uint32_t>, Deployment> deployments_;
  std::map<std::pair<EnvironmentId, std::string>, AppId> by_name_;   // Live deployed apps.
  std::map<std::pair<EnvironmentId, std::string>, AppId> previous_;  // Stopped ones.
  std::unordered_map<FunctionId, std::vector<FunctionId>> variants_;
  mutable std::unordered_map<FunctionId, VariantSpec> variant_specs_;
  std::unordered_map<AppId, Time> heartbeats_;  // Of apps that need them.
  std::unordered_set<AppId> stopped_;           // Whose records will be forgotten.
  UniqueTimes created_;
  Loop::TimerId timer_ = 0;
  Time timer_due_ = kNever;
};

}  // namespace proa::control
