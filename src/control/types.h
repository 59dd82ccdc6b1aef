// SPDX-License-Identifier: Apache-2.0
//
// The product's nouns as values: what an app's functions need, what a call carries, how it ends. Both wires
// translate into these and back; nothing here is shaped by either.
//
// Everything with `fields` is stored or sent between our own processes. DO NOT CHANGE tags or numbers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/id.h"

namespace proa::control {

// How the bytes of a payload are to be read by those who run user code. We never look inside.
enum class DataFormat : std::uint8_t { kUnspecified = 0, kPickle = 1, kAsgi = 2, kGeneratorDone = 3, kCbor = 4 };

// An argument, a result or a chunk: inline, or in a blob when it is big.
struct Payload {
  Bytes bytes;
  BlobId blob;
  DataFormat format = DataFormat::kUnspecified;

  std::size_t inline_bytes() const { return bytes.size(); }
  static void fields(auto& visit, auto& self) { visit(1, self.bytes), visit(2, self.blob), visit(3, self.format); }
  friend bool operator==(const Payload&, const Payload&) = default;
};

enum class Status : std::uint8_t {
  kNone = 0,  // Not over yet.
  kSuccess = 1,
  kFailure = 2,         // User code raised, or its container died of itself.
  kTerminated = 3,      // Cancelled.
  kTimeout = 4,
  kInitFailure = 5,     // The container could not begin.
  kInternalFailure = 6,  // Our fault; may be tried again.
};

// How an input ended.
struct Outcome {
  Status status = Status::kNone;
  Payload value;          // The result, or the exception as an object.
  std::string error;      // For a person.
  std::string traceback;  // For a person.
  // What the runner adds for the caller's side of the same wire, by name (as a serialized traceback).
  std::map<std::string, Bytes> attachments;

  static void fields(auto& visit, auto& self) {
    visit(1, self.status), visit(2, self.value), visit(3, self.error), visit(4, self.traceback);
    visit(5, self.attachments);
  }
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

struct Resources {
  std::int64_t cpu_milli = 0;
  std::int64_t memory_bytes = 0;
  std::int32_t gpus = 0;

  static void fields(auto& visit, auto& self) {
    visit(1, self.cpu_milli), visit(2, self.memory_bytes), visit(3, self.gpus);
  }
  friend bool operator==(const Resources&, const Resources&) = default;
};

struct RetryPolicy {
  std::uint32_t retries = 0;
  Duration initial_delay{};
  Duration delay_max{};
  double backoff = 1.0;

  static void fields(auto& visit, auto& self) {
    visit(1, self.retries), visit(2, self.initial_delay), visit(3, self.delay_max), visit(4, self.backoff);
  }
  friend bool operator==(const RetryPolicy&, const RetryPolicy&) = default;
};

struct Autoscaling {
  std::optional<std::uint32_t> containers_min;
  std::optional<std::uint32_t> containers_max;  // Unset or 0: no limit.
  std::optional<std::uint32_t> containers_buffer;
  std::optional<std::uint32_t> scaledown_window_seconds;

  static void fields(auto& visit, auto& self) {
    visit(1, self.containers_min), visit(2, self.containers_max), visit(3, self.containers_buffer);
    visit(4, self.scaledown_window_seconds);
  }
  friend bool operator==(const Autoscaling&, const Autoscaling&) = default;
};

enum class FunctionKind : std::uint8_t { kFunction = 0, kGenerator = 1 };

// What the core must know to run a function. The rest of its definition is the face's own.
struct FunctionSpec {
  std::string name;  // Its tag in the app: "f", or "Cls.*" for a class.
  FunctionKind kind = FunctionKind::kFunction;
  ImageId image;
  std::vector<MountId> mounts;
  std::vector<SecretId> secrets;  // Later ones win.
  Resources request;              // What placement reserves; 0 fields take the configured default.
  std::int64_t cpu_milli_max = 0;     // Hard limits; 0 is none.
  std::int64_t memory_bytes_max = 0;
  Duration timeout{};             // Per input.
  Duration startup_timeout{};
  RetryPolicy retries;
  Autoscaling autoscaling;
  std::uint32_t concurrent_inputs_max = 1;
  std::uint32_t concurrent_inputs_target = 1;
  std::uint32_t batch_size_max = 0;  // 0: not batched.
  Duration batch_linger{};
  std::uint32_t inputs_max = 0;  // A container leaves after so many; 0 is no limit.
  bool network_blocked = false;
  bool untrusted = false;  // Only the container's own RPCs are open to it.
  bool builder = false;    // Runs once, while an image is built.
  // The wire it came by ("modal", "proa") and that wire's own definition, opaque to the core.
  std::string face;
  Bytes definition;

  static void fields(auto& visit, auto& self) {
    visit(1, self.name), visit(2, self.kind), visit(3, self.image), visit(4, self.mounts), visit(5, self.secrets);
    visit(6, self.request), visit(7, self.cpu_milli_max), visit(8, self.memory_bytes_max), visit(9, self.timeout);
    visit(10, self.startup_timeout), visit(11, self.retries), visit(12, self.autoscaling);
    visit(13, self.concurrent_inputs_max), visit(14, self.concurrent_inputs_target), visit(15, self.batch_size_max);
    visit(16, self.batch_linger), visit(17, self.inputs_max), visit(18, self.network_blocked);
    visit(19, self.untrusted), visit(20, self.builder), visit(21, self.face), visit(22, self.definition);
  }
  friend bool operator==(const FunctionSpec&, const FunctionSpec&) = default;
};

// One function input on its way in.
struct Arguments {
  Payload payload;
  std::string method;  // For classes; "" for plain functions.
  // What a face wants back unchanged when the input reaches a container (as "final input").
  Bytes face_extra;

  static void fields(auto& visit, auto& self) { visit(1, self.payload), visit(2, self.method), visit(3, self.face_extra); }
  friend bool operator==(const Arguments&, const Arguments&) = default;
};

enum class CallKind : std::uint8_t { kUnary = 1, kMap = 2 };
// Whether somebody waits for the result now (sync), or asks for it some day (async).
enum class Invocation : std::uint8_t { kSync = 0, kAsync = 1 };

enum class LogStream : std::uint8_t { kStdout = 1, kStderr = 2, kInfo = 3 };

}  // namespace proa::control
