// SPDX-License-Identifier: Apache-2.0
//
// Planner: from the instructions of a Dockerfile to what must be done, stage by stage.
//
// In two steps, because variables depend on the base image's environment: plan_stages() finds which stages
// there are, which are needed and what each starts from; plan_steps() fills in one stage once its start is
// known. Pure: touches no file and runs nothing (image/builder.h does). Errors are kInvalidArgument or, for
// what Docker can and we cannot, kUnimplemented; both name the line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "image/config.h"
#include "image/dockerfile.h"

namespace proa::image {

constexpr std::string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct PlannedStage {
  int index = 0;     // Its place in the file.
  std::string name;  // Lower case; empty without AS.
  int line = 0;
  std::string source;             // The FROM line.
  std::optional<int> base_stage;  // FROM an earlier stage…
  std::string base;               // …or this: "scratch", a parent's name or a reference.
  std::vector<Instruction> instructions;
};

struct BuildPlan {
  char escape = '\\';
  std::map<std::string, std::string> global_args;  // ARGs before the first FROM, and the platform's.
  std::vector<PlannedStage> stages;                // Those that the last one needs, in the file's order.
  std::map<std::string, int> stage_names;          // All of the file's.
  int stages_in_file = 0;
};

Result<BuildPlan> plan_stages(const Dockerfile& file, const std::map<std::string, std::string>& build_args);

// Where files come from.
struct Origin {
  enum class Kind { kContext, kStage, kImage };
  Kind kind = Kind::kContext;
  int stage = 0;      // kStage.
  std::string image;  // kImage: a parent's name or a reference.
  friend bool operator==(const Origin&, const Origin&) = default;
};

// RUN --mount.
struct RunMount {
  enum class Kind {
    kEmpty,   // cache, tmpfs: an empty directory.
    kBind,    // Files of `origin`.
    kSecret,  // The secret `id` as a file.
  };
  Kind kind = Kind::kEmpty;
  std::string target;  // Absolute; empty for a secret that is only a variable.
  Origin origin;
  std::string source;    // kBind: path in the origin.
  std::string id;        // kSecret: its key.
  std::string variable;  // kSecret: also this environment variable.
  bool required = false;
};

struct RunStep {
  std::vector<std::string> argv;
  std::optional<std::string> script;  // A file that argv runs; kScriptArgument stands for its path.
  std::vector<std::string> env;       // The image's and the ARGs; "NAME=value".
  std::string workdir;                // Absolute.
  std::string user;
  std::vector<RunMount> mounts;
  bool network = true;
};
constexpr std::string_view kScriptArgument = "{script}";

struct CopyStep {
  Origin origin;
  std::vector<std::string> sources;
  std::vector<std::pair<std::string, std::string>> inline_files;  // Heredocs: name → content.
  std::string destination;                                        // Absolute.
  bool into_directory = false;
  std::string chown;  // Empty: as it is.
  std::optional<std::uint32_t> chmod;
};

struct DirectoryStep {
  std::string path;  // Absolute. Made if it is missing (WORKDIR).
};

struct ConfigStep {};  // Changes only how the image is run.

struct Step {
  int line = 0;
  std::string source;  // The instruction as written, for the log.
  std::variant<ConfigStep, DirectoryStep, RunStep, CopyStep> what;
};

// What goes from one stage to another that starts from it.
struct StageState {
  ImageConfig config;
  std::map<std::string, std::string> args;  // ARGs in scope.
  // As whom RUN runs: the USER of this Dockerfile. That of an image it begins with is kept in `config` and not
  // followed, as clients expect, who install packages on top of any image.
  std::string run_user;
};

struct StageSteps {
  std::vector<Step> steps;
  StageState end;
};

Result<StageSteps> plan_steps(const BuildPlan& plan, const PlannedStage& stage, StageState start,
                              const std::map<std::string, std::string>& build_args);

}  // namespace proa::image
