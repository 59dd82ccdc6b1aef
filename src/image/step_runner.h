// SPDX-License-Identifier: Apache-2.0
//
// StepRunner: runs one command of a build in a container, and gives back what it wrote. The seam between what
// a build means (builder.h) and how and where containers run.
//
// BuildLog: where a build's output goes, as it comes.
//
// On the loop. An abandoned run (its Async destroyed) ends its container.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/result.h"
#include "cas/tree.h"
#include "rt/async.h"

namespace proa::image {

enum class LogStream : std::uint8_t { kStdout = 1, kStderr = 2 };  // As file descriptors.

class BuildLog {
 public:
  virtual ~BuildLog() = default;
  // Any part of the output, not only whole lines. Bytes of containers are not always UTF-8.
  virtual void write(LogStream stream, std::string_view text) = 0;
};

// A file that is there during a run only, read-only, at kPrivatePath/name.
struct StepFile {
  std::string name;
  std::string content;
  friend bool operator==(const StepFile&, const StepFile&) = default;
};
constexpr std::string_view kPrivatePath = "/__proa";

struct StepSpec {
  Digest tree;  // Flattened; in the object store.
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string workdir = "/";
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<StepFile> files;
  bool network = true;
  Duration timeout{};
  bool keeps_files = true;  // False: what it writes is thrown away.
};

struct StepOutcome {
  int code = 0;            // As a shell gives it.
  bool oom = false;        // The kernel killed something of it for memory.
  bool timed_out = false;  // `timeout` passed and it was stopped.
  cas::Tree upper;         // What it wrote, with whiteouts; its contents are in the store. Only if code is 0.
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;
  // `log` must outlive the run.
  //   kInvalidArgument    the program is not in the image or cannot be run.
  //   kResourceExhausted  no room for a container, or none on the disk for what it wrote.
  virtual Async<Result<StepOutcome>> run(StepSpec spec, BuildLog& log) = 0;
};

}  // namespace proa::image
