// SPDX-License-Identifier: Apache-2.0
#include "api/modal/function.h"

#include <algorithm>

namespace proa::api::modal {
namespace {

// A class's parameters by name: clients send them as they were given, and the same ones mean the same containers. What cannot
// be read is left as it is.
Bytes in_order(Bytes parameters) {
  pb::ClassParameterSet set;
  if (!set.ParseFromString(parameters)) return parameters;
  std::sort(set.mutable_parameters()->begin(), set.mutable_parameters()->end(), [](const auto& a, const auto& b) { return a.name() < b.name(); });
  return set.SerializeAsString();
}

}  // namespace

void FunctionApi::bind(Router& router) {
  router.unary("FunctionPrecreate", this, &FunctionApi::precreate);
  router.unary("FunctionCreate", this, &FunctionApi::create);
  router.unary("FunctionGet", this, &FunctionApi::get);
  router.unary("FunctionGetById", this, &FunctionApi::get_by_id);
  router.unary("ClassCreate", this, &FunctionApi::create_class);
  router.unary("ClassGet", this, &FunctionApi::get_class);
  router.unary("FunctionBindParams", this, &FunctionApi::bind_params);
  router.unary("FunctionUpdateSchedulingParams", this, &FunctionApi::update_scaling);
  router.unary("FunctionGetSchedulingParams", this, &FunctionApi::get_scaling);
}

// --- Declaring ------------------------------------------------------------------------------------------------------

Async<Result<pb::FunctionPrecreateResponse>> FunctionApi::precreate(Caller, pb::FunctionPrecreateRequest request) {
  PROA_CO_TRY(const AppId app, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(const FunctionId existing, read_optional_id<FunctionId>("Function", request.existing_function_id()));
  PROA_CO_TRY(const FunctionId id, apps_.reserve_function(app, request.function_name(), existing, serialize(request)));
  pb::FunctionPrecreateResponse response;
  response.set_function_id(id.text());
  PROA_CO_TRY(*response.mutable_handle_metadata(), handles_.function(id, Handles::Which::kLatest));
  co_return response;
}

Async<Result<pb::FunctionCreateResponse>> FunctionApi::create(Caller caller, pb::FunctionCreateRequest request) {
  PROA_CO_TRY(const AppId app, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(const FunctionId existing, read_optional_id<FunctionId>("Function", request.existing_function_id()));
  if (request.has_function() == request.has_function_data()) {
    co_return invalid_argument("A function is declared in one form: either `function` or `function_data`");
  }
  pb::Function function;
  if (request.has_function()) {
    function = std::move(*request.mutable_function());
  } else {
    PROA_CO_TRY(function, read_function_data(request.function_data()));
  }
  PROA_CO_TRY(ReadFunction read, read_function(std::move(function)));
  for (std::string& warning : read.warnings) caller.warn(std::move(warning));
  PROA_CO_TRY(const control::Declared declared, apps_.declare_function(app, std::move(read.spec), existing));
  pb::FunctionCreateResponse response;
  response.set_function_id(declared.function.text());
  PROA_CO_TRY(pb::Function definition, handles_.definition(declared.function, Handles::Which::kLatest));
  PROA_CO_TRY(*response.mutable_handle_metadata(), handles_.function(declared.function, Handles::Which::kLatest));
  // What was declared may be what runs already, while somebody else's declaration is the latest.
  response.mutable_handle_metadata()->set_definition_id(declared.definition.text());
  const bool wants_web = definition.webhook_config().type() != pb::WEBHOOK_TYPE_UNSPECIFIED;
  if (wants_web && definition.web_url().empty()) {
    caller.warn("Function '" + definition.function_name() +
                "': web endpoints are not served yet; it can be called by .remote() meanwhile.");
  }
  *response.mutable_function_data() = write_function_data(definition);
  *response.mutable_function() = std::move(definition);
  co_return response;
}

Async<Result<pb::ClassCreateResponse>> FunctionApi::create_class(Caller, pb::ClassCreateRequest request) {
  PROA_CO_TRY(const AppId app, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(const ClassId existing, read_optional_id<ClassId>("Class", request.existing_class_id()));
  PROA_CO_TRY(const ClassId id, apps_.declare_class(app, existing));
  pb::ClassCreateResponse response;
  response.set_class_id(id.text());
  response.mutable_handle_metadata();
  co_return response;
}

// --- Looking up -----------------------------------------------------------------------------------------------------

Result<void> FunctionApi::check_version(EnvironmentId environment, const std::string& app, std::int32_t version) const {
  if (version == 0) return {};
  PROA_TRY(const AppId id, apps_.get(environment, app, control::Lookup::kExisting));
  if (apps_.find(id)->version == static_cast<std::uint32_t>(version)) return {};
  return unimplemented("App '" + app + "' is at version " + std::to_string(apps_.find(id)->version) +
                       "; calling another version (" + std::to_string(version) + ") is not there yet");
}

Async<Result<pb::FunctionGetResponse>> FunctionApi::get(Caller caller, pb::FunctionGetRequest request) {
  PROA_CO_TRY(const EnvironmentId environment,
              environment_of(caller, request.environment_name(), environments_, apps_, scheduler_));
  PROA_CO_TRY_VOID(check_version(environment, request.app_name(), request.app_version()));
  auto found = apps_.find_function(environment, request.app_name(), request.object_tag());
  if (!found.ok()) {
    const bool is_class = apps_.find_class(environment, request.app_name(), request.object_tag()).ok();
    if (is_class) found.error().message += ": this is a class, look it up with Cls.from_name";
    found.error().message += " (environment '" + environments_.name_of(environment) + "')";
  }
  PROA_CO_TRY(const FunctionId id, std::move(found));
  pb::FunctionGetResponse response;
  response.set_function_id(id.text());
  PROA_CO_TRY(*response.mutable_handle_metadata(), handles_.function(id, Handles::Which::kCurrent));
  PROA_CO_TRY(const pb::Function definition, handles_.definition(id, Handles::Which::kCurrent));
  *response.mutable_function() = write_function_data(definition);
  co_return response;
}

Async<Result<pb::FunctionGetByIdResponse>> FunctionApi::get_by_id(Caller, pb::FunctionGetByIdRequest request) {
  PROA_CO_TRY(const FunctionId id, read_id<FunctionId>("Function", request.function_id()));
  const auto which = apps_.spec(id) == nullptr ? Handles::Which::kLatest : Handles::Which::kCurrent;
  pb::FunctionGetByIdResponse response;
  PROA_CO_TRY(*response.mutable_handle_metadata(), handles_.function(id, which));
  PROA_CO_TRY(const pb::Function definition, handles_.definition(id, which));
  *response.mutable_function() = write_function_data(definition);
  co_return response;
}

Async<Result<pb::ClassGetResponse>> FunctionApi::get_class(Caller caller, pb::ClassGetRequest request) {
  PROA_CO_TRY(const EnvironmentId environment,
              environment_of(caller, request.environment_name(), environments_, apps_, scheduler_));
  PROA_CO_TRY_VOID(check_version(environment, request.app_name(), request.app_version()));
  PROA_CO_TRY(const ClassId id, apps_.find_class(environment, request.app_name(), request.object_tag()));
  pb::ClassGetResponse response;
  response.set_class_id(id.text());
  response.mutable_handle_metadata();
  co_return response;
}

// --- Variants and scaling -------------------------------------------------------------------------------------------

Async<Result<pb::FunctionBindParamsResponse>> FunctionApi::bind_params(Caller, pb::FunctionBindParamsRequest request) {
  PROA_CO_TRY(const FunctionId base, read_id<FunctionId>("Function", request.function_id()));
  PROA_CO_TRY(Bytes options, read_options(std::move(*request.mutable_function_options())));
  Bytes parameters = std::move(*request.mutable_serialized_params());
  PROA_CO_TRY(const pb::Function declared, handles_.definition(base, apps_.spec(base) == nullptr ? Handles::Which::kLatest : Handles::Which::kCurrent));
  if (declared.class_parameter_info().format() == pb::ClassParameterInfo::PARAM_SERIALIZATION_FORMAT_PROTO) parameters = in_order(std::move(parameters));
  PROA_CO_TRY(const FunctionId id, apps_.bind_variant(base, std::move(parameters), std::move(options)));
  pb::FunctionBindParamsResponse response;
  response.set_bound_function_id(id.text());
  const auto which = apps_.spec(id) == nullptr ? Handles::Which::kLatest : Handles::Which::kCurrent;
  PROA_CO_TRY(*response.mutable_handle_metadata(), handles_.function(id, which));
  co_return response;
}

Async<Result<pb::FunctionUpdateSchedulingParamsResponse>> FunctionApi::update_scaling(
    Caller caller, pb::FunctionUpdateSchedulingParamsRequest request) {
  PROA_CO_TRY(const FunctionId id, read_id<FunctionId>("Function", request.function_id()));
  control::Autoscaling settings = read_autoscaling(request.settings());
  if (!request.has_settings()) settings.containers_min = request.warm_pool_size_override();
  if (request.settings().has_target_concurrency_float() || request.settings().has_scaleup_window() ||
      request.settings().has_scaledown_rate_limit()) {
    caller.warn(
        "Of the autoscaler's settings only min, max and buffer containers and the scale-down window are honoured.");
  }
  PROA_CO_TRY(const control::Autoscaling merged, apps_.override_autoscaling(id, settings));
  pb::FunctionUpdateSchedulingParamsResponse response;
  *response.mutable_current_settings() = write_autoscaling(merged);
  co_return response;
}

Async<Result<pb::FunctionGetSchedulingParamsResponse>> FunctionApi::get_scaling(
    Caller, pb::FunctionGetSchedulingParamsRequest request) {
  PROA_CO_TRY(const FunctionId id, read_id<FunctionId>("Function", request.function_id()));
  PROA_CO_TRY(const control::Function* function, apps_.require(id));
  pb::FunctionGetSchedulingParamsResponse response;
  pb::AutoscalerConfiguration& configuration = *response.mutable_autoscaler_configuration();
  *configuration.mutable_settings() = write_autoscaling(apps_.autoscaling(id));
  const control::FunctionSpec* const spec = apps_.spec(id);
  if (spec != nullptr) *configuration.mutable_static_settings() = write_autoscaling(spec->autoscaling);
  *configuration.mutable_override_settings() = write_autoscaling(function->autoscaling_override);
  co_return response;
}

}  // namespace proa::api::modal
