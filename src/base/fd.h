// SPDX-License-Identifier: Apache-2.0
//
// OwnedFd: a file descriptor that is closed with its owner; and whole reads and writes on one.
//
// Blocking calls: on a pool thread, or in a program without a loop.
#pragma once

#include <cstddef>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace proa {

class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~OwnedFd() { reset(-1); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset(int fd);

 private:
  int fd_ = -1;
};

// openat() with O_CLOEXEC; `what` names the file in the error. `directory` may be AT_FDCWD.
Result<OwnedFd> open_file(int directory, const std::string& path, int flags, unsigned mode = 0);
// Writes all of it, at the descriptor's position.
Result<void> write_all(int fd, BytesView bytes, std::string_view what);
// Reads from the descriptor's position to its end. kOutOfRange if there are more than `bytes_max`.
Result<Bytes> read_all(int fd, std::size_t bytes_max, std::string_view what);

// Makes the file hold `bytes`, durably; whoever looks sees the old content or the new, whatever happens meanwhile.
Result<void> replace_file(const std::string& path, BytesView bytes, unsigned mode);

}  // namespace proa
