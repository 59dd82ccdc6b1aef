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

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "control/ledger.h"
#include "control/types.h"

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
  std::string name;         // Of a deployment; "" for others.
  std::string description;
  AppState state = AppState::kInitializing;
  Time created;
  Time stopped;
  std::string stop_reason;
  std::map<std::string, FunctionId> functions;  // The published layout, by tag.
  std::map<std::string, ClassId> classes;
  std::map<std::string, std::string> tags;
  std::uint32_t version = 0;  // Grows with each publication of a deployed app.

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.environment), visit(3, self.name), visit(4, self.description);
    visit(5, self.state), visit(6, self.created), visit(7, self.stopped), visit(8, self.stop_reason);
    visit(9, self.functions), visit(10, self.classes), visit(11, self.tags), visit(12, self.version);
  }
  friend bool operator==(const App&, const App&) = default;
  bool live() const { return state != AppState::kStopping && state != AppState::kStopped; }
};

struct Function {
  FunctionId id;
  AppId app;
  std::string name;  // Tag.
  DefinitionId current;  // Empty until published.
  DefinitionId pending;  // Declared and not yet published.
  // A variant of `base`: the same code with its own parameters or options, and its own containers.
  FunctionId base;
  Bytes parameters;
  Bytes options;  // Face's own form.
  Autoscaling autoscaling_override;  // Until the next publication.
  bool removed = false;              // Not in the layout any more.
  // Metadata that the face gave when it reserved the id, for handles made before the declaration.
  Bytes reservation;

  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.app), visit(3, self.name), visit(4, self.current), visit(5, self.pending);
    visit(6, self.base), visit(7, self.parameters), visit(8, self.options), visit(9, self.autoscaling_override);
    visit(10, self.removed), visit(11, self.reservation);
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

struct Deployment {
  AppId app;
  std::uint32_t version = 0;
  Time deployed;
  std::string tag;
  std::string client_version;
  std::string deployed_by;
  std::string commit_info;  // Face's own form.
  static void fields(auto& visit, auto& self) {
    visit(1, self.app), visit(2, self.version), visit(3, self.deployed), visit(4, self.tag);
    visit(5, self.client_version), visit(6, self.deployed_by), visit(7, self.commit_info);
  }
  friend bool operator==(const Deployment&, const Deployment&) = default;
};

// Who must hear of changes: the scheduler, calls.
class AppListener {
 public:
  virtual ~AppListener() = default;
  // The function's current definition or settings changed, or it came to life or was removed.
  virtual void function_changed(FunctionId function) = 0;
  // The app is kStopping: end its containers and inputs, then call Apps::stopped().
  virtual void app_stopping(AppId app) = 0;
};

}  // namespace proa::control
