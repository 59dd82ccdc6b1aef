// SPDX-License-Identifier: Apache-2.0
//
// The small shell language inside a Dockerfile: quotes, escapes and variables of one word, as Docker's own
// lexer has them. Not a shell: no commands, no lists, no fields split by blanks that came from a variable.
//
// Pure functions, any thread. Errors are kInvalidArgument and say what was missing.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace proa::image {

// The value of a variable, or nothing if it is not set.
using Variables = std::function<std::optional<std::string>(std::string_view name)>;

enum class Quotes {
  kRemove,   // Single quotes keep everything, double quotes all but $, " and the escape; both go away.
  kLiteral,  // Quotes are ordinary characters: the body of a heredoc.
};

// `word` with quotes removed and $X, ${X}, ${X:-w}, ${X:+w}, ${X:?w} (with or without the colon),
// ${X#p}, ${X##p}, ${X%p}, ${X%%p}, ${X/p/w} and ${X//p/w} replaced. What is not set is empty.
Result<std::string> expand_word(std::string_view word, char escape, const Variables& variables,
                                Quotes quotes = Quotes::kRemove);

// Splits at blanks outside quotes. Quotes and escapes stay in the words: expand_word() removes them. An
// escape at the very end is dropped.
std::vector<std::string> split_words(std::string_view text, char escape);

// `text` as one word of /bin/sh.
std::string shell_quote(std::string_view text);

}  // namespace proa::image
