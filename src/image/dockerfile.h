// SPDX-License-Identifier: Apache-2.0
//
// The text of a Dockerfile as a list of instructions, exactly as Docker's own front end would cut it.
//
// Only syntax: nothing is expanded, no stage is resolved, no file is looked at (image/planner.h does). Pure,
// any thread, safe on hostile text: time and memory are linear in its size.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace proa::image {

enum class Keyword {
  kFrom,
  kRun,
  kCopy,
  kAdd,
  kEnv,
  kArg,
  kWorkdir,
  kUser,
  kShell,
  kCmd,
  kEntrypoint,
  kExpose,
  kLabel,
  kVolume,
  kStopSignal,
  kHealthcheck,
  kOnbuild,
  kMaintainer,
};

std::string_view keyword_name(Keyword keyword);  // As it is written: "RUN".

struct Flag {
  std::string name;  // Without the dashes.
  std::string value;
  friend bool operator==(const Flag&, const Flag&) = default;
};

// name=value of ENV, LABEL and ARG; as written, quotes and variables in it.
struct Pair {
  std::string name;
  std::optional<std::string> value;  // Missing only for an ARG without default.
  friend bool operator==(const Pair&, const Pair&) = default;
};

struct Heredoc {
  std::string name;
  std::string content;  // With its newlines; leading tabs are gone if it began with <<-.
  bool expands = true;  // False if the name was quoted.
  bool strips_tabs = false;
  friend bool operator==(const Heredoc&, const Heredoc&) = default;
};

struct Instruction {
  Keyword keyword = Keyword::kRun;
  int line = 0;        // Where it begins, from 1.
  std::string source;  // The whole of it on one line, without heredoc bodies: for logs and errors.
  std::vector<Flag> flags;
  bool exec_form = false;  // RUN, CMD, ENTRYPOINT, SHELL, HEALTHCHECK: a JSON list.
  // exec form: its items. FROM, COPY, ADD, EXPOSE, VOLUME: the words. HEALTHCHECK: NONE or CMD and, in exec
  // form, the items.
  std::vector<std::string> words;
  // Shell form of the above; USER, WORKDIR, STOPSIGNAL, MAINTAINER: the whole argument. ONBUILD: the inner
  // instruction.
  std::string text;
  std::vector<Pair> pairs;
  std::vector<Heredoc> heredocs;

  // The last value of the flag, or null.
  const std::string* flag(std::string_view name) const;
};

struct Dockerfile {
  char escape = '\\';
  std::vector<Instruction> instructions;
};

constexpr std::size_t kDockerfileBytesMax = 4 << 20;
constexpr std::size_t kInstructionsMax = 10'000;

// kInvalidArgument with the line's number and what is wrong with it.
Result<Dockerfile> parse_dockerfile(std::string_view text);

// One instruction that stands alone, as an ONBUILD trigger does.
Result<Instruction> parse_instruction(std::string_view text, char escape);

// If the whole of `text` is the start of a heredoc ("<<EOF"), its name without quotes.
std::optional<std::string> lone_heredoc(std::string_view text);

}  // namespace proa::image
