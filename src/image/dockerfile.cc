// SPDX-License-Identifier: Apache-2.0
#include "image/dockerfile.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <span>

#include "image/shell_words.h"

namespace proa::image {
namespace {

constexpr std::size_t kHeredocsMax = 64;

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::string_view trim_left(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  return text;
}
std::string_view trim(std::string_view text) {
  text = trim_left(text);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool is_comment(std::string_view line) { return trim_left(line).starts_with('#'); }

struct KeywordRow {
  std::string_view name;
  Keyword keyword;
};
constexpr std::array<KeywordRow, 18> kKeywords{{
    {"FROM", Keyword::kFrom},
    {"RUN", Keyword::kRun},
    {"COPY", Keyword::kCopy},
    {"ADD", Keyword::kAdd},
    {"ENV", Keyword::kEnv},
    {"ARG", Keyword::kArg},
    {"WORKDIR", Keyword::kWorkdir},
    {"USER", Keyword::kUser},
    {"SHELL", Keyword::kShell},
    {"CMD", Keyword::kCmd},
    {"ENTRYPOINT", Keyword::kEntrypoint},
    {"EXPOSE", Keyword::kExpose},
    {"LABEL", Keyword::kLabel},
    {"VOLUME", Keyword::kVolume},
    {"STOPSIGNAL", Keyword::kStopSignal},
    {"HEALTHCHECK", Keyword::kHealthcheck},
    {"ONBUILD", Keyword::kOnbuild},
    {"MAINTAINER", Keyword::kMaintainer},
}};

// The flags that each instruction takes; everything else with two dashes in front is a mistake.
std::span<const std::string_view> flags_of(Keyword keyword) {
  static constexpr std::array<std::string_view, 1> kFromFlags{"platform"};
  static constexpr std::array<std::string_view, 3> kRunFlags{"mount", "network", "security"};
  static constexpr std::array<std::string_view, 6> kCopyFlags{"from", "chown", "chmod", "link", "parents", "exclude"};
  static constexpr std::array<std::string_view, 7> kAddFlags{"chown",   "chmod",        "link",  "checksum",
                                                             "exclude", "keep-git-dir", "unpack"};
  static constexpr std::array<std::string_view, 5> kHealthFlags{"interval", "timeout", "start-period", "start-interval",
                                                                "retries"};
  switch (keyword) {
    case Keyword::kFrom: return kFromFlags;
    case Keyword::kRun: return kRunFlags;
    case Keyword::kCopy: return kCopyFlags;
    case Keyword::kAdd: return kAddFlags;
    case Keyword::kHealthcheck: return kHealthFlags;
    default: return {};
  }
}

// The --name=value words in front of an instruction's arguments; `rest` becomes what follows them.
Result<std::vector<Flag>> take_flags(std::string_view& rest, Keyword keyword, char escape) {
  std::vector<Flag> flags;
  while (true) {
    rest = trim_left(rest);
    if (!rest.starts_with("--")) return flags;
    std::string word;
    char quote = '\0';
    std::size_t i = 0;
    for (; i < rest.size() && (quote != '\0' || !is_blank(rest[i])); ++i) {
      const char c = rest[i];
      if (c == escape && quote != '\'' && i + 1 < rest.size()) {
        word += rest[++i];
      } else if (quote != '\0' && c == quote) {
        quote = '\0';
      } else if (quote == '\0' && (c == '\'' || c == '"')) {
        quote = c;
      } else {
        word += c;
      }
    }
    rest = rest.substr(i);
    if (word == "--") return flags;
    const auto equals = word.find('=');
    Flag flag{word.substr(2, equals == std::string::npos ? equals : equals - 2),
              equals == std::string::npos ? std::string() : word.substr(equals + 1)};
    const auto known = flags_of(keyword);
    if (std::find(known.begin(), known.end(), flag.name) == known.end()) {
      return invalid_argument("unknown flag --" + flag.name + " for " + std::string(keyword_name(keyword)));
    }
    // A switch without a value is on.
    const bool is_switch =
        flag.name == "link" || flag.name == "parents" || flag.name == "keep-git-dir" || flag.name == "unpack";
    if (equals == std::string::npos) {
      if (!is_switch) return invalid_argument("the flag --" + flag.name + " needs a value, as --" + flag.name + "=…");
      flag.value = "true";
    }
    flags.push_back(std::move(flag));
  }
}

// A JSON list of strings. Nothing if the text is no JSON list at all, so that it is a shell command; an error
// if it is one, of other things.
Result<std::optional<std::vector<std::string>>> read_json_list(std::string_view text) {
  std::optional<std::vector<std::string>> none;
  text = trim(text);
  if (!text.starts_with('[')) return none;
  const auto json = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_array()) return none;
  std::vector<std::string> items;
  for (const auto& item : json) {
    if (!item.is_string()) return invalid_argument("only strings may stand in the JSON list");
    items.push_back(item.get<std::string>());
  }
  return std::optional(std::move(items));
}

std::vector<std::string> split_blanks(std::string_view text) {
  std::vector<std::string> words;
  while (!(text = trim_left(text)).empty()) {
    const auto end = std::find_if(text.begin(), text.end(), is_blank);
    words.emplace_back(text.begin(), end);
    text.remove_prefix(static_cast<std::size_t>(end - text.begin()));
  }
  return words;
}

// ENV and LABEL: "a=b c=d", or the old "a b c".
Result<std::vector<Pair>> read_pairs(std::string_view text, std::string_view keyword, char escape) {
  const std::vector<std::string> words = split_words(text, escape);
  if (words.empty()) return invalid_argument(std::string(keyword) + " needs at least one name=value");
  std::vector<Pair> pairs;
  if (words.front().find('=') == std::string::npos) {
    text = trim(text);
    const auto end = std::find_if(text.begin(), text.end(), is_blank);
    const auto value = trim_left(text.substr(static_cast<std::size_t>(end - text.begin())));
    if (value.empty()) return invalid_argument(std::string(keyword) + " must have two arguments, or name=value");
    pairs.push_back({std::string(text.begin(), end), std::string(value)});
    return pairs;
  }
  for (const std::string& word : words) {
    const auto equals = word.find('=');
    if (equals == std::string::npos) {
      return invalid_argument("can't find = in '" + word + "': it must be of the form name=value");
    }
    if (equals == 0) return invalid_argument(std::string(keyword) + ": a name is empty in '" + word + "'");
    pairs.push_back({word.substr(0, equals), word.substr(equals + 1)});
  }
  return pairs;
}

Result<std::vector<Pair>> read_args(std::string_view text, char escape) {
  std::vector<Pair> pairs;
  for (const std::string& word : split_words(text, escape)) {
    const auto equals = word.find('=');
    if (equals == 0) return invalid_argument("ARG: a name is empty in '" + word + "'");
    if (equals == std::string::npos) {
      pairs.push_back({word, std::nullopt});
    } else {
      pairs.push_back({word.substr(0, equals), word.substr(equals + 1)});
    }
  }
  if (pairs.empty()) return invalid_argument("ARG needs a name");
  return pairs;
}

// "<<EOF", "3<<-'EOF'": a heredoc without its body.
std::optional<Heredoc> read_heredoc_word(std::string_view word) {
  while (!word.empty() && word.front() >= '0' && word.front() <= '9') word.remove_prefix(1);
  if (!word.starts_with("<<")) return std::nullopt;
  word.remove_prefix(2);
  Heredoc heredoc;
  if (word.starts_with('-')) {
    heredoc.strips_tabs = true;
    word.remove_prefix(1);
  }
  if (word.empty() || word.find('<') != std::string_view::npos) return std::nullopt;
  const auto name = expand_word(word, '\\', [](std::string_view) { return std::optional<std::string>(); });
  if (!name.ok() || name.value().empty() || name.value().find('\n') != std::string::npos) return std::nullopt;
  heredoc.name = name.value();
  heredoc.expands = heredoc.name == word;
  return heredoc;
}

std::string strip_tabs(std::string_view content) {
  std::string out;
  bool at_start = true;
  for (const char c : content) {
    if (at_start && c == '\t') continue;
    out += c;
    at_start = c == '\n';
  }
  return out;
}

Result<void> read_command(Instruction& instruction, std::string_view rest) {
  PROA_TRY(auto items, read_json_list(rest));
  instruction.exec_form = items.has_value();
  if (items) {
    instruction.words = std::move(*items);
  } else {
    instruction.text = trim(rest);
  }
  return {};
}

Result<void> read_from(Instruction& instruction, std::string_view rest) {
  instruction.words = split_blanks(rest);
  const auto& words = instruction.words;
  const bool named = words.size() == 3 && lower(words[1]) == "as";
  if (words.size() != 1 && !named) {
    return invalid_argument("FROM requires an image, or 'image AS name'");
  }
  if (named) {
    const std::string& name = words[2];
    const bool good = (name[0] >= 'a' && name[0] <= 'z') || (name[0] >= 'A' && name[0] <= 'Z');
    const bool clean = std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
             c == '.';
    });
    if (!good || !clean) {
      return invalid_argument("'" + name +
                              "' is no name for a build stage: it begins with a letter and has letters, digits, - _ .");
    }
  }
  return {};
}

Result<void> read_copy(Instruction& instruction, std::string_view rest) {
  PROA_TRY(auto items, read_json_list(rest));
  instruction.exec_form = items.has_value();
  instruction.words = items ? std::move(*items) : split_blanks(rest);
  if (instruction.words.size() < 2) {
    return invalid_argument(std::string(keyword_name(instruction.keyword)) +
                            " needs at least one source and a destination");
  }
  return {};
}

Result<void> read_healthcheck(Instruction& instruction, std::string_view rest) {
  const auto end = std::find_if(rest.begin(), rest.end(), is_blank);
  const std::string kind = lower(std::string(rest.begin(), end));
  const auto after = trim(rest.substr(static_cast<std::size_t>(end - rest.begin())));
  if (kind == "none") {
    if (!after.empty()) return invalid_argument("HEALTHCHECK NONE takes no arguments");
    instruction.words = {"NONE"};
    return {};
  }
  if (kind != "cmd" || after.empty())
    return invalid_argument("HEALTHCHECK must be followed by CMD and a command, or NONE");
  PROA_TRY_VOID(read_command(instruction, after));
  instruction.words.insert(instruction.words.begin(), "CMD");
  return {};
}

Result<void> read_onbuild(Instruction& instruction, std::string_view rest, char escape) {
  instruction.text = trim(rest);
  PROA_TRY(const Instruction inner, parse_instruction(instruction.text, escape));
  if (inner.keyword == Keyword::kOnbuild || inner.keyword == Keyword::kFrom || inner.keyword == Keyword::kMaintainer) {
    return invalid_argument(std::string(keyword_name(inner.keyword)) + " isn't allowed as an ONBUILD trigger");
  }
  return {};
}

// Everything after the flags.
Result<void> read_arguments(Instruction& instruction, std::string_view rest, char escape) {
  switch (instruction.keyword) {
    case Keyword::kFrom: return read_from(instruction, rest);
    case Keyword::kRun: {
      PROA_TRY_VOID(read_command(instruction, rest));
      if (instruction.exec_form && instruction.words.empty()) return invalid_argument("RUN needs a command");
      return {};
    }
    case Keyword::kCmd:
    case Keyword::kEntrypoint: return read_command(instruction, rest);
    case Keyword::kShell: {
      PROA_TRY_VOID(read_command(instruction, rest));
      if (!instruction.exec_form || instruction.words.empty()) {
        return invalid_argument("SHELL requires a JSON list, as SHELL [\"/bin/bash\", \"-c\"]");
      }
      return {};
    }
    case Keyword::kCopy:
    case Keyword::kAdd: return read_copy(instruction, rest);
    case Keyword::kEnv:
    case Keyword::kLabel: {
      PROA_TRY(instruction.pairs, read_pairs(rest, keyword_name(instruction.keyword), escape));
      return {};
    }
    case Keyword::kArg: {
      PROA_TRY(instruction.pairs, read_args(rest, escape));
      return {};
    }
    case Keyword::kExpose: instruction.words = split_blanks(rest); return {};
    case Keyword::kVolume: {
      PROA_TRY(auto items, read_json_list(rest));
      instruction.exec_form = items.has_value();
      instruction.words = items ? std::move(*items) : split_blanks(rest);
      return {};
    }
    case Keyword::kWorkdir:
    case Keyword::kUser:
    case Keyword::kStopSignal:
    case Keyword::kMaintainer: instruction.text = trim(rest); return {};
    case Keyword::kHealthcheck: return read_healthcheck(instruction, rest);
    case Keyword::kOnbuild: return read_onbuild(instruction, rest, escape);
  }
  return internal_error("an instruction without a reader");
}

// All of an instruction but the bodies of its heredocs.
Result<Instruction> read_instruction(std::string_view line, char escape) {
  line = trim(line);
  const auto word_end = std::find_if(line.begin(), line.end(), is_blank);
  const std::string_view word(line.begin(), word_end);
  Instruction instruction;
  const std::string wanted = lower(word);
  const auto row = std::find_if(kKeywords.begin(), kKeywords.end(),
                                [&](const KeywordRow& candidate) { return lower(candidate.name) == wanted; });
  if (row == kKeywords.end()) return invalid_argument("unknown instruction '" + std::string(word.substr(0, 64)) + "'");
  instruction.keyword = row->keyword;
  instruction.source = line;
  std::string_view rest = trim(line.substr(word.size()));
  PROA_TRY(instruction.flags, take_flags(rest, instruction.keyword, escape));
  if (trim(rest).empty()) return invalid_argument(std::string(row->name) + " requires at least one argument");
  PROA_TRY_VOID(read_arguments(instruction, rest, escape));
  const bool may_have_heredocs = instruction.keyword == Keyword::kRun || instruction.keyword == Keyword::kCopy ||
                                 instruction.keyword == Keyword::kAdd;
  if (may_have_heredocs && !instruction.exec_form && line.find("<<") != std::string_view::npos) {
    for (const std::string& candidate : split_words(rest, escape)) {
      auto heredoc = read_heredoc_word(candidate);
      if (!heredoc) continue;
      if (instruction.heredocs.size() == kHeredocsMax)
        return invalid_argument("more than 64 heredocs in one instruction");
      instruction.heredocs.push_back(std::move(*heredoc));
    }
  }
  return instruction;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
  }

  Result<Dockerfile> parse() {
    PROA_TRY_VOID(read_directives());
    while (auto line = next_line()) {
      if (is_comment(*line) || trim(*line).empty()) continue;
      const int start = line_;
      const std::string joined = join(trim_left(*line));
      if (trim(joined).empty()) continue;
      auto instruction = read_instruction(joined, file_.escape);
      if (!instruction.ok()) return at_line(start, instruction.error());
      instruction->line = start;
      if (auto bodies = read_heredocs(*instruction); !bodies.ok()) return at_line(start, bodies.error());
      if (file_.instructions.size() == kInstructionsMax)
        return at_line(start, invalid_argument("more than 10,000 instructions"));
      file_.instructions.push_back(std::move(instruction).value());
    }
    return std::move(file_);
  }

 private:
  static Error at_line(int line, const Error& error) {
    return {error.code, "Dockerfile line " + std::to_string(line) + ": " + error.message};
  }

  // The next line without its newline (or carriage return and newline).
  std::optional<std::string_view> next_line() {
    if (rest_.empty()) return std::nullopt;
    const auto end = rest_.find('\n');
    std::string_view line = rest_.substr(0, end);
    rest_ = end == std::string_view::npos ? std::string_view() : rest_.substr(end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++line_;
    return line;
  }

  // "# escape=`" and the like count only before everything else, even before other comments.
  Result<void> read_directives() {
    std::vector<std::string> seen;
    while (true) {
      const std::string_view kept_rest = rest_;
      const int kept_line = line_;
      const auto line = next_line();
      if (!line || !read_directive(*line, seen)) {
        rest_ = kept_rest;
        line_ = kept_line;
        break;
      }
      if (std::count(seen.begin(), seen.end(), seen.back()) > 1) {
        return at_line(line_, invalid_argument("the parser directive '" + seen.back() + "' is there twice"));
      }
      if (bad_escape_) return at_line(line_, invalid_argument("the escape character is either \\ or `"));
    }
    return {};
  }

  bool read_directive(std::string_view line, std::vector<std::string>& seen) {
    line = trim(line);
    if (!line.starts_with('#')) return false;
    line = trim(line.substr(1));
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string name = lower(trim(line.substr(0, equals)));
    const std::string_view value = trim(line.substr(equals + 1));
    if (value.empty()) return false;
    if (name == "escape") {
      bad_escape_ = value != "\\" && value != "`";
      file_.escape = value.front();
    } else if (name != "syntax" && name != "check") {
      return false;
    }
    seen.push_back(name);
    return true;
  }

  // Removes an escape at the end of the line, blanks after it allowed. Two of them are none.
  bool continues(std::string_view& line) const {
    std::string_view end = line;
    while (!end.empty() && (end.back() == ' ' || end.back() == '\t')) end.remove_suffix(1);
    if (end.empty() || end.back() != file_.escape) return false;
    end.remove_suffix(1);
    if (!end.empty() && end.back() == file_.escape) return false;
    line = end;
    return true;
  }

  std::string join(std::string_view line) {
    bool more = continues(line);
    std::string joined(line);
    while (more) {
      const auto next = next_line();
      if (!next) break;
      // Comments and empty lines inside an instruction are passed over.
      if (is_comment(*next) || trim(*next).empty()) continue;
      std::string_view part = *next;
      more = continues(part);
      joined += part;
    }
    return joined;
  }

  Result<void> read_heredocs(Instruction& instruction) {
    for (Heredoc& heredoc : instruction.heredocs) {
      while (true) {
        const auto line = next_line();
        if (!line) return invalid_argument("the heredoc '" + heredoc.name + "' is not ended by a line of that name");
        std::string_view end = *line;
        while (heredoc.strips_tabs && end.starts_with('\t')) end.remove_prefix(1);
        if (end == heredoc.name) break;
        heredoc.content += *line;
        heredoc.content += '\n';
      }
      if (heredoc.strips_tabs) heredoc.content = strip_tabs(heredoc.content);
    }
    return {};
  }

  std::string_view rest_;
  int line_ = 0;
  bool bad_escape_ = false;
  Dockerfile file_;
};

}  // namespace

std::string_view keyword_name(Keyword keyword) {
  for (const KeywordRow& row : kKeywords) {
    if (row.keyword == keyword) return row.name;
  }
  return "?";
}

const std::string* Instruction::flag(std::string_view name) const {
  const std::string* found = nullptr;
  for (const Flag& candidate : flags) {
    if (candidate.name == name) found = &candidate.value;
  }
  return found;
}

Result<Dockerfile> parse_dockerfile(std::string_view text) {
  if (text.size() > kDockerfileBytesMax) return invalid_argument("the Dockerfile is larger than 4 MiB");
  if (text.find('\0') != std::string_view::npos) return invalid_argument("the Dockerfile has a NUL byte in it");
  return Parser(text).parse();
}

Result<Instruction> parse_instruction(std::string_view text, char escape) {
  PROA_TRY(Instruction instruction, read_instruction(text, escape));
  if (!instruction.heredocs.empty()) return invalid_argument("a heredoc cannot stand here");
  return instruction;
}

std::optional<std::string> lone_heredoc(std::string_view text) {
  const auto words = split_words(text, '\\');
  if (words.size() != 1) return std::nullopt;
  const auto heredoc = read_heredoc_word(words.front());
  if (!heredoc) return std::nullopt;
  return heredoc->name;
}

}  // namespace proa::image
