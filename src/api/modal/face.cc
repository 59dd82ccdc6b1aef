// SPDX-License-Identifier: Apache-2.0
#include "api/modal/face.h"

#include <set>

#include "container/runtime.h"

namespace proa::api::modal {
namespace {

constexpr const char* kArgumentsFile = "modal-arguments.pb";

}  // namespace

std::string dependencies_mount(const std::string& builder_version, const std::string& python_tag, bool musl) {
  // Up to 2024.10 the image's own recipe installs them.
  if (builder_version <= "2024.10" || python_tag.empty()) return "";
  const std::string tag = python_tag.starts_with("c") ? python_tag : "cp" + python_tag;
  return builder_version + "-" + tag + "-" + (musl ? "musllinux_1_2-x86_64" : "manylinux_2_17-x86_64");
}

Result<pb::ContainerArguments> ModalFace::arguments(const control::RunnerQuestion& question) const {
  PROA_TRY(const control::Function* function, apps_.require(question.function));
  const control::App* app = apps_.find(function->app);
  const control::FunctionSpec* spec = apps_.spec(question.function);
  if (app == nullptr || spec == nullptr) return not_found("the function " + question.function.text() + " is not part of a running app any more");
  PROA_TRY(pb::Function definition, definition_of(*spec));
  pb::ContainerArguments arguments;
  arguments.set_task_id(question.task.text());
  arguments.set_function_id(question.function.text());
  arguments.set_app_id(app->id.text());
  arguments.set_serialized_params(function->parameters);
  arguments.set_runtime("proa");
  arguments.set_environment_name(question.environment);
  // Without snapshots every hook runs at each start, which is right for all functions.
  definition.set_is_checkpointing_function(false);
  *arguments.mutable_app_layout() = handles_.layout(*app);
  // Everything that the code refers to must be in the layout; what needs no description stands there bare.
  std::set<std::string> there;
  for (const pb::Object& object : arguments.app_layout().objects()) there.insert(object.object_id());
  for (const pb::ObjectDependency& dependency : definition.object_dependencies()) {
    if (there.insert(dependency.object_id()).second) arguments.mutable_app_layout()->add_objects()->set_object_id(dependency.object_id());
  }
  *arguments.mutable_function_def() = std::move(definition);
  return arguments;
}

Async<Result<control::RunnerPlan>> ModalFace::runner(control::RunnerQuestion question) {
  PROA_CO_TRY(const pb::ContainerArguments arguments, arguments(question));
  if (question.python_tag.empty()) co_return failed_precondition("the image has no Python: functions run in images with `python` on the path");
  control::RunnerPlan plan;
  const std::string private_directory(container::kPrivateDirectory);
  plan.argv = {"python", "-u", "-m", "modal._container_entrypoint"};
  plan.files[kArgumentsFile] = arguments.SerializeAsString();
  plan.default_working_directory = "/root";
  plan.env = {
      {"MODAL_SERVER_URL", "unix://" + std::string(container::kApiSocketPath)},
      {"MODAL_IS_REMOTE", "1"},
      {"MODAL_CONTAINER_ARGUMENTS_PATH", private_directory + "/" + kArgumentsFile},
      {"MODAL_TASK_ID", question.task.text()},
      {"MODAL_IMAGE_ID", arguments.function_def().image_id()},
      {"MODAL_ENVIRONMENT", question.environment},
      {"MODAL_CLOUD_PROVIDER", "proa"},
      {"MODAL_REGION", "local"},
      {"MODAL_IMAGE_BUILDER_VERSION", question.image_builder_version},
      {"PYTHONUNBUFFERED", "1"},
  };
  plan.env_before = {{"PYTHONPATH", "/pkg:/root"}};
  if (const std::string mount = dependencies_mount(question.image_builder_version, question.python_tag, question.musl); !mount.empty()) {
    PROA_CO_TRY(const Digest dependencies, co_await global_.find(mount));
    plan.trees.push_back(dependencies);
  }
  co_return plan;
}

}  // namespace proa::api::modal
