// SPDX-License-Identifier: Apache-2.0
//
// World: the server's rules (Ledger, Calls, Scheduler) on a simulated disk, some fake workers and some fake
// clients, with faults drawn from a seed. After each step it checks that every acknowledged input has
// exactly one result or is still owed, and that nothing that was acknowledged is taken back. The same seed
// does the same things: a failure is replayed by its seed.
//
// tests/sim/bugs/ holds bugs as patches to the rules; a test builds each and sees that this finds it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace proa::sim {

// The classes of faults. A run over many seeds in which one of them never fires is no proof.
enum class Fault : std::uint8_t {
  kServerCrash,       // At any step; what was not durable is gone.
  kTornWrite,         // The write under way at the crash made it after all.
  kWorkerCrash,
  kWorkerLost,        // Dies, and comes back only after it was given up.
  kStreamBroken,      // Messages under way are lost, both ways.
  kMessageDelayed,
  kOutputRepeated,    // An output whose acknowledgement was lost is sent again.
  kRequestRepeated,   // A client's request whose answer was lost is sent again.
  kContainerCrash,
  kStartFailed,
  kCallCancelled,
  kAppStopped,
  kRedeployed,        // Containers of the older definition leave.
};
constexpr std::size_t kFaults = 13;
constexpr std::array<const char*, kFaults> kFaultNames = {
    "server crash",    "torn write",       "worker crash",    "worker lost",  "stream broken",  "message delayed",
    "output repeated", "request repeated", "container crash", "start failed", "call cancelled", "app stopped",
    "redeployed"};

struct Options {
  std::uint64_t seed = 1;
  bool verbose = false;
};

struct Outcome {
  std::string failure;  // "" if all held; else what did not, and when.
  std::array<std::uint64_t, kFaults> faults{};
  std::uint64_t steps = 0;
  std::uint64_t inputs = 0;
};

Outcome run(const Options& options);

}  // namespace proa::sim
