// SPDX-License-Identifier: Apache-2.0
#include "control/apps.h"

#include "control/rooms_testing.h"

namespace proa::control {
namespace {

class Options final : public VariantOptions {
 public:
  Result<FunctionSpec> apply(const FunctionSpec& base, BytesView options) const override {
    if (options == "bad") return invalid_argument("bad options");
    FunctionSpec spec = base;
    spec.timeout = std::chrono::seconds(options.size());
    return spec;
  }
};

class Heard final : public AppListener {
 public:
  std::vector<FunctionId> changed;
  std::vector<AppId> stopping;
  std::vector<AppId> stopped;
  std::vector<AppId> forgotten;
  void function_changed(FunctionId function) override { changed.push_back(function); }
  void app_stopping(AppId app) override { stopping.push_back(app); }
  void app_stopped(AppId app) override { stopped.push_back(app); }
  void app_forgotten(AppId app) override { forgotten.push_back(app); }
};

class AppsTest : public testing::Test {
 protected:
  AppsTest() { start(); }
  void start() {
    apps.reset();
    world.reopen();
    heard = {};
    apps = std::make_unique<Apps>(world.loop, world.random, *world.ledger, world.log, config);
    apps->listen(heard);
    apps->add_face("test", options);
    apps->set_work([this](AppId) { return work; });
    ASSERT_TRUE(apps->load(*world.store).ok());
    apps->resume();
  }
  static FunctionSpec spec(const std::string& name, const std::string& code = "v1") {
    return {.name = name, .timeout = std::chrono::seconds(300), .face = "test", .definition = code};
  }
  AppId create(AppState state) {
    return apps->create({.environment = environment, .state = state, .description = "d"}).value();
  }
  Declared declare(AppId app, const std::string& name, const std::string& code = "v1", FunctionId existing = {}) {
    return apps->declare_function(app, spec(name, code), existing).value();
  }
  Result<Published> publish(AppId app, AppState state, const std::vector<std::pair<std::string, Declared>>& functions,
                            const std::string& name = "web") {
    Publication publication{.app = app, .state = state, .name = state == AppState::kDeployed ? name : ""};
    for (const auto& [tag, declared] : functions) {
      publication.functions[tag] = declared.function;
      publication.definitions[declared.function] = declared.definition;
    }
    return apps->publish(publication);
  }

  World world;
  Options options;
  Heard heard;
  Apps::Config config;
  bool work = false;
  EnvironmentId environment{IdBits{1, 1}};
  std::unique_ptr<Apps> apps;
};

TEST_F(AppsTest, AFunctionRunsFromItsPublicationOn) {
  const AppId app = create(AppState::kEphemeral);
  const FunctionId reserved = apps->reserve_function(app, "f", {}, "reservation").value();
  EXPECT_EQ(apps->reserve_function(app, "f", {}, "again").value(), reserved);
  const Declared declared = declare(app, "f", "v1", reserved);
  EXPECT_EQ(declared.function, reserved);
  EXPECT_FALSE(apps->view(reserved).has_value());
  EXPECT_EQ(apps->spec(reserved), nullptr);
  EXPECT_EQ(apps->latest_spec(reserved)->definition, "v1");
  const Published published = publish(app, AppState::kEphemeral, {{"f", declared}}).value();
  EXPECT_EQ(published.version, 0U);
  EXPECT_EQ(published.at, world.loop.now());
  EXPECT_EQ(apps->view(reserved)->spec->definition, "v1");
  EXPECT_EQ(apps->view(reserved)->definition, declared.definition);
  EXPECT_EQ(heard.changed, std::vector{reserved});
}

TEST_F(AppsTest, TheSameDeclarationIsTheSameDefinition) {
  const AppId app = create(AppState::kInitializing);
  const Declared first = declare(app, "f");
  EXPECT_EQ(declare(app, "f", "v1", first.function).definition, first.definition);
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", first}}).ok());
  EXPECT_EQ(declare(app, "f", "v1", first.function).definition, first.definition);
  EXPECT_NE(declare(app, "f", "v2", first.function).definition, first.definition);
  heard.changed.clear();
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", declare(app, "f", "v1", first.function)}}).ok());
  EXPECT_TRUE(heard.changed.empty());
}

TEST_F(AppsTest, ARedeployKeepsIdsAndRemovesWhatIsGone) {
  const AppId app = create(AppState::kInitializing);
  const Declared f = declare(app, "f");
  const Declared g = declare(app, "g");
  EXPECT_EQ(publish(app, AppState::kDeployed, {{"f", f}, {"g", g}}).value().version, 1U);
  EXPECT_EQ(apps->get(environment, "web", Lookup::kExisting).value(), app);
  const Declared newer = declare(app, "f", "v2", f.function);
  EXPECT_EQ(newer.function, f.function);
  EXPECT_EQ(apps->view(f.function)->spec->definition, "v1");  // Until it is published.
  heard.changed.clear();
  EXPECT_EQ(publish(app, AppState::kDeployed, {{"f", newer}}).value().version, 2U);
  EXPECT_EQ(apps->view(f.function)->spec->definition, "v2");
  EXPECT_FALSE(apps->view(g.function).has_value());
  EXPECT_EQ(heard.changed, (std::vector{f.function, g.function}));
  EXPECT_EQ(apps->find_function(environment, "web", "g").error().code, Code::kNotFound);
  EXPECT_EQ(apps->find_function(environment, "web", "f").value(), f.function);
}

TEST_F(AppsTest, EverythingIsThereAfterARestart) {
  const AppId app = create(AppState::kInitializing);
  const Declared f = declare(app, "f");
  const ClassId cls = apps->declare_class(app, {}).value();
  Publication publication{.app = app,
                          .state = AppState::kDeployed,
                          .name = "web",
                          .functions = {{"f", f.function}},
                          .classes = {{"C", cls}},
                          .definitions = {},
                          .tags = {{"k", "v"}},
                          .deployment_tag = "t"};
  ASSERT_TRUE(apps->publish(publication).ok());
  const FunctionId variant = apps->bind_variant(f.function, "p", "options").value();
  ASSERT_TRUE(apps->override_autoscaling(variant, {.containers_min = 2}).ok());
  const App before = *apps->find(app);
  start();
  EXPECT_EQ(*apps->find(app), before);
  EXPECT_EQ(apps->find_function(environment, "web", "f").value(), f.function);
  EXPECT_EQ(apps->find_class(environment, "web", "C").value(), cls);
  EXPECT_EQ(apps->view(f.function)->spec->definition, "v1");
  EXPECT_EQ(apps->bind_variant(f.function, "p", "options").value(), variant);
  EXPECT_EQ(apps->variants(f.function), std::vector{variant});
  EXPECT_EQ(apps->view(variant)->spec->timeout, std::chrono::seconds(7));
  EXPECT_EQ(apps->view(variant)->autoscaling.containers_min, 2U);
  EXPECT_EQ(apps->deployments(app).front().tag, "t");
  EXPECT_TRUE(apps->declare_class(app, cls).ok());
}

TEST_F(AppsTest, VariantsFollowTheirBase) {
  const AppId app = create(AppState::kInitializing);
  const Declared f = declare(app, "f");
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}}).ok());
  const FunctionId variant = apps->bind_variant(f.function, "p", "o").value();
  EXPECT_NE(variant, apps->bind_variant(f.function, "po", "").value());
  EXPECT_NE(variant, f.function);
  EXPECT_EQ(apps->bind_variant(f.function, "p", "bad").error().code, Code::kInvalidArgument);
  EXPECT_EQ(apps->bind_variant(variant, "p", "o").error().code, Code::kInvalidArgument);
  EXPECT_EQ(apps->view(variant)->base, f.function);
  heard.changed.clear();
  const Declared newer = declare(app, "f", "v2", f.function);
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", newer}}).ok());
  EXPECT_EQ(heard.changed.size(), 3U);
  EXPECT_EQ(apps->view(variant)->spec->definition, "v2");
  EXPECT_EQ(apps->view(variant)->spec->timeout, std::chrono::seconds(1));
  EXPECT_EQ(apps->view(variant)->definition, newer.definition);
}

TEST_F(AppsTest, AnotherAppDoesNotTakeTheNameOfALiveOne) {
  const AppId first = create(AppState::kInitializing);
  ASSERT_TRUE(publish(first, AppState::kDeployed, {{"f", declare(first, "f")}}).ok());
  const AppId second = create(AppState::kInitializing);
  const Declared f = declare(second, "f");
  EXPECT_EQ(publish(second, AppState::kDeployed, {{"f", f}}).error().code, Code::kAlreadyExists);
  ASSERT_TRUE(apps->stop(first, "stopped by test").ok());
  EXPECT_EQ(apps->previous(environment, "web"), first);
  EXPECT_TRUE(publish(second, AppState::kDeployed, {{"f", f}}).ok());
  EXPECT_EQ(apps->get(environment, "web", Lookup::kExisting).value(), second);
}

TEST_F(AppsTest, LookupMakesADeployedAppOnlyIfAsked) {
  EXPECT_EQ(apps->get(environment, "web", Lookup::kExisting).error().code, Code::kNotFound);
  const AppId app = apps->get(environment, "web", Lookup::kCreateIfMissing).value();
  EXPECT_EQ(apps->find(app)->state, AppState::kDeployed);
  EXPECT_EQ(apps->get(environment, "web", Lookup::kCreateIfMissing).value(), app);
  EXPECT_EQ(apps->get(environment, "a b", Lookup::kCreateIfMissing).error().code, Code::kInvalidArgument);
  world.loop.run_for(std::chrono::minutes(10));
  EXPECT_TRUE(apps->find(app)->live());
}

TEST_F(AppsTest, AnEphemeralAppStopsWhenItsClientLeaves) {
  const AppId app = create(AppState::kEphemeral);
  const Declared f = declare(app, "f");
  ASSERT_TRUE(publish(app, AppState::kEphemeral, {{"f", f}}).ok());
  ASSERT_TRUE(apps->client_disconnect(app, "its client was done").ok());
  EXPECT_EQ(apps->find(app)->state, AppState::kStopping);
  EXPECT_EQ(heard.stopping, std::vector{app});
  EXPECT_EQ(apps->heartbeat(app).error().code, Code::kFailedPrecondition);
  EXPECT_FALSE(apps->view(f.function).has_value());
  EXPECT_EQ(apps->declare_function(app, spec("g"), {}).error().code, Code::kFailedPrecondition);
  start();
  EXPECT_EQ(heard.stopping, std::vector{app});  // Whoever ends it is told again.
  apps->stopped(app);
  EXPECT_EQ(apps->find(app)->state, AppState::kStopped);
  EXPECT_EQ(heard.stopped, std::vector{app});
}

TEST_F(AppsTest, AnAppWhoseClientVanishedStops) {
  const AppId app = create(AppState::kEphemeral);
  world.loop.run_for(std::chrono::seconds(60));
  ASSERT_TRUE(apps->heartbeat(app).ok());
  world.loop.run_for(std::chrono::seconds(60));
  EXPECT_TRUE(apps->find(app)->live());
  start();  // A new server gives clients their time again.
  world.loop.run_for(std::chrono::seconds(80));
  EXPECT_TRUE(apps->find(app)->live());
  world.loop.run_for(std::chrono::seconds(11));
  EXPECT_EQ(apps->find(app)->state, AppState::kStopping);
  EXPECT_NE(apps->heartbeat(app).error().message.find("has not been heard of for 90 s"), std::string::npos);
}

TEST_F(AppsTest, ADetachedAppGoesOnUntilItsWorkIsDone) {
  const AppId app = create(AppState::kDetached);
  ASSERT_TRUE(publish(app, AppState::kDetached, {{"f", declare(app, "f")}}).ok());
  work = true;
  ASSERT_TRUE(apps->client_disconnect(app, "").ok());
  EXPECT_EQ(apps->find(app)->state, AppState::kDetachedDisconnected);
  world.loop.run_for(std::chrono::hours(1));
  EXPECT_TRUE(apps->find(app)->live());
  apps->idle(app);
  EXPECT_EQ(apps->find(app)->state, AppState::kStopping);
}

TEST_F(AppsTest, ADisconnectMeansNothingToADeployedAppAndEndsAnUnpublishedOne) {
  const AppId deployed = create(AppState::kInitializing);
  ASSERT_TRUE(publish(deployed, AppState::kDeployed, {}).ok());
  ASSERT_TRUE(apps->client_disconnect(deployed, "x").ok());
  EXPECT_EQ(apps->find(deployed)->state, AppState::kDeployed);
  const AppId unpublished = create(AppState::kInitializing);
  ASSERT_TRUE(apps->client_disconnect(unpublished, "x").ok());
  EXPECT_EQ(apps->find(unpublished)->state, AppState::kStopping);
}

TEST_F(AppsTest, PublishingWithoutAStateKeepsIt) {
  const AppId app = create(AppState::kEphemeral);
  const Declared f = declare(app, "f");
  ASSERT_TRUE(publish(app, AppState::kEphemeral, {{"f", f}}).ok());
  const Declared newer = declare(app, "f", "v2", f.function);
  ASSERT_TRUE(
      apps->publish({.app = app, .functions = {{"f", f.function}}, .definitions = {{f.function, newer.definition}}})
          .ok());
  EXPECT_EQ(apps->find(app)->state, AppState::kEphemeral);
  EXPECT_EQ(apps->view(f.function)->spec->definition, "v2");
  EXPECT_EQ(publish(app, AppState::kDeployed, {{"f", f}}).error().code, Code::kFailedPrecondition);
}

TEST_F(AppsTest, PublishesOnlyWhatIsTheAppsOwn) {
  const AppId app = create(AppState::kInitializing);
  const AppId other = create(AppState::kInitializing);
  const Declared foreign = declare(other, "f");
  EXPECT_EQ(publish(app, AppState::kDeployed, {{"f", foreign}}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(apps->declare_function(app, spec("f"), foreign.function).error().code, Code::kInvalidArgument);
  const Declared own = declare(app, "f");
  EXPECT_EQ(publish(app, AppState::kDeployed, {{"f", {own.function, foreign.definition}}}).error().code,
            Code::kInvalidArgument);
  const FunctionId bare = apps->reserve_function(app, "g", {}, {}).value();
  EXPECT_EQ(
      apps->publish({.app = app, .state = AppState::kDeployed, .name = "web", .functions = {{"g", bare}}}).error().code,
      Code::kFailedPrecondition);
}

TEST_F(AppsTest, OneCanGoBackToAnEarlierVersion) {
  const AppId app = create(AppState::kInitializing);
  const Declared f = declare(app, "f");
  const Declared g = declare(app, "g");
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}, {"g", g}}).ok());
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", declare(app, "f", "v2", f.function)}}).ok());
  EXPECT_EQ(apps->rollback(app, 1, "me").value().version, 3U);
  EXPECT_EQ(apps->view(f.function)->spec->definition, "v1");
  EXPECT_TRUE(apps->view(g.function).has_value());
  EXPECT_EQ(apps->deployments(app).front().rollback_of, 1U);
  EXPECT_EQ(apps->rollback(app, 9, "me").error().code, Code::kNotFound);
}

TEST_F(AppsTest, OldDefinitionsAndFunctionsGoWithTheVersionsThatNeedThem) {
  config.deployments_kept = 2;
  start();
  const AppId app = create(AppState::kInitializing);
  Declared f = declare(app, "f", "v0");
  const Declared g = declare(app, "g");
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}, {"g", g}}).ok());
  for (int i = 1; i < 10; ++i) {
    f = declare(app, "f", "v" + std::to_string(i), f.function);
    ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}}).ok());
  }
  world.settle();
  EXPECT_EQ(apps->function(g.function), nullptr);
  EXPECT_EQ(world.disk.tables[static_cast<std::size_t>(store::Table::kDefinition)].size(), 2U);
  EXPECT_EQ(world.disk.tables[static_cast<std::size_t>(store::Table::kDeployment)].size(), 2U);
  EXPECT_EQ(world.disk.tables[static_cast<std::size_t>(store::Table::kFunction)].size(), 1U);
}

TEST_F(AppsTest, AStoppedAppsCodeGoesAfterADayAndItsRecordAfterAMonth) {
  const AppId app = create(AppState::kEphemeral);
  ASSERT_TRUE(publish(app, AppState::kEphemeral, {{"f", declare(app, "f")}}).ok());
  ASSERT_TRUE(apps->stop(app, "x").ok());
  apps->stopped(app);
  world.loop.run_for(std::chrono::hours(23));
  start();
  EXPECT_EQ(apps->find(app)->functions.size(), 1U);
  world.loop.run_for(std::chrono::hours(2));
  EXPECT_TRUE(apps->find(app)->functions.empty());
  EXPECT_EQ(heard.forgotten, std::vector{app});
  EXPECT_TRUE(world.disk.tables[static_cast<std::size_t>(store::Table::kDefinition)].empty());
  start();
  world.loop.run_for(std::chrono::hours(24 * 31));
  EXPECT_EQ(apps->find(app), nullptr);
  EXPECT_TRUE(world.disk.tables[static_cast<std::size_t>(store::Table::kApp)].empty());
  EXPECT_TRUE(heard.forgotten.empty());
}

TEST_F(AppsTest, OverriddenScalingHoldsUntilTheNextPublication) {
  const AppId app = create(AppState::kInitializing);
  const Declared f = declare(app, "f");
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}}).ok());
  EXPECT_EQ(apps->override_autoscaling(f.function, {.containers_min = 3}).value().containers_min, 3U);
  EXPECT_EQ(apps->override_autoscaling(f.function, {.containers_max = 2}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(apps->override_autoscaling(f.function, {.containers_max = 0}).value().containers_min, 3U);
  EXPECT_EQ(apps->view(f.function)->autoscaling.containers_min, 3U);
  heard.changed.clear();
  ASSERT_TRUE(publish(app, AppState::kDeployed, {{"f", f}}).ok());
  EXPECT_FALSE(apps->view(f.function)->autoscaling.containers_min.has_value());
  EXPECT_EQ(heard.changed, std::vector{f.function});
}

TEST_F(AppsTest, AppsOfADeletedEnvironmentStop) {
  const AppId app = create(AppState::kInitializing);
  ASSERT_TRUE(publish(app, AppState::kDeployed, {}).ok());
  apps->environment_removed(environment);
  EXPECT_EQ(apps->find(app)->state, AppState::kStopping);
}

}  // namespace
}  // namespace proa::control
