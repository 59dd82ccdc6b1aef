// SPDX-License-Identifier: Apache-2.0
//
// Builds: the image builder, connected to what a build needs of the core: its parents' records, its secrets'
// values, the steps that earlier builds made.
#pragma once

#include <functional>
#include <memory>

#include "cas/object_store.h"
#include "control/images.h"
#include "control/secrets.h"
#include "image/builder.h"
#include "rt/pool.h"

namespace proa::app {

class Builds final : public control::ImageBuilder, public image::StepCache {
 public:
  Builds(Loop& loop, Pool& pool, cas::ObjectStore& objects, image::BaseResolver& bases, control::Secrets& secrets)
      : loop_(loop), pool_(pool), objects_(objects), bases_(bases), secrets_(secrets) {}
  // Before the first build.
  void set_images(control::Images& images) { images_ = &images; }
  // Called with each image that was built, before its build ends. What fails in it is said in the build's log and
  // fails nothing.
  using AfterBuild = std::function<Async<Result<void>>(image::ImageRecord, image::BuildLog&)>;
  void set_after_build(AfterBuild after) { after_build_ = std::move(after); }
  void set_runner(image::StepRunner& runner, image::BuilderConfig config);

  Async<Result<image::ImageRecord>> build(control::Image image, control::BuildLines& lines) override;

  // --- image::StepCache
  Async<Result<std::optional<Digest>>> find(Digest key) override;
  Async<Result<void>> remember(Digest key, Digest tree) override;

 private:
  Loop& loop_;
  Pool& pool_;
  cas::ObjectStore& objects_;
  image::BaseResolver& bases_;
  control::Secrets& secrets_;
  control::Images* images_ = nullptr;
  AfterBuild after_build_;
  std::unique_ptr<image::Builder> builder_;
};

}  // namespace proa::app
