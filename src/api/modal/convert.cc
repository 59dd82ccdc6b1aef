// SPDX-License-Identifier: Apache-2.0
#include "api/modal/convert.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace proa::api::modal {
namespace {

constexpr std::uint32_t kTimeoutSecondsDefault = 300;
constexpr std::size_t kDefinitionBytesMax = 16 << 20;
constexpr std::int64_t kMebibyte = 1 << 20;

template <class T>
Result<std::vector<T>> read_ids(const std::string& what, const google::protobuf::RepeatedPtrField<std::string>& texts) {
  std::vector<T> ids;
  for (const std::string& text : texts) {
    PROA_TRY(const T id, read_id<T>(what, text));
    ids.push_back(id);
  }
  return ids;
}

bool wants_gpu(const pb::Resources& resources) {
  return resources.gpu_config().count() > 0 || !resources.gpu_config().gpu_type().empty();
}

// What this server does not do, said at the declaration and not when a container fails.
Result<void> check_served(const pb::Function& function) {
  const std::string name = "Function '" + function.function_name() + "'";
  if (wants_gpu(function.resources())) {
    const std::string& type = function.resources().gpu_config().gpu_type();
    return invalid_argument(name + " asks for a GPU" + (type.empty() ? "" : " of type '" + type + "'") +
                            ", and no worker with a GPU is connected");
  }
  if (function.volume_mounts_size() > 0) return unimplemented(name + " mounts a volume: volumes are not there yet");
  if (function.shared_volume_mounts_size() > 0)
    return unimplemented(name + " mounts a network file system: these are not there yet");
  if (function.cloud_bucket_mounts_size() > 0 || function.s3_mounts_size() > 0) {
    return unimplemented(name + " mounts a cloud bucket: these are not there yet");
  }
  if (function._experimental_group_size() > 1)
    return unimplemented(name + " wants a cluster of containers: these are not there yet");
  if (function.is_server() || function.has_http_config())
    return unimplemented(name + " is a server: these are not there yet");
  if (function.has_network_access() &&
      function.network_access().network_access_type() == pb::NetworkAccess::ALLOWLIST) {
    return unimplemented(name + " limits the network to a list of addresses: only all or nothing is there yet");
  }
  return {};
}

std::vector<std::string> find_unhonoured(const pb::Function& function) {
  std::vector<std::string> warnings;
  const std::string name = "Function '" + function.function_name() + "': ";
  const auto warn = [&](bool asked, const char* what) {
    if (asked) warnings.push_back(name + what);
  };
  warn(function.scheduler_placement().regions_size() > 0 || !function.routing_region().empty(),
       "the region is ignored; it runs wherever there is room.");
  warn(!function.cloud_provider_str().empty() || function.has_cloud_provider(),
       "the cloud provider is ignored; it runs on this server's own machines.");
  warn(function.has_proxy_id() && !function.proxy_id().empty(),
       "the proxy is ignored; traffic leaves from the worker's own address.");
  warn(function.schedule().schedule_oneof_case() != pb::Schedule::SCHEDULE_ONEOF_NOT_SET,
       "the schedule is stored but does not fire yet.");
  warn(function.checkpointing_enabled() || function.enable_gpu_snapshot() ||
           function._experimental_enable_gpu_snapshot(),
       "memory snapshots are ignored; containers start without one.");
  warn(function.resources().ephemeral_disk_mb() > 0, "the size of the ephemeral disk is ignored.");
  warn(function.resources().rdma(), "RDMA is ignored.");
  warn(function.i6pn_enabled(), "the private network between containers is not there.");
  return warnings;
}

control::Autoscaling autoscaling_of(const pb::Function& function) {
  control::Autoscaling settings = read_autoscaling(function.autoscaler_settings());
  // Older clients say the same in other places; 0 is how they leave a thing out.
  if (!settings.containers_min && function.warm_pool_size() > 0) settings.containers_min = function.warm_pool_size();
  if (!settings.containers_max && function.concurrency_limit() > 0)
    settings.containers_max = function.concurrency_limit();
  if (!settings.containers_buffer && function._experimental_buffer_containers() > 0) {
    settings.containers_buffer = function._experimental_buffer_containers();
  }
  if (!settings.scaledown_window_seconds && function.task_idle_timeout_secs() > 0) {
    settings.scaledown_window_seconds = function.task_idle_timeout_secs();
  }
  return settings;
}

void read_concurrency(const pb::Function& function, control::FunctionSpec& spec) {
  spec.concurrent_inputs_max = std::max(1U, function.max_concurrent_inputs());
  std::uint32_t target = function.target_concurrent_inputs();
  if (target == 0 && function.autoscaler_settings().has_target_concurrency())
    target = function.autoscaler_settings().target_concurrency();
  if (target == 0) target = spec.concurrent_inputs_max;
  spec.concurrent_inputs_target = std::min(target, spec.concurrent_inputs_max);
  spec.batch_size_max = function.batch_max_size();
  spec.batch_linger = std::chrono::milliseconds(std::min<std::uint64_t>(function.batch_linger_ms(), 3'600'000));
}

}  // namespace

// --- Functions ------------------------------------------------------------------------------------------------------

Result<ReadFunction> read_function(pb::Function function) {
  PROA_TRY_VOID(check_served(function));
  const std::string name = function.function_name();
  if (name.empty()) return invalid_argument("The function has no name");
  if (function.image_id().empty()) return invalid_argument("Function '" + name + "' names no image to run in");
  ReadFunction read;
  read.warnings = find_unhonoured(function);
  // Clients send mounts in any order, since they mean a set.
  std::sort(function.mutable_mount_ids()->begin(), function.mutable_mount_ids()->end());
  control::FunctionSpec& spec = read.spec;
  spec.name = name;
  spec.kind = function.function_type() == pb::Function::FUNCTION_TYPE_GENERATOR ? control::FunctionKind::kGenerator
                                                                                : control::FunctionKind::kFunction;
  PROA_TRY(spec.image, read_id<ImageId>("Image", function.image_id()));
  PROA_TRY(spec.mounts, read_ids<MountId>("Mount", function.mount_ids()));
  PROA_TRY(spec.secrets, read_ids<SecretId>("Secret", function.secret_ids()));
  const pb::Resources& resources = function.resources();
  spec.request = {.cpu_milli = resources.milli_cpu(), .memory_bytes = resources.memory_mb() * kMebibyte};
  spec.cpu_milli_max = resources.milli_cpu_max();
  spec.memory_bytes_max = resources.memory_mb_max() * kMebibyte;
  const std::uint32_t timeout = function.timeout_secs() == 0 ? kTimeoutSecondsDefault : function.timeout_secs();
  spec.timeout = std::chrono::seconds(timeout);
  spec.startup_timeout =
      std::chrono::seconds(function.startup_timeout_secs() == 0 ? timeout : function.startup_timeout_secs());
  if (function.has_retry_policy()) {
    const pb::FunctionRetryPolicy& policy = function.retry_policy();
    spec.retries = {
        .retries = policy.retries(),
        .initial_delay = std::chrono::milliseconds(policy.initial_delay_ms()),
        .delay_max = std::chrono::milliseconds(policy.max_delay_ms()),
        .backoff = policy.backoff_coefficient() > 0 ? static_cast<double>(policy.backoff_coefficient()) : 1.0};
  }
  spec.autoscaling = autoscaling_of(function);
  const std::uint32_t max = spec.autoscaling.containers_max.value_or(0);
  if (max != 0 && spec.autoscaling.containers_min.value_or(0) > max) {
    return invalid_argument("Function '" + name + "': min_containers is " +
                            std::to_string(*spec.autoscaling.containers_min) + ", more than max_containers, which is " +
                            std::to_string(max));
  }
  read_concurrency(function, spec);
  spec.inputs_max = function.single_use_containers() ? 1 : function.max_inputs();
  spec.network_blocked =
      function.block_network() || function.network_access().network_access_type() == pb::NetworkAccess::BLOCKED;
  spec.untrusted = function.untrusted();
  spec.builder = function.is_builder_function();
  spec.face = kFace;
  spec.definition = serialize(function);
  if (spec.definition.size() > kDefinitionBytesMax) {
    return invalid_argument("Function '" + name + "' is too large: " + std::to_string(spec.definition.size()) +
                            " bytes, of " + std::to_string(kDefinitionBytesMax) + " that are allowed");
  }
  return read;
}

Result<pb::Function> definition_of(const control::FunctionSpec& spec) {
  pb::Function function;
  if (spec.face != kFace || !function.ParseFromString(spec.definition)) {
    return failed_precondition("Function '" + spec.name + "' was not deployed by a Modal client");
  }
  return function;
}

Result<pb::Function> read_function_data(const pb::FunctionData& data) {
  if (data.ranked_functions_size() == 0)
    return invalid_argument("Function '" + data.function_name() + "' comes without a definition");
  const auto* best = &data.ranked_functions(0);
  for (const auto& ranked : data.ranked_functions()) {
    if (ranked.rank() < best->rank()) best = &ranked;
  }
  pb::Function function = best->function();
  function.set_module_name(data.module_name());
  function.set_function_name(data.function_name());
  function.set_function_type(data.function_type());
  function.set_warm_pool_size(data.warm_pool_size());
  function.set_concurrency_limit(data.concurrency_limit());
  function.set_task_idle_timeout_secs(data.task_idle_timeout_secs());
  function.set__experimental_group_size(data._experimental_group_size());
  function.set__experimental_fabric_size(data._experimental_fabric_size());
  function.set__experimental_buffer_containers(data._experimental_buffer_containers());
  function.set__experimental_custom_scaling(data._experimental_custom_scaling());
  function.set__experimental_enable_gpu_snapshot(data._experimental_enable_gpu_snapshot());
  function.set_timeout_secs(data.timeout_secs());
  function.set_startup_timeout_secs(data.startup_timeout_secs());
  if (data.has_webhook_config()) *function.mutable_webhook_config() = data.webhook_config();
  *function.mutable_method_definitions() = data.method_definitions();
  function.set_method_definitions_set(data.method_definitions_set());
  function.set_is_class(data.is_class());
  function.set_is_method(data.is_method());
  if (data.has_class_parameter_info()) *function.mutable_class_parameter_info() = data.class_parameter_info();
  if (data.has_schedule()) *function.mutable_schedule() = data.schedule();
  function.set_untrusted(data.untrusted());
  if (data.has_autoscaler_settings()) *function.mutable_autoscaler_settings() = data.autoscaler_settings();
  if (data.has_function_schema()) *function.mutable_function_schema() = data.function_schema();
  *function.mutable_experimental_options() = data.experimental_options();
  *function.mutable_supported_input_formats() = data.supported_input_formats();
  *function.mutable_supported_output_formats() = data.supported_output_formats();
  if (data.has_http_config()) *function.mutable_http_config() = data.http_config();
  function.set_implementation_name(data.implementation_name());
  function.set_is_server(data.is_server());
  function.set_is_sessioned(data.is_sessioned());
  function.set_routing_region(data.routing_region());
  return function;
}

pb::FunctionData write_function_data(const pb::Function& function) {
  pb::FunctionData data;
  data.set_module_name(function.module_name());
  data.set_function_name(function.function_name());
  data.set_function_type(function.function_type());
  data.set_warm_pool_size(function.warm_pool_size());
  data.set_concurrency_limit(function.concurrency_limit());
  data.set_task_idle_timeout_secs(function.task_idle_timeout_secs());
  data.set__experimental_group_size(function._experimental_group_size());
  data.set__experimental_fabric_size(function._experimental_fabric_size());
  data.set__experimental_buffer_containers(function._experimental_buffer_containers());
  data.set__experimental_custom_scaling(function._experimental_custom_scaling());
  data.set__experimental_enable_gpu_snapshot(function._experimental_enable_gpu_snapshot());
  data.set_timeout_secs(function.timeout_secs());
  data.set_startup_timeout_secs(function.startup_timeout_secs());
  data.set_web_url(function.web_url());
  if (function.has_web_url_info()) *data.mutable_web_url_info() = function.web_url_info();
  if (function.has_webhook_config()) *data.mutable_webhook_config() = function.webhook_config();
  *data.mutable_custom_domain_info() = function.custom_domain_info();
  *data.mutable_method_definitions() = function.method_definitions();
  data.set_method_definitions_set(function.method_definitions_set());
  data.set_is_class(function.is_class());
  data.set_is_method(function.is_method());
  if (function.has_class_parameter_info()) *data.mutable_class_parameter_info() = function.class_parameter_info();
  if (function.has_schedule()) *data.mutable_schedule() = function.schedule();
  data.set_untrusted(function.untrusted());
  if (function.has_autoscaler_settings()) *data.mutable_autoscaler_settings() = function.autoscaler_settings();
  if (function.has_function_schema()) *data.mutable_function_schema() = function.function_schema();
  *data.mutable_experimental_options() = function.experimental_options();
  *data.mutable_flash_service_urls() = function.flash_service_urls();
  data.set_flash_service_label(function.flash_service_label());
  *data.mutable_supported_input_formats() = function.supported_input_formats();
  *data.mutable_supported_output_formats() = function.supported_output_formats();
  if (function.has_http_config()) *data.mutable_http_config() = function.http_config();
  data.set_implementation_name(function.implementation_name());
  data.set_is_server(function.is_server());
  data.set_is_sessioned(function.is_sessioned());
  data.set_routing_region(function.routing_region());
  auto& ranked = *data.add_ranked_functions();
  ranked.set_rank(0);
  *ranked.mutable_function() = function;
  return data;
}

// --- Options of variants --------------------------------------------------------------------------------------------

Result<Bytes> read_options(pb::FunctionOptions options) {
  if (options.has_pinned_app_version()) {
    return unimplemented("Calling a version of an app other than the current one is not there yet");
  }
  if (!options.replace_secret_ids()) options.clear_secret_ids();
  if (!options.replace_volume_mounts()) options.clear_volume_mounts();
  if (!options.replace_cloud_bucket_mounts()) options.clear_cloud_bucket_mounts();
  if (options.has_resources()) {
    pb::Resources& resources = *options.mutable_resources();
    if (resources.has_gpu_config() && serialize(resources.gpu_config()).empty()) resources.clear_gpu_config();
    if (serialize(resources).empty()) options.clear_resources();
  }
  if (options.has_scheduler_placement() && serialize(options.scheduler_placement()).empty())
    options.clear_scheduler_placement();
  return serialize(options);
}

Result<control::FunctionSpec> ModalOptions::apply(const control::FunctionSpec& base, BytesView bytes) const {
  pb::FunctionOptions options;
  if (!options.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return invalid_argument("The options cannot be read");
  PROA_TRY(pb::Function function, definition_of(base));
  if (options.replace_secret_ids()) *function.mutable_secret_ids() = options.secret_ids();
  if (options.mount_ids_size() > 0) *function.mutable_mount_ids() = options.mount_ids();
  if (options.replace_volume_mounts()) *function.mutable_volume_mounts() = options.volume_mounts();
  if (options.replace_cloud_bucket_mounts()) *function.mutable_cloud_bucket_mounts() = options.cloud_bucket_mounts();
  if (options.has_resources()) {
    // Field by field: clients send what they change and leave the rest at 0.
    const pb::Resources& changed = options.resources();
    pb::Resources& resources = *function.mutable_resources();
    if (changed.milli_cpu() != 0) resources.set_milli_cpu(changed.milli_cpu());
    if (changed.milli_cpu_max() != 0) resources.set_milli_cpu_max(changed.milli_cpu_max());
    if (changed.memory_mb() != 0) resources.set_memory_mb(changed.memory_mb());
    if (changed.memory_mb_max() != 0) resources.set_memory_mb_max(changed.memory_mb_max());
    if (changed.ephemeral_disk_mb() != 0) resources.set_ephemeral_disk_mb(changed.ephemeral_disk_mb());
    if (wants_gpu(changed)) *resources.mutable_gpu_config() = changed.gpu_config();
  }
  if (options.has_retry_policy()) *function.mutable_retry_policy() = options.retry_policy();
  pb::AutoscalerSettings& scaling = *function.mutable_autoscaler_settings();
  if (options.has_concurrency_limit()) scaling.set_max_containers(options.concurrency_limit());
  if (options.has_warm_pool_size()) scaling.set_min_containers(options.warm_pool_size());
  if (options.has_buffer_containers()) scaling.set_buffer_containers(options.buffer_containers());
  if (options.has_task_idle_timeout_secs()) scaling.set_scaledown_window(options.task_idle_timeout_secs());
  if (options.has_timeout_secs()) function.set_timeout_secs(options.timeout_secs());
  if (options.has_max_concurrent_inputs()) {
    function.set_max_concurrent_inputs(options.max_concurrent_inputs());
    if (!options.has_target_concurrent_inputs()) function.set_target_concurrent_inputs(0);
  }
  if (options.has_target_concurrent_inputs()) function.set_target_concurrent_inputs(options.target_concurrent_inputs());
  if (options.has_batch_max_size()) function.set_batch_max_size(options.batch_max_size());
  if (options.has_batch_linger_ms()) function.set_batch_linger_ms(options.batch_linger_ms());
  if (options.has_scheduler_placement()) *function.mutable_scheduler_placement() = options.scheduler_placement();
  if (options.has_cloud_provider_str()) function.set_cloud_provider_str(options.cloud_provider_str());
  if (options.has_routing_region()) function.set_routing_region(options.routing_region());
  PROA_TRY(ReadFunction read, read_function(std::move(function)));
  return std::move(read.spec);
}

control::Autoscaling read_autoscaling(const pb::AutoscalerSettings& settings) {
  control::Autoscaling read;
  if (settings.has_min_containers()) read.containers_min = settings.min_containers();
  if (settings.has_max_containers()) read.containers_max = settings.max_containers();
  if (settings.has_buffer_containers()) read.containers_buffer = settings.buffer_containers();
  if (settings.has_scaledown_window()) read.scaledown_window_seconds = settings.scaledown_window();
  return read;
}

pb::AutoscalerSettings write_autoscaling(const control::Autoscaling& settings) {
  pb::AutoscalerSettings written;
  if (settings.containers_min) written.set_min_containers(*settings.containers_min);
  if (settings.containers_max.value_or(0) != 0) written.set_max_containers(*settings.containers_max);
  if (settings.containers_buffer) written.set_buffer_containers(*settings.containers_buffer);
  if (settings.scaledown_window_seconds) written.set_scaledown_window(*settings.scaledown_window_seconds);
  return written;
}

// --- Handles --------------------------------------------------------------------------------------------------------

std::string Handles::web_address(const control::App* app, const std::string& name, const pb::WebhookConfig& web) const {
  if (app == nullptr || !web_address_ || web.type() == pb::WEBHOOK_TYPE_UNSPECIFIED) return "";
  return web_address_(*app, name, web);
}

// From a definition, or from the request that reserved the id: both have these fields.
template <class Source>
void Handles::fill(pb::FunctionHandleMetadata& metadata, const Source& source, const control::App* app,
                   bool bound) const {
  metadata.set_function_name(source.function_name());
  metadata.set_function_type(source.function_type());
  if (!bound) metadata.set_web_url(web_address(app, source.function_name(), source.webhook_config()));
  if constexpr (std::is_same_v<Source, pb::Function>) {
    if (source.has_class_parameter_info()) *metadata.mutable_class_parameter_info() = source.class_parameter_info();
  }
  if (source.has_function_schema()) *metadata.mutable_function_schema() = source.function_schema();
  *metadata.mutable_supported_input_formats() = source.supported_input_formats();
  *metadata.mutable_supported_output_formats() = source.supported_output_formats();
  if (app != nullptr) metadata.set_app_id(app->id.text());
  std::string class_name = source.function_name();
  if (class_name.ends_with(".*")) class_name.resize(class_name.size() - 2);
  for (const auto& [name, method] : source.method_definitions()) {
    pb::FunctionHandleMetadata& one = (*metadata.mutable_method_handle_metadata())[name];
    const std::string full_name = method.function_name().empty() ? class_name + "." + name : method.function_name();
    one.set_function_name(full_name);
    one.set_function_type(method.function_type());
    one.set_is_method(true);
    one.set_use_method_name(name);
    one.set_definition_id(metadata.definition_id());
    one.set_app_id(metadata.app_id());
    one.set_base_function_id(metadata.base_function_id());
    if (!bound) one.set_web_url(web_address(app, full_name, method.webhook_config()));
    if (method.has_function_schema()) *one.mutable_function_schema() = method.function_schema();
    *one.mutable_supported_input_formats() = method.supported_input_formats();
    *one.mutable_supported_output_formats() = method.supported_output_formats();
  }
}

Result<pb::FunctionHandleMetadata> Handles::function(FunctionId id, Which which) const {
  PROA_TRY(const control::Function* function, apps_.require(id));
  const control::App* const app = apps_.find(function->app);
  const bool bound = !function->base.empty();
  pb::FunctionHandleMetadata metadata;
  metadata.set_definition_id(
      (which == Which::kLatest ? apps_.latest_definition(id) : apps_.current_definition(id)).text());
  if (bound) metadata.set_base_function_id(function->base.text());
  const control::FunctionSpec* const spec = which == Which::kLatest ? apps_.latest_spec(id) : apps_.spec(id);
  if (spec != nullptr) {
    PROA_TRY(const pb::Function definition, definition_of(*spec));
    fill(metadata, definition, app, bound);
    return metadata;
  }
  pb::FunctionPrecreateRequest reservation;
  if (function->reservation.empty() || !reservation.ParseFromString(function->reservation)) {
    return not_found("Function '" + id.text() + "' was not declared yet");
  }
  fill(metadata, reservation, app, bound);
  return metadata;
}

Result<pb::Function> Handles::definition(FunctionId id, Which which) const {
  PROA_TRY(const control::Function* function, apps_.require(id));
  const control::FunctionSpec* const spec = which == Which::kLatest ? apps_.latest_spec(id) : apps_.spec(id);
  if (spec == nullptr) return not_found("Function '" + id.text() + "' was not published yet");
  PROA_TRY(pb::Function definition, definition_of(*spec));
  const control::App* const app = apps_.find(function->app);
  definition.set_web_url(web_address(app, definition.function_name(), definition.webhook_config()));
  for (auto& [name, method] : *definition.mutable_method_definitions()) {
    method.set_web_url(web_address(app, method.function_name(), method.webhook_config()));
  }
  return definition;
}

pb::AppLayout Handles::layout(const control::App& app) const {
  pb::AppLayout layout;
  for (const auto& [tag, id] : app.functions) {
    auto metadata = function(id, Which::kCurrent);
    if (!metadata.ok()) continue;
    (*layout.mutable_function_ids())[tag] = id.text();
    pb::Object& object = *layout.add_objects();
    object.set_object_id(id.text());
    *object.mutable_function_handle_metadata() = std::move(metadata).value();
  }
  for (const auto& [tag, id] : app.classes) {
    (*layout.mutable_class_ids())[tag] = id.text();
    pb::Object& object = *layout.add_objects();
    object.set_object_id(id.text());
    object.mutable_class_handle_metadata();
  }
  return layout;
}

pb::AppLifecycle Handles::lifecycle(const control::App& app) const {
  pb::AppLifecycle lifecycle;
  lifecycle.set_app_state(write_app_state(app.state));
  lifecycle.set_created_at(write_time(app.created));
  lifecycle.set_created_by(app.created_by);
  lifecycle.set_version(static_cast<std::int32_t>(app.version));
  if (app.version > 0) {
    lifecycle.set_deployed_at(write_time(app.published));
    const auto deployments = apps_.deployments(app.id);
    if (!deployments.empty()) lifecycle.set_deployed_by(deployments.front().deployed_by);
  }
  if (!app.live()) {
    lifecycle.set_stopped_at(write_time(app.stopped));
    lifecycle.set_stopped_by(app.stop_reason);
  }
  return lifecycle;
}

pb::AppHandleMetadata Handles::app(const control::App& app) const {
  pb::AppHandleMetadata metadata;
  metadata.set_description(app.name.empty() ? app.description : app.name);
  metadata.set_app_id(app.id.text());
  metadata.set_environment_name(environments_.name_of(app.environment));
  *metadata.mutable_lifecycle() = lifecycle(app);
  for (const auto& [tag, id] : app.functions) (*metadata.mutable_functions())[tag] = id.text();
  return metadata;
}

// --- Who asks, and from where ---------------------------------------------------------------------------------------

Result<EnvironmentId> environment_of(const Caller& caller, const std::string& name,
                                     const control::Environments& environments, const control::Apps& apps,
                                     const sched::Scheduler& scheduler) {
  if (caller.kind == Caller::Kind::kContainer && name.empty()) {
    const auto task = scheduler.task(caller.task);
    const control::App* const app = task ? apps.find(task->app) : nullptr;
    if (app == nullptr) return not_found("The container's app is not known any more");
    return app->environment;
  }
  return environments.resolve(name);
}

std::string author(const Caller& caller) {
  if (caller.kind == Caller::Kind::kContainer) return "container " + caller.task.text();
  return caller.user;
}

std::string page_url(const Caller& caller, const std::string& path) { return caller.base_url + path; }

// --- Small things ---------------------------------------------------------------------------------------------------

Result<control::Creation> read_creation(pb::ObjectCreationType type) {
  switch (type) {
    case pb::OBJECT_CREATION_TYPE_UNSPECIFIED: return control::Creation::kLookup;
    case pb::OBJECT_CREATION_TYPE_CREATE_IF_MISSING: return control::Creation::kCreateIfMissing;
    case pb::OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS: return control::Creation::kFailIfExists;
    case pb::OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS: return control::Creation::kOverwrite;
    case pb::OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP: return control::Creation::kAnonymous;
    case pb::OBJECT_CREATION_TYPE_EPHEMERAL: return control::Creation::kEphemeral;
    default:
      return invalid_argument("The way in which the object is to be created (" + std::to_string(type) + ") is unknown");
  }
}

pb::AppState write_app_state(control::AppState state) {
  switch (state) {
    case control::AppState::kInitializing: return pb::APP_STATE_INITIALIZING;
    case control::AppState::kEphemeral: return pb::APP_STATE_EPHEMERAL;
    case control::AppState::kDetached: return pb::APP_STATE_DETACHED;
    case control::AppState::kDetachedDisconnected: return pb::APP_STATE_DETACHED_DISCONNECTED;
    case control::AppState::kDeployed: return pb::APP_STATE_DEPLOYED;
    case control::AppState::kStopping: return pb::APP_STATE_STOPPING;
    case control::AppState::kStopped: return pb::APP_STATE_STOPPED;
  }
  return pb::APP_STATE_UNSPECIFIED;
}

double write_time(Time time) { return time == Time() || time == kNever ? 0 : to_unix_seconds(time); }

void write_timestamp(Time time, google::protobuf::Timestamp& out) {
  const std::int64_t micros = to_micros(time);
  out.set_seconds(micros / 1'000'000);
  out.set_nanos(static_cast<std::int32_t>(micros % 1'000'000 * 1000));
}

Time read_timestamp(const google::protobuf::Timestamp& timestamp) {
  constexpr std::int64_t kSecondsMax = 100'000'000'000;  // The year 5138.
  const std::int64_t seconds = std::clamp<std::int64_t>(timestamp.seconds(), 0, kSecondsMax);
  return from_micros(seconds * 1'000'000 + std::clamp(timestamp.nanos(), 0, 999'999'999) / 1000);
}

Time read_seconds(double seconds) {
  constexpr double kSecondsMax = 1e11;
  if (!std::isfinite(seconds) || seconds <= 0 || seconds > kSecondsMax) return kNever;
  return from_micros(std::llround(seconds * 1e6));
}

Duration read_poll(double seconds, Duration max) {
  if (!std::isfinite(seconds) || seconds <= 0) return Duration(0);
  if (seconds * 1e6 > static_cast<double>(max.count())) return max;
  return Duration(static_cast<std::int64_t>(seconds * 1e6));
}

std::map<std::string, std::string> read_map(const google::protobuf::Map<std::string, std::string>& map) {
  return {map.begin(), map.end()};
}

Bytes serialize(const google::protobuf::MessageLite& message) {
  Bytes bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

}  // namespace proa::api::modal
