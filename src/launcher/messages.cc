// SPDX-License-Identifier: Apache-2.0
#include "launcher/messages.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "launcher/protocol.h"

namespace proa::launcher {

bool send_with_fds(int socket, const void* data, std::size_t size, const int* fds, std::size_t count) {
  iovec bytes{.iov_base = const_cast<void*>(data), .iov_len = size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kPassedFdsMax)> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (count > 0) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    std::memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
  }
  ssize_t sent = -1;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(size);
}

ssize_t receive_with_fds(int socket, void* data, std::size_t size, int* fds, std::size_t& count) {
  iovec bytes{.iov_base = data, .iov_len = size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kPassedFdsMax)> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  const std::size_t room = std::exchange(count, 0);
  if (got < 0) return got;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t came = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < came; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (count < room) {
        fds[count++] = fd;
      } else {
        close(fd);
      }
    }
  }
  return got;
}

}  // namespace proa::launcher
