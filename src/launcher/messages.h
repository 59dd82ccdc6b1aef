// SPDX-License-Identifier: Apache-2.0
//
// One message with descriptors over a SOCK_SEQPACKET socket.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace proa::launcher {

// False, with errno, when it cannot be sent.
bool send_with_fds(int socket, const void* data, std::size_t size, const int* fds, std::size_t count);
// `count` is how many descriptors there is room for, and afterwards how many came. -1 with errno on failure,
// 0 when the other end is gone.
ssize_t receive_with_fds(int socket, void* data, std::size_t size, int* fds, std::size_t& count);

}  // namespace proa::launcher
