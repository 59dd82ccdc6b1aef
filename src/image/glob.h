// SPDX-License-Identifier: Apache-2.0
//
// File name patterns as Go's filepath.Match has them, since that is what COPY's sources are.
//
// Pure, any thread.
#pragma once

#include <string_view>

#include "base/result.h"

namespace proa::image {

// True if `text` has a character that means something in a pattern.
bool has_wildcard(std::string_view text);

// * is any run of characters but '/', ? is one of them, [a-z] and [^a-z] a class, \c is c itself.
// kInvalidArgument for a pattern that is malformed, whether or not `text` gets so far.
Result<bool> glob_match(std::string_view pattern, std::string_view text);

}  // namespace proa::image
