// SPDX-License-Identifier: Apache-2.0
//
// DiskReserve: what keeps a full disk from being more than a nuisance. It says when space runs low, so that nothing new is
// begun while what is under way can still be finished, and it holds a file whose space is given up when even that
// does not suffice. Both come back by themselves once there is space.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "api/router.h"
#include "base/log.h"
#include "rt/loop.h"

namespace proa::app {

class DiskReserve final : public api::Space {
 public:
  static constexpr std::uint64_t kReserveBytes = 32 << 20;
  static constexpr std::uint64_t kLowBytes = 64 << 20;

  // Looks at once, and then each second. All outlive it.
  DiskReserve(Loop& loop, Logger& log, std::string directory);
  ~DiskReserve() override;
  DiskReserve(const DiskReserve&) = delete;
  DiskReserve& operator=(const DiskReserve&) = delete;

  // kResourceExhausted, naming the directory, while space is low.
  Result<void> check() const override;
  bool low() const { return low_; }
  // Gives the reserve up; false if it was given up already. Any thread.
  bool release();

 private:
  void look();
  bool hold();

  Loop& loop_;
  Logger& log_;
  std::string directory_;
  std::string file_;
  std::atomic<bool> held_ = false;
  bool low_ = false;
  std::uint64_t free_bytes_ = 0;
  Loop::TimerId timer_ = 0;
};

}  // namespace proa::app
