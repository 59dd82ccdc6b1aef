// SPDX-License-Identifier: Apache-2.0
//
// proa-sim: runs the simulator over seeds and prints how often each fault fired. Exit status 1 if a seed
// failed, or if a class of fault never fired over at least 100 seeds.
//
//   proa-sim [--seeds N] [--from SEED] [--verbose]
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "sim/world.h"

int main(int argc, char** argv) {
  std::uint64_t seeds = 200;
  std::uint64_t from = 1;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--verbose") {
      verbose = true;
    } else if (flag == "--seeds" && i + 1 < argc) {
      seeds = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--from" && i + 1 < argc) {
      from = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: proa-sim [--seeds N] [--from SEED] [--verbose]\n");
      return 2;
    }
  }
  std::array<std::uint64_t, proa::sim::kFaults> faults{};
  std::uint64_t steps = 0;
  std::uint64_t inputs = 0;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    const proa::sim::Outcome outcome = proa::sim::run({.seed = seed, .verbose = verbose});
    for (std::size_t i = 0; i < faults.size(); ++i) faults[i] += outcome.faults[i];
    steps += outcome.steps;
    inputs += outcome.inputs;
    if (!outcome.failure.empty()) {
      std::printf("seed %llu failed: %s\nreplay: proa-sim --from %llu --seeds 1 --verbose\n", static_cast<unsigned long long>(seed),
                  outcome.failure.c_str(), static_cast<unsigned long long>(seed));
      return 1;
    }
  }
  std::printf("%llu seeds, %llu inputs, %llu steps\n", static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(inputs),
              static_cast<unsigned long long>(steps));
  bool all_fired = true;
  for (std::size_t i = 0; i < faults.size(); ++i) {
    std::printf("  %-17s %llu\n", proa::sim::kFaultNames[i], static_cast<unsigned long long>(faults[i]));
    all_fired = all_fired && faults[i] > 0;
  }
  if (seeds >= 100 && !all_fired) {
    std::printf("a class of fault never fired: this run proves less than it says\n");
    return 1;
  }
  return 0;
}
