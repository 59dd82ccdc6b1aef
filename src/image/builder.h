// SPDX-License-Identifier: Apache-2.0
//
// Builder: makes images from recipes, step by step, with what earlier builds left in the step cache.
//
// It owns the builds in flight: two requests with the same scope and recipe share one, and it goes on as long
// as one of them waits. It does not own images (control keeps the records), containers (StepRunner), logs, or
// rights. Secrets and mirrors are there while a command runs and never in a tree, a config or a key.
//
// On the loop; trees are worked on in the pool. Calls to build() must have ended before it does. A build that fails or
// is abandoned leaves only objects that nothing refers to.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cas/object_store.h"
#include "image/base_resolver.h"
#include "image/config.h"
#include "image/mirrors.h"
#include "image/recipe.h"
#include "image/step_cache.h"
#include "image/step_runner.h"
#include "rt/loop.h"
#include "rt/pool.h"

namespace proa::image {

struct BuilderConfig {
  Duration command_timeout = std::chrono::hours(1);  // Of one RUN.
  std::size_t output_bytes_max = 64 << 20;           // Of one build's log; the rest of the output is dropped.
  BuildMirrors mirrors;
};

struct BuildRequest {
  Recipe recipe;
  std::string scope;                           // Separates workspaces; part of what makes builds the same.
  std::map<std::string, ImageRecord> parents;  // For each name in recipe.parents.
  std::map<std::string, std::string> secrets;  // Name → value, for RUN.
  std::map<std::string, std::string> registry_credentials;
  enum class Cache {
    kUse,
    kRefresh,  // Runs every step and asks registries anew; what it makes replaces what was remembered.
  };
  Cache cache = Cache::kUse;
};

class Builder {
 public:
  // All must outlive it.
  Builder(Loop& loop, Pool& pool, cas::ObjectStore& objects, StepRunner& runner, BaseResolver& bases, StepCache& cache,
          BuilderConfig config);
  ~Builder();
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  // Builds, or joins a build of the same thing: then `log` first gets what was logged so far. `log` must
  // outlive the call.
  //   kInvalidArgument     the recipe is wrong; the message names the line.
  //   kFailedPrecondition  a command failed; the message has its last lines.
  //   kUnimplemented       something that Docker can and we cannot.
  //   kDeadlineExceeded    a command took too long.
  //   kNotFound            a base image, or a file to copy, is not there.
  Async<Result<ImageRecord>> build(BuildRequest request, BuildLog& log);

  // What a container wrote over `parent` as an image of its own, as for a build function or a snapshot.
  // `hidden`: paths below which nothing is kept (mounts, volumes); our own and the kernel's are added.
  Async<Result<ImageRecord>> commit(ImageRecord parent, cas::Tree upper, std::vector<std::string> hidden,
                                    BuildLog& log);

  std::size_t builds_in_flight() const { return flights_.size(); }

 private:
  struct Flight;
  class Build;
  friend class Build;

  Async<> fly(std::shared_ptr<Flight> flight, std::shared_ptr<const BuildRequest> request);

  Loop& loop_;
  Pool& pool_;
  cas::ObjectStore& objects_;
  StepRunner& runner_;
  BaseResolver& bases_;
  StepCache& cache_;
  std::shared_ptr<const BuilderConfig> config_;  // Shared with work in the pool.
  std::map<Digest, std::shared_ptr<Flight>> flights_;
  std::map<Digest, RuntimeInfo> probes_;  // By identity. Small: one for each Python that was ever met.
};

}  // namespace proa::image
