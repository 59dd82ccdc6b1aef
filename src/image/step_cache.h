// SPDX-License-Identifier: Apache-2.0
//
// StepCache: what each step of earlier builds made, so that a build that shares its beginning with another
// starts where they part. Kept by whoever has a store; losing it costs time only.
//
// On the loop.
#pragma once

#include <map>
#include <optional>

#include "base/digest.h"
#include "base/result.h"
#include "rt/async.h"

namespace proa::image {

class StepCache {
 public:
  virtual ~StepCache() = default;
  // The tree that the step with this key made, if known. It may be gone from the object store.
  virtual Async<Result<std::optional<Digest>>> find(Digest key) = 0;
  virtual Async<Result<void>> remember(Digest key, Digest tree) = 0;
};

class MemoryStepCache final : public StepCache {
 public:
  Async<Result<std::optional<Digest>>> find(Digest key) override {
    const auto found = trees_.find(key);
    co_return found == trees_.end() ? std::optional<Digest>() : std::optional<Digest>(found->second);
  }
  Async<Result<void>> remember(Digest key, Digest tree) override {
    trees_.insert_or_assign(key, tree);
    co_return Result<void>();
  }

 private:
  std::map<Digest, Digest> trees_;
};

}  // namespace proa::image
