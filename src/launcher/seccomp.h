// SPDX-License-Identifier: Apache-2.0
//
// The system calls that a container may make: the usual default of container engines, less what leads into
// rarely trodden parts of the kernel (userfaultfd, keyrings, bpf, perf, io_uring). Everything else answers
// EPERM; clone3 ENOSYS, so that C libraries fall back to clone, whose flags a filter can see.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

struct sock_filter;

namespace proa::launcher {

// The names that are allowed without condition.
std::span<const std::string_view> allowed_calls();
// The filter as the kernel takes it. Made once; loading it is one call.
Result<Bytes> make_filter();
// Installs it on this process. It must have no_new_privs set, or CAP_SYS_ADMIN.
Result<void> load_filter(const Bytes& filter);

}  // namespace proa::launcher
