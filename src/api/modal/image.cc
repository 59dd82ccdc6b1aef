// SPDX-License-Identifier: Apache-2.0
#include "api/modal/image.h"

#include <algorithm>

namespace proa::api::modal {
namespace {

constexpr Duration kStreamLife = std::chrono::seconds(55);

pb::ImageMetadata write_metadata(const image::ImageRecord& record) {
  pb::ImageMetadata metadata;
  if (!record.runtime.python_version_info.empty()) metadata.set_python_version_info(record.runtime.python_version_info);
  if (!record.runtime.libc_version_info.empty()) metadata.set_libc_version_info(record.runtime.libc_version_info);
  if (!record.config.workdir.empty()) metadata.set_workdir(record.config.workdir);
  for (const auto& [name, version] : record.python_packages) (*metadata.mutable_python_packages())[name] = version;
  metadata.set_image_builder_version(record.builder_version);
  return metadata;
}

pb::GenericResult write_result(const control::Image& image) {
  pb::GenericResult result;
  if (image.state == control::ImageState::kBuilt) {
    result.set_status(pb::GenericResult::GENERIC_STATUS_SUCCESS);
  } else {
    result.set_status(image.error_code == Code::kDeadlineExceeded ? pb::GenericResult::GENERIC_STATUS_TIMEOUT : pb::GenericResult::GENERIC_STATUS_FAILURE);
    result.set_exception(image.error);
  }
  return result;
}

std::uint64_t read_position(const std::string& text) {
  std::uint64_t position = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || position > (1ULL << 60)) break;
    position = position * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return position;
}

}  // namespace

void ImageApi::bind(Router& router) {
  router.unary("ImageGetOrCreate", this, &ImageApi::get_or_create);
  router.stream("ImageJoinStreaming", this, &ImageApi::join);
  router.unary("ImageFromId", this, &ImageApi::from_id);
}

Result<control::ImageRequest> ImageApi::read_request(pb::ImageGetOrCreateRequest request) const {
  if (request.builder_version() > "2025.06") {
    return unimplemented("image builder version " + request.builder_version() + " is not supported yet: set MODAL_IMAGE_BUILDER_VERSION=2025.06, or leave it unset");
  }
  pb::Image& image = *request.mutable_image();
  if (image.has_build_function()) return unimplemented("Image.run_function is not supported yet: use run_commands, or do the work in the function's first call");
  if (image.has_gpu_config() && image.gpu_config().count() > 0) return unimplemented("images are built without a GPU: drop gpu= from this step");
  if (image.volume_mounts_size() > 0) return unimplemented("volumes cannot be mounted while an image is built yet");
  control::ImageRequest out;
  image::Recipe& recipe = out.recipe;
  for (const pb::BaseImage& base : image.base_images()) {
    PROA_TRY(recipe.parents[base.docker_tag()], read_id<ImageId>("Image", base.image_id()));
  }
  for (std::string& line : *image.mutable_dockerfile_commands()) recipe.dockerfile_commands.push_back(std::move(line));
  for (pb::ImageContextFile& file : *image.mutable_context_files()) recipe.context_files.push_back({std::move(*file.mutable_filename()), std::move(*file.mutable_data())});
  for (const auto& [name, value] : image.build_args()) recipe.build_args[name] = value;
  if (!image.context_mount_id().empty()) {
    PROA_TRY(const MountId id, read_id<MountId>("Mount", image.context_mount_id()));
    PROA_TRY(const control::Mount* mount, mounts_.require(id));
    recipe.context = mount->tree;
  }
  for (const std::string& text : image.secret_ids()) {
    PROA_TRY(const SecretId id, read_id<SecretId>("Secret", text));
    PROA_TRY(const control::Secret* secret, secrets_.require(id));
    recipe.secret_keys.insert(recipe.secret_keys.end(), secret->keys.begin(), secret->keys.end());
    out.secrets.push_back(id);
  }
  if (image.has_image_registry_config() && !image.image_registry_config().secret_id().empty()) {
    PROA_TRY(out.registry_secret, read_id<SecretId>("Secret", image.image_registry_config().secret_id()));
    recipe.registry_auth = image::RegistryAuth::kBasic;
  }
  recipe.builder_version = request.builder_version();
  out.key = image::recipe_key(recipe);
  out.force = request.force_build();
  return out;
}

Async<Result<pb::ImageGetOrCreateResponse>> ImageApi::get_or_create(Caller, pb::ImageGetOrCreateRequest request) {
  PROA_CO_TRY(control::ImageRequest wanted, read_request(std::move(request)));
  PROA_CO_TRY(const ImageId id, images_.get_or_build(std::move(wanted)));
  PROA_CO_TRY(const control::Image* image, images_.require(id));
  pb::ImageGetOrCreateResponse response;
  response.set_image_id(id.text());
  // While it is being built there is no result, not even an empty one: that would read as an unknown end.
  if (image->state == control::ImageState::kBuilt) {
    *response.mutable_result() = write_result(*image);
    *response.mutable_metadata() = write_metadata(image->record);
  }
  co_return response;
}

Async<Result<void>> ImageApi::join(Caller, pb::ImageJoinStreamingRequest request, StreamWriter<pb::ImageJoinStreamingResponse> writer) {
  PROA_CO_TRY(const ImageId id, read_id<ImageId>("Image", request.image_id()));
  std::uint64_t after = read_position(request.last_entry_id());
  const Time end = loop_.now() + std::min(kStreamLife, read_poll(request.timeout(), kStreamLife));
  while (true) {
    PROA_CO_TRY(const control::BuildPage page, co_await images_.follow(id, after, end));
    pb::ImageJoinStreamingResponse message;
    for (const control::BuildLine& line : page.lines) {
      pb::TaskLogs& log = *message.add_task_logs();
      log.set_data(line.text);
      log.set_file_descriptor(line.stream == control::LogStream::kStderr ? pb::FILE_DESCRIPTOR_STDERR : pb::FILE_DESCRIPTOR_STDOUT);
      log.set_timestamp(to_unix_seconds(line.time));
    }
    after = page.position;
    message.set_entry_id(std::to_string(after));
    if (page.ended) {
      PROA_CO_TRY(const control::Image* image, images_.require(id));
      *message.mutable_result() = write_result(*image);
      if (image->state == control::ImageState::kBuilt) *message.mutable_metadata() = write_metadata(image->record);
      message.set_eof(true);
    }
    const bool worth_sending = page.ended || message.task_logs_size() > 0;
    if (worth_sending && !co_await writer.write(std::move(message))) co_return Result<void>();
    // The client reads on for late lines until the stream ends.
    if (page.ended || loop_.now() >= end) co_return Result<void>();
  }
}

Async<Result<pb::ImageFromIdResponse>> ImageApi::from_id(Caller, pb::ImageFromIdRequest request) {
  PROA_CO_TRY(const ImageId id, read_id<ImageId>("Image", request.image_id()));
  PROA_CO_TRY(const image::ImageRecord record, images_.record(id));
  pb::ImageFromIdResponse response;
  response.set_image_id(id.text());
  *response.mutable_metadata() = write_metadata(record);
  co_return response;
}

}  // namespace proa::api::modal
