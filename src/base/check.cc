// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <execinfo.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

namespace proa {

void check_failed(const char* file, int line, std::string_view what) {
  std::fprintf(stderr, "%s:%d: %.*s failed\n", file, line, static_cast<int>(what.size()), what.data());
  std::array<void*, 64> frames{};
  const int count = backtrace(frames.data(), static_cast<int>(frames.size()));
  backtrace_symbols_fd(frames.data(), count, STDERR_FILENO);
  std::abort();
}

}  // namespace proa
