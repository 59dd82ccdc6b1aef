// SPDX-License-Identifier: Apache-2.0
#include "image/glob.h"

#include <cstddef>
#include <string>

namespace proa::image {
namespace {

// One element of a pattern that stands for exactly one character.
struct Element {
  std::size_t size = 0;  // In the pattern.
  bool matches = false;
};

struct ClassChar {
  std::size_t size = 0;
  char value = 0;
};

// A character inside [...]; size 0 if there is none.
ClassChar class_char(std::string_view pattern, std::size_t at) {
  if (at >= pattern.size() || pattern[at] == '-' || pattern[at] == ']') return {};
  if (pattern[at] != '\\') return {1, pattern[at]};
  if (at + 1 >= pattern.size()) return {};
  return {2, pattern[at + 1]};
}

Error malformed(std::string_view pattern) {
  return invalid_argument("malformed pattern '" + std::string(pattern) + "'");
}

Result<Element> element(std::string_view pattern, std::size_t at, char c) {
  switch (pattern[at]) {
    case '?': return Element{1, c != '/'};
    case '\\':
      if (at + 1 >= pattern.size()) return malformed(pattern);
      return Element{2, pattern[at + 1] == c};
    case '[': break;
    default: return Element{1, pattern[at] == c};
  }
  std::size_t end = at + 1;
  const bool negated = end < pattern.size() && pattern[end] == '^';
  if (negated) ++end;
  bool inside = false;
  bool any = false;
  while (true) {
    if (end < pattern.size() && pattern[end] == ']' && any) break;
    const ClassChar low = class_char(pattern, end);
    if (low.size == 0) return malformed(pattern);
    end += low.size;
    ClassChar high = low;
    if (end < pattern.size() && pattern[end] == '-') {
      high = class_char(pattern, end + 1);
      if (high.size == 0) return malformed(pattern);
      end += 1 + high.size;
    }
    const auto value = static_cast<unsigned char>(c);
    inside =
        inside || (static_cast<unsigned char>(low.value) <= value && value <= static_cast<unsigned char>(high.value));
    any = true;
  }
  return Element{end + 1 - at, inside != negated && c != '/'};
}

// The pattern is checked once, so that later a failure to match is only that.
Result<void> check(std::string_view pattern) {
  for (std::size_t at = 0; at < pattern.size();) {
    if (pattern[at] == '*') {
      ++at;
      continue;
    }
    PROA_TRY(const Element next, element(pattern, at, 'x'));
    at += next.size;
  }
  return {};
}

}  // namespace

bool has_wildcard(std::string_view text) { return text.find_first_of("*?[\\") != std::string_view::npos; }

Result<bool> glob_match(std::string_view pattern, std::string_view text) {
  PROA_TRY_VOID(check(pattern));
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
    if (p < pattern.size()) {
      PROA_TRY(const Element next, element(pattern, p, text[t]));
      if (next.matches) {
        p += next.size;
        ++t;
        continue;
      }
    }
    // The last star takes one character more, but never a slash.
    if (star == std::string_view::npos || text[star_text] == '/') return false;
    p = star + 1;
    t = ++star_text;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace proa::image
