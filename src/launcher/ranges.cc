// SPDX-License-Identifier: Apache-2.0
#include "launcher/ranges.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace proa::launcher {

Result<IdRange> claim_range(const std::string& kind, std::uint32_t count, std::uint32_t preferred) {
  for (std::uint32_t i = 0; i < count; ++i) {
    IdRange range;
    range.number = (preferred + i) % count;
    range.claim = OwnedFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!range.claim.valid()) return errno_error(errno, "socket");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string name = "proa-" + kind + "-" + std::to_string(range.number);
    // After the NUL byte that makes it abstract.
    std::copy_n(name.data(), std::min(name.size(), sizeof address.sun_path - 1), address.sun_path + 1);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (bind(range.claim.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0) return range;
    if (errno != EADDRINUSE) return errno_error(errno, "cannot take a range of " + kind);
  }
  return resource_exhausted("all " + std::to_string(count) + " ranges of " + kind + " are taken by other launchers of this machine");
}

}  // namespace proa::launcher
