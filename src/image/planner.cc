// SPDX-License-Identifier: Apache-2.0
#include "image/planner.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "image/shell_words.h"
#include "image/tree_files.h"

namespace proa::image {
namespace {

using Args = std::map<std::string, std::string>;

// What execve takes in all is 2 MiB by default; half of it leaves room for the rest.
constexpr std::size_t kEnvBytesMax = 1 << 20;

// These may be given as build args without an ARG line, and are seen by RUN.
constexpr std::array<std::string_view, 10> kProxyArgs{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy",
                                                      "FTP_PROXY",  "ftp_proxy",  "NO_PROXY",    "no_proxy",
                                                      "ALL_PROXY",  "all_proxy"};

Args platform_args() {
  return {{"TARGETPLATFORM", "linux/amd64"}, {"TARGETOS", "linux"}, {"TARGETARCH", "amd64"}, {"TARGETVARIANT", ""},
          {"BUILDPLATFORM", "linux/amd64"},  {"BUILDOS", "linux"},  {"BUILDARCH", "amd64"},  {"BUILDVARIANT", ""}};
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

Error at_line(int line, const Error& error) {
  if (error.message.starts_with("Dockerfile line")) return error;
  return {error.code, "Dockerfile line " + std::to_string(line) + ": " + error.message};
}

std::optional<std::string> look_up(const Args& args, std::string_view name) {
  const auto found = args.find(std::string(name));
  if (found == args.end()) return std::nullopt;
  return found->second;
}

// A comma-separated list of key=value, as --mount takes it. Values may be in double quotes.
std::vector<std::pair<std::string, std::string>> read_options(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> options;
  std::string field;
  bool quoted = false;
  const auto flush = [&] {
    const auto equals = field.find('=');
    options.emplace_back(lower(field.substr(0, equals)),
                         equals == std::string::npos ? std::string() : field.substr(equals + 1));
    field.clear();
  };
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      flush();
    } else {
      field += c;
    }
  }
  flush();
  return options;
}

bool is_on(std::string_view value) { return value.empty() || value == "true" || value == "1"; }

std::string absolute(std::string_view path, std::string_view workdir) {
  if (path.starts_with('/')) return "/" + clean_path(path);
  return "/" + clean_path(std::string(workdir.empty() ? "/" : workdir) + "/" + std::string(path));
}

Result<void> check_platform(const std::string& platform) {
  static constexpr std::array<std::string_view, 5> kOurs{"linux/amd64", "linux/x86_64", "linux", "amd64",
                                                         "linux/amd64/v1"};
  if (std::find(kOurs.begin(), kOurs.end(), platform) != kOurs.end()) return {};
  return unimplemented("--platform=" + platform + ": images are built for linux/amd64 only");
}

// A stage by its name or number, if it is one before `before`.
std::optional<int> find_stage(const BuildPlan& plan, std::string_view name, int before) {
  int index = -1;
  if (const auto named = plan.stage_names.find(lower(std::string(name))); named != plan.stage_names.end()) {
    index = named->second;
  } else {
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  }
  if (index < 0 || index >= before) return std::nullopt;
  return index;
}

Result<Origin> find_origin(const BuildPlan& plan, const std::string& from, int stage) {
  if (from.find('$') != std::string::npos) return invalid_argument("--from=" + from + ": variables cannot stand here");
  if (from.empty()) return Origin{};
  if (const auto index = find_stage(plan, from, stage)) return Origin{Origin::Kind::kStage, *index, {}};
  const bool is_number = from.find_first_not_of("0123456789") == std::string::npos;
  if (is_number) return invalid_argument("--from=" + from + ": there is no earlier stage of that number");
  return Origin{Origin::Kind::kImage, 0, from};
}

// The stages that an instruction takes files from.
Result<std::vector<int>> stages_used(const BuildPlan& plan, const Instruction& instruction, int stage) {
  std::vector<int> used;
  for (const Flag& flag : instruction.flags) {
    std::string from;
    if (flag.name == "from") from = flag.value;
    if (flag.name == "mount") {
      for (const auto& [key, value] : read_options(flag.value)) {
        if (key == "from") from = value;
      }
    }
    if (from.empty()) continue;
    auto origin = find_origin(plan, from, stage);
    if (!origin.ok()) return at_line(instruction.line, origin.error());
    if (origin->kind == Origin::Kind::kStage) used.push_back(origin->stage);
  }
  return used;
}

Result<void> add_global_args(BuildPlan& plan, const Instruction& instruction, const Args& build_args) {
  const auto variables = [&](std::string_view name) { return look_up(plan.global_args, name); };
  for (const Pair& pair : instruction.pairs) {
    PROA_TRY(const std::string name, expand_word(pair.name, plan.escape, variables));
    if (const auto given = look_up(build_args, name)) {
      plan.global_args[name] = *given;
    } else if (pair.value) {
      PROA_TRY(plan.global_args[name], expand_word(*pair.value, plan.escape, variables));
    }
  }
  return {};
}

Result<PlannedStage> begin_stage(const BuildPlan& plan, const Instruction& from, int index) {
  const auto variables = [&](std::string_view name) { return look_up(plan.global_args, name); };
  PlannedStage stage;
  stage.index = index;
  stage.line = from.line;
  stage.source = from.source;
  if (const std::string* platform = from.flag("platform")) {
    PROA_TRY(const std::string value, expand_word(*platform, plan.escape, variables));
    PROA_TRY_VOID(check_platform(value));
  }
  PROA_TRY(stage.base, expand_word(from.words[0], plan.escape, variables));
  if (stage.base.empty()) return invalid_argument("the base name (" + from.words[0] + ") should not be blank");
  if (const auto named = plan.stage_names.find(lower(stage.base)); named != plan.stage_names.end()) {
    stage.base_stage = named->second;
  }
  if (from.words.size() == 3) stage.name = lower(from.words[2]);
  return stage;
}

// Fills in one stage, instruction by instruction.
class StagePlanner {
 public:
  StagePlanner(const BuildPlan& plan, const PlannedStage& stage, StageState start, const Args& build_args)
      : plan_(plan), stage_(stage), state_(std::move(start)), build_args_(build_args) {
    if (find_env(state_.config.env, "PATH") == nullptr) set_env(state_.config.env, "PATH", kDefaultPath);
  }

  Result<StageSteps> plan() {
    // Triggers of the base run first, and are not handed on.
    const std::vector<std::string> triggers = std::move(state_.config.onbuild);
    state_.config.onbuild.clear();
    for (const std::string& trigger : triggers) {
      PROA_TRY(const Instruction instruction, parse_instruction(trigger, '\\'));
      PROA_TRY_VOID(add(instruction));
    }
    for (const Instruction& instruction : stage_.instructions) {
      PROA_TRY_VOID(add(instruction));
    }
    return StageSteps{std::move(steps_), std::move(state_)};
  }

 private:
  std::optional<std::string> variable(std::string_view name) const {
    if (const char* value = find_env(state_.config.env, name)) return std::string(value);
    return look_up(state_.args, name);
  }

  Result<std::string> expand(std::string_view word, Quotes quotes = Quotes::kRemove) const {
    return expand_word(word, plan_.escape, [this](std::string_view name) { return variable(name); }, quotes);
  }

  Result<void> add(const Instruction& instruction) {
    Step step;
    step.line = instruction.line;
    step.source = instruction.source;
    if (auto done = fill(step, instruction); !done.ok()) return at_line(instruction.line, done.error());
    steps_.push_back(std::move(step));
    return {};
  }

  Result<void> fill(Step& step, const Instruction& instruction) {
    ImageConfig& config = state_.config;
    switch (instruction.keyword) {
      case Keyword::kFrom: return invalid_argument("FROM cannot stand here");
      case Keyword::kRun: return run(step, instruction);
      case Keyword::kCopy:
      case Keyword::kAdd: return copy(step, instruction);
      case Keyword::kEnv: return env(instruction);
      case Keyword::kArg: return arg(instruction);
      case Keyword::kLabel: return label(instruction);
      case Keyword::kWorkdir: {
        PROA_TRY(const std::string path, expand(instruction.text));
        if (path.empty()) return invalid_argument("WORKDIR needs a path");
        config.workdir = absolute(path, config.workdir);
        step.what = DirectoryStep{config.workdir};
        return {};
      }
      case Keyword::kUser: {
        PROA_TRY(config.user, expand(instruction.text));
        state_.run_user = config.user;
        return {};
      }
      case Keyword::kStopSignal: {
        PROA_TRY(config.stop_signal, expand(instruction.text));
        return {};
      }
      case Keyword::kShell: config.shell = instruction.words; return {};
      case Keyword::kCmd:
        config.cmd = command_line(instruction);
        cmd_set_ = true;
        return {};
      case Keyword::kEntrypoint:
        config.entrypoint = command_line(instruction);
        // A base's CMD was made for the base's entry point.
        if (!cmd_set_) config.cmd.clear();
        return {};
      case Keyword::kExpose: return expose(instruction);
      case Keyword::kVolume: return volume(instruction);
      case Keyword::kHealthcheck:
        config.healthcheck = instruction.words;
        if (config.healthcheck.front() == "CMD" && !instruction.exec_form)
          config.healthcheck = {"CMD-SHELL", instruction.text};
        return {};
      case Keyword::kOnbuild: config.onbuild.push_back(instruction.text); return {};
      case Keyword::kMaintainer: {
        PROA_TRY(config.author, expand(instruction.text));
        return {};
      }
    }
    return internal_error("an instruction without a plan");
  }

  std::vector<std::string> command_line(const Instruction& instruction) const {
    if (instruction.exec_form) return instruction.words;
    return in_shell(instruction.text);
  }

  std::vector<std::string> in_shell(std::string text) const {
    std::vector<std::string> argv = state_.config.shell;
    if (argv.empty()) argv = {"/bin/sh", "-c"};
    argv.push_back(std::move(text));
    return argv;
  }

  Result<void> check_env() const {
    std::size_t size = 0;
    for (const std::string& entry : state_.config.env) size += entry.size() + 1;
    for (const auto& [name, value] : state_.args) size += name.size() + value.size() + 2;
    if (size > kEnvBytesMax) return invalid_argument("all variables together are larger than 1 MiB");
    return {};
  }

  Result<void> env(const Instruction& instruction) {
    std::vector<std::pair<std::string, std::string>> values;  // All see the variables as they were before.
    for (const Pair& pair : instruction.pairs) {
      PROA_TRY(std::string name, expand(pair.name));
      PROA_TRY(std::string value, expand(pair.value.value_or("")));
      if (name.empty()) return invalid_argument("ENV: a name is empty");
      values.emplace_back(std::move(name), std::move(value));
    }
    for (const auto& [name, value] : values) set_env(state_.config.env, name, value);
    return check_env();
  }

  Result<void> arg(const Instruction& instruction) {
    for (const Pair& pair : instruction.pairs) {
      PROA_TRY(const std::string name, expand(pair.name));
      if (const auto given = look_up(build_args_, name)) {
        state_.args[name] = *given;
      } else if (pair.value) {
        PROA_TRY(state_.args[name], expand(*pair.value));
      } else if (const auto global = look_up(plan_.global_args, name)) {
        state_.args[name] = *global;
      }
    }
    return check_env();
  }

  Result<void> label(const Instruction& instruction) {
    for (const Pair& pair : instruction.pairs) {
      PROA_TRY(const std::string name, expand(pair.name));
      PROA_TRY(state_.config.labels[name], expand(pair.value.value_or("")));
    }
    return {};
  }

  Result<void> expose(const Instruction& instruction) {
    for (const std::string& word : instruction.words) {
      PROA_TRY(std::string port, expand(word));
      if (port.find('/') == std::string::npos) port += "/tcp";
      add_sorted(state_.config.exposed_ports, std::move(port));
    }
    return {};
  }

  Result<void> volume(const Instruction& instruction) {
    for (const std::string& word : instruction.words) {
      PROA_TRY(std::string path, expand(word));
      if (path.empty()) return invalid_argument("VOLUME: a path is empty");
      add_sorted(state_.config.volumes, std::move(path));
    }
    return {};
  }

  static void add_sorted(std::vector<std::string>& list, std::string item) {
    const auto place = std::lower_bound(list.begin(), list.end(), item);
    if (place == list.end() || *place != item) list.insert(place, std::move(item));
  }

  std::vector<std::string> run_env() const {
    std::vector<std::string> env = state_.config.env;
    const auto add_missing = [&](const std::string& name, const std::string& value) {
      if (find_env(env, name) == nullptr) set_env(env, name, value);
    };
    for (const auto& [name, value] : state_.args) add_missing(name, value);
    for (const std::string_view name : kProxyArgs) {
      if (const auto given = look_up(build_args_, name)) add_missing(std::string(name), *given);
    }
    return env;
  }

  Result<void> run(Step& step, const Instruction& instruction) {
    RunStep what;
    what.env = run_env();
    what.workdir = state_.config.workdir.empty() ? "/" : state_.config.workdir;
    what.user = state_.run_user;
    if (instruction.exec_form) {
      what.argv = instruction.words;
    } else if (instruction.heredocs.size() == 1 && lone_heredoc(instruction.text)) {
      script(what, instruction.heredocs.front().content);
    } else {
      std::string text = instruction.text;
      for (const Heredoc& heredoc : instruction.heredocs) text += "\n" + heredoc.content + heredoc.name;
      what.argv = in_shell(std::move(text));
    }
    for (const Flag& flag : instruction.flags) {
      if (flag.name == "network") {
        if (flag.value != "none" && flag.value != "default") {
          return unimplemented("RUN --network=" + flag.value + ": only default and none are here");
        }
        what.network = flag.value != "none";
      } else if (flag.name == "security" && flag.value != "sandbox") {
        return unimplemented("RUN --security=" + flag.value + ": builds are never privileged");
      } else if (flag.name == "mount") {
        PROA_TRY_VOID(mount(what, flag.value));
      }
    }
    for (const Heredoc& heredoc : instruction.heredocs) step.source += "\n" + heredoc.content + heredoc.name;
    step.what = std::move(what);
    return {};
  }

  // A lone heredoc is a script: of the shell, or of what its first line names.
  void script(RunStep& what, const std::string& content) const {
    if (!content.starts_with("#!")) {
      what.argv = in_shell(content);
      return;
    }
    std::string_view first = std::string_view(content).substr(2, content.find('\n') - 2);
    const auto trim = [](std::string_view text) {
      while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
      while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r')) text.remove_suffix(1);
      return text;
    };
    first = trim(first);
    const auto blank = first.find_first_of(" \t");
    what.argv = {std::string(first.substr(0, blank))};
    if (blank != std::string_view::npos) what.argv.emplace_back(trim(first.substr(blank)));
    what.argv.emplace_back(kScriptArgument);
    what.script = content;
  }

  Result<void> mount(RunStep& what, const std::string& text) {
    RunMount mount;
    std::string type = "bind";
    std::string from;
    bool has_source = false;
    for (auto& [key, raw] : read_options(text)) {
      PROA_TRY(const std::string value, expand(raw));
      if (key == "type") type = lower(value);
      if (key == "target" || key == "dst" || key == "destination") mount.target = value;
      if (key == "source" || key == "src") mount.source = value, has_source = true;
      if (key == "from") from = raw;
      if (key == "id") mount.id = value;
      if (key == "env") mount.variable = value;
      if (key == "required") mount.required = is_on(value);
    }
    if (type == "ssh") return unimplemented("RUN --mount=type=ssh: there is no agent in a build; use a secret");
    if (type == "secret") {
      mount.kind = RunMount::Kind::kSecret;
      if (mount.id.empty()) mount.id = has_source ? mount.source : mount.target.substr(mount.target.rfind('/') + 1);
      if (mount.id.empty()) return invalid_argument("RUN --mount=type=secret needs an id");
      if (mount.target.empty() && mount.variable.empty()) mount.target = "/run/secrets/" + mount.id;
    } else if (type == "cache" || type == "tmpfs") {
      mount.kind = RunMount::Kind::kEmpty;
      if (mount.target.empty()) return invalid_argument("RUN --mount=type=" + type + " needs a target");
    } else if (type == "bind") {
      mount.kind = RunMount::Kind::kBind;
      if (mount.target.empty()) return invalid_argument("RUN --mount=type=bind needs a target");
      PROA_TRY(mount.origin, find_origin(plan_, from, stage_.index));
    } else {
      return invalid_argument("RUN --mount: unknown type '" + type + "'");
    }
    if (!mount.target.empty()) {
      mount.target = absolute(mount.target, state_.config.workdir);
      if (mount.target == "/") return invalid_argument("RUN --mount: the target cannot be /");
    }
    what.mounts.push_back(std::move(mount));
    return {};
  }

  Result<void> copy_flags(CopyStep& what, const Instruction& instruction) {
    for (const Flag& flag : instruction.flags) {
      if (flag.name == "from") {
        PROA_TRY(what.origin, find_origin(plan_, flag.value, stage_.index));
      } else if (flag.name == "chown") {
        PROA_TRY(what.chown, expand(flag.value));
      } else if (flag.name == "chmod") {
        PROA_TRY(const std::string mode, expand(flag.value));
        std::uint32_t value = 0;
        const auto [end, error] = std::from_chars(mode.data(), mode.data() + mode.size(), value, 8);
        if (error != std::errc() || end != mode.data() + mode.size() || value > 07777) {
          return unimplemented("--chmod=" + mode + ": only octal modes are understood, as --chmod=755");
        }
        what.chmod = value;
      } else if (flag.name == "checksum" || flag.name == "keep-git-dir") {
        return unimplemented("ADD --" + flag.name + ": ADD takes files of the build context only");
      } else if (flag.name == "exclude" || (flag.name == "parents" && is_on(flag.value)) || flag.name == "unpack") {
        return unimplemented("--" + flag.name + " is not understood yet");
      }
    }
    return {};
  }

  static Result<void> check_add_source(const std::string& source) {
    const std::string low = lower(source);
    for (const std::string_view scheme : {"http://", "https://", "git://", "git@", "ssh://"}) {
      if (low.starts_with(scheme)) {
        return unimplemented("ADD " + source + ": ADD takes files of the build context only; use RUN with curl or git");
      }
    }
    for (const std::string_view suffix : {".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"}) {
      if (low.ends_with(suffix)) {
        return unimplemented("ADD " + source + ": archives are not unpacked; use COPY and RUN tar -xf");
      }
    }
    return {};
  }

  Result<void> copy(Step& step, const Instruction& instruction) {
    CopyStep what;
    PROA_TRY_VOID(copy_flags(what, instruction));
    std::vector<std::string> words = instruction.words;
    const std::string raw_destination = std::move(words.back());
    words.pop_back();
    for (const std::string& word : words) {
      const auto name = instruction.exec_form ? std::nullopt : lone_heredoc(word);
      if (name) {
        const auto heredoc = std::find_if(instruction.heredocs.begin(), instruction.heredocs.end(),
                                          [&](const Heredoc& candidate) { return candidate.name == *name; });
        if (heredoc == instruction.heredocs.end()) return invalid_argument("the heredoc '" + *name + "' has no body");
        std::string content = heredoc->content;
        if (heredoc->expands) {
          PROA_TRY(content, expand(heredoc->content, Quotes::kLiteral));
        }
        what.inline_files.emplace_back(*name, std::move(content));
        continue;
      }
      PROA_TRY(std::string source, expand(word));
      if (instruction.keyword == Keyword::kAdd) {
        PROA_TRY_VOID(check_add_source(source));
      }
      what.sources.push_back(std::move(source));
    }
    PROA_TRY(const std::string destination, expand(raw_destination));
    if (destination.empty()) return invalid_argument("the destination is empty");
    what.into_directory = destination.ends_with('/') || destination == "." || destination == ".." ||
                          destination.ends_with("/.") || destination.ends_with("/..");
    what.destination = absolute(destination, state_.config.workdir);
    step.what = std::move(what);
    return {};
  }

  const BuildPlan& plan_;
  const PlannedStage& stage_;
  StageState state_;
  const Args& build_args_;
  bool cmd_set_ = false;
  std::vector<Step> steps_;
};

}  // namespace

Result<BuildPlan> plan_stages(const Dockerfile& file, const Args& build_args) {
  BuildPlan plan;
  plan.escape = file.escape;
  plan.global_args = platform_args();
  std::vector<PlannedStage> all;
  for (const Instruction& instruction : file.instructions) {
    if (instruction.keyword == Keyword::kFrom) {
      auto stage = begin_stage(plan, instruction, static_cast<int>(all.size()));
      if (!stage.ok()) return at_line(instruction.line, stage.error());
      if (!stage->name.empty()) plan.stage_names[stage->name] = stage->index;
      all.push_back(std::move(stage).value());
    } else if (!all.empty()) {
      all.back().instructions.push_back(instruction);
    } else if (instruction.keyword == Keyword::kArg) {
      if (auto added = add_global_args(plan, instruction, build_args); !added.ok())
        return at_line(instruction.line, added.error());
    } else {
      return at_line(instruction.line, invalid_argument("no build stage yet: the first instruction is FROM"));
    }
  }
  if (all.empty()) return invalid_argument("the Dockerfile has no FROM");
  plan.stages_in_file = static_cast<int>(all.size());

  std::set<int> needed;
  std::vector<int> to_visit{static_cast<int>(all.size()) - 1};
  while (!to_visit.empty()) {
    const int index = to_visit.back();
    to_visit.pop_back();
    if (!needed.insert(index).second) continue;
    const PlannedStage& stage = all[static_cast<std::size_t>(index)];
    if (stage.base_stage) to_visit.push_back(*stage.base_stage);
    for (const Instruction& instruction : stage.instructions) {
      PROA_TRY(const std::vector<int> used, stages_used(plan, instruction, index));
      to_visit.insert(to_visit.end(), used.begin(), used.end());
    }
  }
  for (const int index : needed) plan.stages.push_back(std::move(all[static_cast<std::size_t>(index)]));
  return plan;
}

Result<StageSteps> plan_steps(const BuildPlan& plan, const PlannedStage& stage, StageState start,
                              const Args& build_args) {
  return StagePlanner(plan, stage, std::move(start), build_args).plan();
}

}  // namespace proa::image
