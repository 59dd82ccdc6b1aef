// SPDX-License-Identifier: Apache-2.0
#include "image/shell_words.h"

#include <cctype>
#include <cstddef>

namespace proa::image {
namespace {

// Nested ${X:-${Y:-…}} recurse; nobody writes more than a few.
constexpr int kDepthMax = 32;
// `${X//a/bbbb…}` and friends multiply; an environment variable cannot be longer in any case (MAX_ARG_STRLEN).
constexpr std::size_t kValueBytesMax = 128 * 1024;
constexpr std::size_t kTextBytesMax = 16 << 20;  // With literal quotes: a file's content.
// Cutting by patterns tries each length, so long values are refused rather than waited for.
constexpr std::size_t kTrimBytesMax = 2048;
constexpr std::size_t kReplaceBytesMax = 256;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || static_cast<unsigned char>(c) >= 128;
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Shell patterns of ${X#p}: * ? and \c. Greedy backtracking on the last star only, so linear in practice.
bool matches_pattern(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::size_t star = std::string_view::npos;
  std::size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
      continue;
    }
    const bool escaped = p + 1 < pattern.size() && pattern[p] == '\\';
    if (p < pattern.size() && ((pattern[p] == '?' && !escaped) || pattern[p + (escaped ? 1 : 0)] == text[t])) {
      p += escaped ? 2 : 1;
      ++t;
      continue;
    }
    if (star == std::string_view::npos) return false;
    p = star + 1;
    t = ++star_text;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::string trim_prefix(std::string value, std::string_view pattern, bool longest) {
  for (std::size_t i = 0; i <= value.size(); ++i) {
    const std::size_t size = longest ? value.size() - i : i;
    if (matches_pattern(pattern, std::string_view(value).substr(0, size))) return value.substr(size);
  }
  return value;
}

std::string trim_suffix(std::string value, std::string_view pattern, bool longest) {
  for (std::size_t i = 0; i <= value.size(); ++i) {
    const std::size_t start = longest ? i : value.size() - i;
    if (matches_pattern(pattern, std::string_view(value).substr(start))) return value.substr(0, start);
  }
  return value;
}

std::string replace(std::string_view value, std::string_view pattern, std::string_view with, bool all) {
  std::string out;
  std::size_t at = 0;
  bool done = pattern.empty();
  while (at < value.size() && !done) {
    std::size_t size = value.size() - at;
    while (size > 0 && !matches_pattern(pattern, value.substr(at, size))) --size;
    if (size == 0) {
      out += value[at++];
      continue;
    }
    out += with;
    at += size;
    done = !all;
  }
  out += value.substr(at);
  return out;
}

class Expander {
 public:
  Expander(std::string_view text, char escape, const Variables& variables, Quotes quotes)
      : text_(text), escape_(escape), variables_(variables), quotes_(quotes) {}

  Result<std::string> all() { return until('\0', false); }

 private:
  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return text_[at_]; }

  // Up to `stop` ('\0': to the end), which is consumed. `raw` keeps escapes, for patterns.
  Result<std::string> until(char stop, bool raw) {
    if (++depth_ > kDepthMax) return invalid_argument("variables are nested more than 32 deep");
    std::string out;
    while (!at_end()) {
      const char c = peek();
      if (stop != '\0' && c == stop) {
        ++at_;
        --depth_;
        return out;
      }
      if (c == '$') {
        PROA_TRY(const std::string value, dollar());
        out += value;
      } else if (c == '\'' && quotes_ == Quotes::kRemove) {
        PROA_TRY_VOID(single_quoted(out));
      } else if (c == '"' && quotes_ == Quotes::kRemove) {
        PROA_TRY_VOID(double_quoted(out));
      } else if (c == escape_) {
        if (raw) out += c;
        if (++at_ < text_.size()) out += text_[at_++];
      } else {
        out += c;
        ++at_;
      }
      if (out.size() > (quotes_ == Quotes::kRemove ? kValueBytesMax : kTextBytesMax)) {
        return invalid_argument("a value with its variables filled in is too long");
      }
    }
    if (stop == '}') return invalid_argument("syntax error: missing '}'");
    if (stop != '\0') return invalid_argument(std::string("syntax error: missing '") + stop + "'");
    --depth_;
    return out;
  }

  Result<void> single_quoted(std::string& out) {
    const std::size_t end = text_.find('\'', at_ + 1);
    if (end == std::string_view::npos) {
      return invalid_argument("unexpected end of statement while looking for matching single-quote");
    }
    out += text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return {};
  }

  Result<void> double_quoted(std::string& out) {
    ++at_;
    while (!at_end()) {
      const char c = peek();
      if (c == '"') {
        ++at_;
        return {};
      }
      if (c == '$') {
        PROA_TRY(const std::string value, dollar());
        out += value;
        continue;
      }
      ++at_;
      if (c == escape_) {
        if (at_end()) continue;
        const char next = peek();
        if (next == '"' || next == '$' || next == escape_) {
          out += next;
          ++at_;
          continue;
        }
      }
      out += c;
    }
    return invalid_argument("unexpected end of statement while looking for matching double-quote");
  }

  std::string name() {
    const std::size_t start = at_;
    if (at_end()) return {};
    if (is_digit(peek())) {
      while (!at_end() && is_digit(peek())) ++at_;
    } else if (std::string_view("@*#?-$!").find(peek()) != std::string_view::npos) {
      ++at_;
    } else {
      while (!at_end() && (is_letter(peek()) || is_digit(peek()) || peek() == '_')) ++at_;
    }
    return std::string(text_.substr(start, at_ - start));
  }

  Result<std::string> dollar() {
    ++at_;
    if (at_end() || peek() != '{') {
      const std::string variable = name();
      if (variable.empty()) return std::string("$");
      return variables_(variable).value_or("");
    }
    ++at_;
    if (at_end()) return invalid_argument("syntax error: missing '}'");
    if (peek() == '{' || peek() == '}' || peek() == ':') return invalid_argument("syntax error: bad substitution");
    const std::string variable = name();
    if (at_end()) return invalid_argument("syntax error: missing '}'");
    char modifier = text_[at_++];
    if (modifier == '}') return variables_(variable).value_or("");
    const bool empty_is_unset = modifier == ':';
    if (empty_is_unset) {
      if (at_end()) return invalid_argument("syntax error: missing '}'");
      modifier = text_[at_++];
    }
    return modified(variable, modifier, empty_is_unset);
  }

  Result<std::string> modified(const std::string& variable, char modifier, bool empty_is_unset) {
    std::optional<std::string> value = variables_(variable);
    if (value && value->empty() && empty_is_unset) value.reset();
    switch (modifier) {
      case '-': {
        PROA_TRY(std::string word, until('}', false));
        return value ? *std::move(value) : std::move(word);
      }
      case '+': {
        PROA_TRY(std::string word, until('}', false));
        return value ? std::move(word) : std::string();
      }
      case '?': {
        PROA_TRY(const std::string word, until('}', false));
        if (value) return *std::move(value);
        return invalid_argument(variable + ": " + (word.empty() ? "is not allowed to be unset" : word));
      }
      case '#':
      case '%': {
        if (empty_is_unset) break;
        const bool longest = !at_end() && peek() == modifier;
        if (longest) ++at_;
        PROA_TRY(const std::string pattern, until('}', true));
        std::string text = std::move(value).value_or("");
        if (text.size() > kTrimBytesMax) return invalid_argument(variable + " is too long to be cut by a pattern");
        return modifier == '#' ? trim_prefix(std::move(text), pattern, longest)
                               : trim_suffix(std::move(text), pattern, longest);
      }
      case '/': {
        if (empty_is_unset) break;
        const bool all = !at_end() && peek() == '/';
        if (all) ++at_;
        PROA_TRY(const std::string pattern, until('/', true));
        PROA_TRY(const std::string with, until('}', true));
        if (value && value->size() > kReplaceBytesMax) {
          return invalid_argument(variable + " is too long to be changed by a pattern");
        }
        std::string text = replace(std::move(value).value_or(""), pattern, with, all);
        if (text.size() > kValueBytesMax) return invalid_argument("a value is longer than 128 KiB");
        return text;
      }
      default: break;
    }
    return invalid_argument(std::string("unsupported modifier (") + (empty_is_unset ? ":" : "") + modifier +
                            ") in substitution of " + variable);
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
  char escape_;
  const Variables& variables_;
  Quotes quotes_;
};

}  // namespace

Result<std::string> expand_word(std::string_view word, char escape, const Variables& variables, Quotes quotes) {
  return Expander(word, escape, variables, quotes).all();
}

std::vector<std::string> split_words(std::string_view text, char escape) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  bool quoted = false;  // The word had quotes, so it counts even if it is empty.
  char quote = '\0';
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote == '\0' && is_blank(c)) {
      if (in_word && (quoted || !word.empty())) words.push_back(std::move(word));
      word.clear();
      in_word = quoted = false;
      continue;
    }
    in_word = true;
    if (c == escape && quote != '\'') {
      if (i + 1 == text.size()) break;
      word += c;
      word += text[++i];
      continue;
    }
    if (quote != '\0') {
      if (c == quote) quote = '\0';
    } else if (c == '\'' || c == '"') {
      quote = c;
      quoted = true;
    }
    word += c;
  }
  if (in_word && (quoted || !word.empty())) words.push_back(std::move(word));
  return words;
}

std::string shell_quote(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

}  // namespace proa::image
