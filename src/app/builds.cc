// SPDX-License-Identifier: Apache-2.0
#include "app/builds.h"

#include "base/check.h"

namespace proa::app {
namespace {

// Cuts a build's output into lines as the core keeps them.
class LineLog final : public image::BuildLog {
 public:
  explicit LineLog(control::BuildLines& lines) : lines_(lines) {}
  ~LineLog() override {
    for (const auto stream : {image::LogStream::kStdout, image::LogStream::kStderr}) {
      if (std::string& rest = rest_of(stream); !rest.empty()) lines_.line(core(stream), rest + "\n");
    }
  }
  void write(image::LogStream stream, std::string_view text) override {
    constexpr std::size_t kLineBytesMax = 16 << 10;
    std::string& rest = rest_of(stream);
    for (const char c : text) {
      rest += c;
      if (c != '\n' && rest.size() < kLineBytesMax) continue;
      lines_.line(core(stream), std::exchange(rest, {}));
    }
  }

 private:
  static control::LogStream core(image::LogStream stream) { return stream == image::LogStream::kStderr ? control::LogStream::kStderr : control::LogStream::kStdout; }
  std::string& rest_of(image::LogStream stream) { return stream == image::LogStream::kStderr ? err_ : out_; }

  control::BuildLines& lines_;
  std::string out_;
  std::string err_;
};

}  // namespace

void Builds::set_runner(image::StepRunner& runner, image::BuilderConfig config) {
  builder_ = std::make_unique<image::Builder>(loop_, pool_, objects_, runner, bases_, *this, std::move(config));
}

Async<Result<image::ImageRecord>> Builds::build(control::Image image, control::BuildLines& lines) {
  PROA_CHECK(builder_ != nullptr && images_ != nullptr);
  image::BuildRequest request;
  request.recipe = image.recipe;
  request.cache = image.force ? image::BuildRequest::Cache::kRefresh : image::BuildRequest::Cache::kUse;
  for (const auto& [name, id] : image.recipe.parents) {
    PROA_CO_TRY(request.parents[name], images_->record(id));
  }
  for (const SecretId id : image.secrets) {
    PROA_CO_TRY(const auto values, secrets_.use(id));
    for (const auto& [name, value] : values) request.secrets[name] = value;
  }
  if (!image.registry_secret.empty()) {
    PROA_CO_TRY(request.registry_credentials, secrets_.use(image.registry_secret));
  }
  LineLog log(lines);
  PROA_CO_TRY(image::ImageRecord record, co_await builder_->build(std::move(request), log));
  if (after_build_) {
    const Result<void> done = co_await after_build_(record, log);
    if (!done.ok()) log.write(image::LogStream::kStderr, "WARNING: functions cannot run in this image yet: " + done.error().message + "\n");
  }
  co_return record;
}

Async<Result<std::optional<Digest>>> Builds::find(Digest key) { co_return images_->find_step(key); }

Async<Result<void>> Builds::remember(Digest key, Digest tree) {
  images_->remember_step(key, tree);
  co_return Result<void>();
}

}  // namespace proa::app
