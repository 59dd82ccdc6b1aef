// SPDX-License-Identifier: Apache-2.0
//
// What a worker and its launcher say to each other, over a SOCK_SEQPACKET pair: one struct a message, with
// descriptors beside it. What has no fixed size (a task's trees, arguments, environment and files) comes in
// a sealed memfd, as a record.
//
// The worker is not trusted: every field is checked here, and no path comes from it. Both ends are built
// from one tree, so the layout may change; kVersion tells a stray pair apart.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/digest.h"

namespace proa::launcher {

constexpr std::uint32_t kVersion = 1;

enum class Op : std::uint32_t {
  kHello = 1,    // → capabilities.
  kPrepare = 2,  // → slot, address; descriptors: API listener, blob listener, stdout, stderr.
  kStart = 3,    // + memfd with a StartRecord. Answered when the program runs, or why it does not.
  kSignal = 4,
  kKill = 5,     // Everything in the slot, at once.
  kUsage = 6,
  kExport = 7,   // → descriptor: the layer stream.
  kRemove = 8,
};

struct Request {
  std::uint32_t version = kVersion;
  Op op = Op::kHello;
  std::uint64_t id = 0;  // Comes back in the reply.
  std::uint64_t slot = 0;
  std::int32_t signal = 0;
  std::uint32_t network = 0;  // 1: to the internet.
  std::int64_t cpu_milli_max = 0;
  std::int64_t cpu_milli_weight = 0;
  std::int64_t memory_bytes_max = 0;
  std::int32_t pids_max = 0;
  std::int32_t padding = 0;
};

enum class MessageKind : std::uint32_t { kReply = 1, kExited = 2 };

struct Message {
  MessageKind kind = MessageKind::kReply;
  std::int32_t code = 0;  // A Code; 0 is success.
  std::uint64_t id = 0;   // Of the request; 0 for kExited.
  std::uint64_t slot = 0;
  std::int32_t exit_code = 0;
  std::uint32_t oom = 0;
  std::int64_t cpu_micros = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t memory_bytes_peak = 0;
  std::uint32_t ipv4 = 0;      // Network order; 0 without a network.
  std::uint32_t cgroups = 0;   // kHello: 0 none, 1 or 2.
  std::uint32_t network = 0;   // kHello: 1 if there is one.
  std::uint32_t padding = 0;
  std::array<char, 512> text{};  // Of an error, or what is less than it could be (kHello).
};

// The variable part of kStart.
struct StartRecord {
  std::vector<Digest> trees;  // Lowest first.
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string working_directory;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::map<std::string, Bytes> files;
  std::string hostname;

  static void fields(auto& visit, auto& self) {
    visit(1, self.trees), visit(2, self.argv), visit(3, self.env), visit(4, self.working_directory), visit(5, self.uid);
    visit(6, self.gid), visit(7, self.files), visit(8, self.hostname);
  }
  friend bool operator==(const StartRecord&, const StartRecord&) = default;
};

constexpr std::size_t kStartBytesMax = 96 << 20;
constexpr std::size_t kTreesMax = 32;
constexpr std::size_t kStringsMax = 10'000;  // Arguments, and variables.
constexpr std::size_t kPassedFdsMax = 4;

// kInvalidArgument, saying what is out of bounds.
Result<void> check_start(const StartRecord& record);

}  // namespace proa::launcher
