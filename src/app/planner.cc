// SPDX-License-Identifier: Apache-2.0
#include "app/planner.h"

#include <algorithm>

#include "image/config.h"

namespace proa::app {
namespace {

constexpr std::size_t kMergedMax = 1000;

Result<Digest> merge_trees(cas::ObjectStore& objects, const std::vector<Digest>& trees) {
  cas::Tree merged;
  bool first = true;
  for (const Digest& digest : trees) {
    PROA_TRY(cas::Tree tree, objects.get_tree(digest));
    if (first) {
      merged = std::move(tree);
      first = false;
    } else {
      PROA_TRY(merged, cas::overlay(merged, tree));
    }
  }
  return objects.put_tree(merged);
}

// Sets NAME, replacing what an earlier layer said.
void set(std::vector<std::string>& env, std::string_view name, std::string_view value) { image::set_env(env, name, value); }

}  // namespace

Async<Result<Digest>> Planner::merged(std::vector<Digest> trees) {
  std::sort(trees.begin(), trees.end());
  trees.erase(std::unique(trees.begin(), trees.end()), trees.end());
  if (trees.size() == 1) co_return trees.front();
  if (const auto found = merged_.find(trees); found != merged_.end()) co_return found->second;
  cas::ObjectStore* const objects = &parts_.objects;
  auto work = [objects, trees] { return merge_trees(*objects, trees); };
  PROA_CO_TRY(const Digest digest, co_await run_in(parts_.pool, parts_.loop, std::move(work)));
  if (merged_.size() >= kMergedMax) merged_.clear();
  merged_.emplace(trees, digest);
  co_return digest;
}

Async<Result<sched::TaskOrder>> Planner::plan(TaskId task, FunctionId function_id) {
  const auto view = parts_.apps.view(function_id);
  if (!view) co_return not_found("the function " + function_id.text() + " is not part of a running app any more");
  const control::FunctionSpec spec = *view->spec;
  const AppId app_id = view->app;
  const auto face = faces_.find(spec.face);
  if (face == faces_.end()) co_return failed_precondition("the function '" + spec.name + "' came by the wire '" + spec.face + "', which this server does not speak");
  const control::App* app = parts_.apps.find(app_id);
  if (app == nullptr) co_return not_found("the app " + app_id.text() + " is not there any more");
  control::RunnerQuestion question;
  question.task = task;
  question.function = function_id;
  question.environment = parts_.environments.name_of(app->environment);
  PROA_CO_TRY(const image::ImageRecord image, parts_.images.record(spec.image));
  question.image_builder_version = image.builder_version;
  question.python_tag = image.runtime.python_tag;
  question.musl = image.runtime.libc == image::Libc::kMusl;

  sched::TaskOrder order;
  order.task = task;
  order.function = function_id;
  order.app = app_id;
  order.image = spec.image;
  order.face = spec.face;
  order.request = spec.request;
  order.cpu_milli_max = spec.cpu_milli_max;
  order.memory_bytes_max = spec.memory_bytes_max;
  order.network_blocked = spec.network_blocked;
  order.untrusted = spec.untrusted;
  order.timeout = spec.timeout;
  order.startup_timeout = spec.startup_timeout;
  order.concurrent_inputs_max = spec.concurrent_inputs_max;
  order.concurrent_inputs_target = spec.concurrent_inputs_target;
  order.batch_size_max = spec.batch_size_max;
  order.batch_linger = spec.batch_linger;
  order.inputs_max = spec.inputs_max;

  std::vector<Digest> mounts;
  for (const MountId id : spec.mounts) {
    PROA_CO_TRY(const control::Mount* mount, parts_.mounts.require(id));
    mounts.push_back(mount->tree);
  }
  PROA_CO_TRY(control::RunnerPlan plan, co_await face->second->runner(std::move(question)));
  mounts.insert(mounts.end(), plan.trees.begin(), plan.trees.end());
  order.trees.push_back(image.tree);
  if (!mounts.empty()) {
    PROA_CO_TRY(const Digest all, co_await merged(std::move(mounts)));
    order.trees.push_back(all);
  }

  // As root, whatever USER the image names: a function's code and its client are mounted below /root, and clients'
  // images are made by people who install packages on top of any image. docs/operate/images.md says so.
  // An image's entrypoint gets the runner's command as its arguments, and is expected to end in it.
  order.argv = image.config.entrypoint;
  order.argv.insert(order.argv.end(), plan.argv.begin(), plan.argv.end());
  order.files = std::move(plan.files);
  order.env = image.config.env;
  if (image::find_env(order.env, "PATH") == nullptr) set(order.env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (image::find_env(order.env, "HOME") == nullptr) set(order.env, "HOME", "/root");
  // A user's secret may set what users may set; what the runner needs to find its server is not among that.
  std::vector<std::pair<std::string, std::string>> last;
  for (auto& [name, value] : plan.env) {
    if (name.starts_with("MODAL_") || name.starts_with("PROA_")) {
      last.emplace_back(name, value);
    } else {
      set(order.env, name, value);
    }
  }
  for (const SecretId id : spec.secrets) {
    PROA_CO_TRY(const auto values, parts_.secrets.use(id));
    for (const auto& [name, value] : values) set(order.env, name, value);
  }
  for (const auto& [name, value] : last) set(order.env, name, value);
  for (const auto& [name, value] : plan.env_before) {
    const char* const set_by_user = image::find_env(order.env, name);
    set(order.env, name, set_by_user != nullptr && *set_by_user != '\0' ? value + ":" + set_by_user : value);
  }
  order.working_directory = image.config.workdir.empty() ? plan.default_working_directory : image.config.workdir;
  co_return order;
}

}  // namespace proa::app
