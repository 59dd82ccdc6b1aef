// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace proa {

void OwnedFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<OwnedFd> open_file(int directory, const std::string& path, int flags, unsigned mode) {
  const int fd = ::openat(directory, path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return errno_error(errno, "cannot open '" + path + "'");
  return OwnedFd(fd);
}

Result<void> write_all(int fd, BytesView bytes, std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, what);
    }
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
  return {};
}

Result<Bytes> read_all(int fd, std::size_t bytes_max, std::string_view what) {
  struct stat status{};
  std::size_t expected = 0;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
    if (static_cast<std::uint64_t>(status.st_size) > bytes_max) {
      return Error{Code::kOutOfRange, std::string(what) + ": more than " + std::to_string(bytes_max) + " bytes"};
    }
    expected = static_cast<std::size_t>(status.st_size);
  }
  Bytes bytes;
  std::size_t filled = 0;
  while (true) {
    // One byte more than expected shows the end without growing the buffer.
    if (filled == bytes.size()) bytes.resize(filled == 0 ? expected + 1 : std::max<std::size_t>(filled * 2, 4096));
    const ssize_t done = ::read(fd, bytes.data() + filled, bytes.size() - filled);
    if (done < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno, what);
    }
    if (done == 0) break;
    filled += static_cast<std::size_t>(done);
    if (filled > bytes_max) {
      return Error{Code::kOutOfRange, std::string(what) + ": more than " + std::to_string(bytes_max) + " bytes"};
    }
  }
  bytes.resize(filled);
  return bytes;
}

Result<void> replace_file(const std::string& path, BytesView bytes, unsigned mode) {
  const std::string temporary = path + ".new";
  // What an earlier process left may have another owner or mode.
  ::unlink(temporary.c_str());
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, temporary, O_CREAT | O_EXCL | O_WRONLY, mode));
  if (::fchmod(fd.get(), mode) != 0) return errno_error(errno, "cannot set the mode of " + temporary);
  PROA_TRY_VOID(write_all(fd.get(), bytes, "cannot write " + temporary));
  if (::fsync(fd.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) return errno_error(errno, "cannot write " + path);
  return {};
}

}  // namespace proa
