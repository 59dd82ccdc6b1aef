// SPDX-License-Identifier: Apache-2.0
//
// RealPipes: pipes read on a RealLoop.
#pragma once

#include "rt/real_loop.h"
#include "worker/seams.h"

namespace proa::worker {

class RealPipes final : public Pipes {
 public:
  explicit RealPipes(RealLoop& loop) : loop_(loop) {}
  std::unique_ptr<Pipe> open(container::OwnedFd fd) override;

 private:
  RealLoop& loop_;
};

}  // namespace proa::worker
