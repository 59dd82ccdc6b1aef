// SPDX-License-Identifier: Apache-2.0
#include "control/images.h"

#include <algorithm>

namespace proa::control {

using store::Table;

Images::Images(Loop& loop, Random& random, Ledger& ledger, ImageBuilder& builder, Logger& log, Config config)
    : loop_(loop), random_(random), ledger_(ledger), builder_(builder), log_(log), config_(config) {}

Images::~Images() = default;

Result<void> Images::load(store::Store& store) {
  Result<void> result;
  PROA_TRY_VOID(store.load(Table::kImage, [&](BytesView, BytesView value) {
    auto image = decode<Image>(value);
    if (!image.ok()) {
      result = image.error();
      return;
    }
    // Of several with one key the newest has it: the others were replaced by force.
    ImageId& newest = by_key_[image->key];
    const auto other = images_.find(newest);
    if (other == images_.end() || other->second.created <= image->created) newest = image->id;
    const ImageId id = image->id;
    images_[id] = std::move(image).value();
  }));
  PROA_TRY_VOID(store.load(Table::kImageStep, [&](BytesView key, BytesView value) {
    const auto step = Digest::from_bytes(key);
    const auto tree = Digest::from_bytes(value);
    if (step.ok() && tree.ok()) steps_[*step] = *tree;
  }));
  return result;
}

// --- Images -----------------------------------------------------------------------------------------------------

Result<ImageId> Images::get_or_build(ImageRequest request) {
  const auto known = by_key_.find(request.key);
  if (known != by_key_.end()) {
    Image& image = images_.at(known->second);
    if (image.state == ImageState::kBuilding || (image.state == ImageState::kBuilt && !request.force)) {
      PROA_TRY_VOID(begin(image.id));
      return image.id;
    }
    if (image.state == ImageState::kFailed) {
      // Whoever asks again may have brought other secrets.
      image.state = ImageState::kBuilding;
      image.secrets = std::move(request.secrets);
      image.registry_secret = request.registry_secret;
      image.force = request.force;
      image.error.clear();
      image.error_code = Code::kOk;
      builds_.erase(image.id);
      put(image);
      PROA_TRY_VOID(begin(image.id));
      return image.id;
    }
  }
  if (images_.size() >= config_.images_max) {
    return resource_exhausted("The image was not made: there are " + std::to_string(images_.size()) +
                              ", the configured limit");
  }
  if (under_way_ >= config_.builds_max) {
    return resource_exhausted("The image was not made: " + std::to_string(under_way_) +
                              " builds are under way, the configured limit");
  }
  const ImageId id = ImageId::make(random_, loop_.now());
  Image& image = images_[id];
  image = Image{.id = id,
                .key = request.key,
                .recipe = std::move(request.recipe),
                .secrets = std::move(request.secrets),
                .registry_secret = request.registry_secret,
                .created = loop_.now(),
                .force = request.force};
  by_key_[request.key] = id;
  put(image);
  PROA_TRY_VOID(begin(id));
  return id;
}

const Image* Images::find(ImageId image) const {
  const auto found = images_.find(image);
  return found == images_.end() ? nullptr : &found->second;
}

Result<const Image*> Images::require(ImageId image) const {
  const Image* const found = find(image);
  if (found == nullptr) return not_found("Image '" + image.text() + "' not found");
  return found;
}

Result<image::ImageRecord> Images::record(ImageId image) const {
  PROA_TRY(const Image* found, require(image));
  if (found->state == ImageState::kBuilding)
    return failed_precondition("Image '" + image.text() + "' is not built yet");
  if (found->state == ImageState::kFailed)
    return failed_precondition("Image '" + image.text() + "' could not be built: " + found->error);
  return found->record;
}

ImageId Images::add(image::ImageRecord record) {
  const ImageId id = ImageId::make(random_, loop_.now());
  Image& image = images_[id];
  // No recipe leads to it, so its key is its id's.
  image = Image{.id = id,
                .key = sha256(id.text()),
                .state = ImageState::kBuilt,
                .record = std::move(record),
                .created = loop_.now()};
  by_key_[image.key] = id;
  put(image);
  return id;
}

Result<void> Images::remove(ImageId image) {
  const auto found = images_.find(image);
  if (found == images_.end()) return not_found("Image '" + image.text() + "' not found");
  const auto keyed = by_key_.find(found->second.key);
  if (keyed != by_key_.end() && keyed->second == image) by_key_.erase(keyed);
  images_.erase(found);
  ledger_.erase(Table::kImage, key_of(image));
  return {};
}

// --- Builds -----------------------------------------------------------------------------------------------------

void Images::Build::line(LogStream stream, std::string text) {
  const std::uint64_t position = static_cast<std::uint64_t>(to_micros(images_.positions_.next(images_.loop_.now())));
  bytes += text.size() + sizeof(BuildLine);
  lines.push_back({position, images_.loop_.now(), stream, std::move(text)});
  while (bytes > images_.config_.lines_bytes_max && lines.size() > 1) {
    bytes -= lines.front().text.size() + sizeof(BuildLine);
    lines.pop_front();
  }
  changed.notify();
}

// Does nothing for an image that is built or being built.
Result<void> Images::begin(ImageId image) {
  if (images_.at(image).state != ImageState::kBuilding || builds_.contains(image)) return {};
  if (under_way_ >= config_.builds_max) {
    return resource_exhausted("The image is not built yet: " + std::to_string(under_way_) +
                              " builds are under way, the configured limit");
  }
  const auto build = std::make_shared<Build>(*this, loop_);
  builds_[image] = build;
  ++under_way_;
  scope_.spawn(run(image, build));
  return {};
}

Async<> Images::run(ImageId id, std::shared_ptr<Build> build) {
  // Whoever asked for it goes on first.
  co_await sleep_until(loop_, loop_.now());
  const auto found = images_.find(id);
  if (found != images_.end()) {
    log_.info("image.building", {{"image", id.text()}});
    const Time started = loop_.now();
    auto result = co_await builder_.build(found->second, *build);
    const auto again = images_.find(id);
    if (again != images_.end()) {
      Image& image = again->second;
      if (result.ok()) {
        image.state = ImageState::kBuilt;
        image.record = std::move(result).value();
      } else {
        image.state = ImageState::kFailed;
        image.error_code = result.error().code;
        image.error = result.error().message;
      }
      put(image);
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(loop_.now() - started).count();
      log_.info(
          "image.ended",
          {{"image", id.text()}, {"built", image.state == ImageState::kBuilt ? "yes" : "no"}, {"seconds", seconds}});
    }
    // The end is not shown before it is durable.
    co_await ledger_.durable();
  }
  build->ended = true;
  build->changed.notify();
  --under_way_;
  ended_.push_back(id);
  while (ended_.size() > config_.lines_kept) {
    const auto oldest = builds_.find(ended_.front());
    if (oldest != builds_.end() && oldest->second->ended) builds_.erase(oldest);
    ended_.pop_front();
  }
}

Async<Result<BuildPage>> Images::follow(ImageId image, std::uint64_t after, Time deadline) {
  PROA_CO_TRY_VOID(require(image));
  PROA_CO_TRY_VOID(begin(image));
  const auto found = builds_.find(image);
  BuildPage page{.position = after};
  if (found == builds_.end()) {
    page.ended = true;
    co_return page;
  }
  const std::shared_ptr<Build> build = found->second;
  while (true) {
    for (const BuildLine& line : build->lines) {
      if (line.position <= page.position) continue;
      page.position = line.position;
      page.lines.push_back(line);
    }
    page.ended = build->ended;
    if (!page.lines.empty() || page.ended || loop_.now() >= deadline) co_return page;
    co_await build->changed.wait_until(deadline);
  }
}

// --- Steps ------------------------------------------------------------------------------------------------------

std::optional<Digest> Images::find_step(const Digest& key) const {
  const auto found = steps_.find(key);
  return found == steps_.end() ? std::nullopt : std::optional<Digest>(found->second);
}

void Images::remember_step(const Digest& key, const Digest& tree) {
  if (steps_.size() >= config_.steps_max && !steps_.contains(key)) {
    // Any will do: what is lost costs time when it is needed again.
    const auto any = steps_.begin();
    ledger_.erase(Table::kImageStep, key_of(any->first));
    steps_.erase(any);
  }
  steps_.insert_or_assign(key, tree);
  ledger_.put_bytes(Table::kImageStep, key_of(key), Bytes(tree.view()));
}

}  // namespace proa::control
