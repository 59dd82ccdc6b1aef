// SPDX-License-Identifier: Apache-2.0
//
// PROA_CHECK: for what cannot be. On in release; ends the process with the place and a trace, because a
// process that goes on with broken state writes it down.
#pragma once

#include <string_view>

namespace proa {

[[noreturn]] void check_failed(const char* file, int line, std::string_view what);

}  // namespace proa

#define PROA_CHECK(condition)                                            \
  do {                                                                   \
    if (!(condition)) [[unlikely]]                                       \
      ::proa::check_failed(__FILE__, __LINE__, "PROA_CHECK " #condition); \
  } while (false)
