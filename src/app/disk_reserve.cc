// SPDX-License-Identifier: Apache-2.0
#include "app/disk_reserve.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"

namespace proa::app {

DiskReserve::DiskReserve(Loop& loop, Logger& log, std::string directory)
    : loop_(loop), log_(log), directory_(std::move(directory)), file_(directory_ + "/reserve"), held_(access(file_.c_str(), F_OK) == 0) {
  look();
}

DiskReserve::~DiskReserve() { loop_.cancel(timer_); }

Result<void> DiskReserve::check() const {
  if (!low_) return {};
  return resource_exhausted("disk full: " + std::to_string(free_bytes_ >> 20) + " MiB are left below " + directory_ +
                            ", and nothing new is begun with less than " + std::to_string(kLowBytes >> 20) + " MiB. Free some space on that disk; what is under way goes on");
}

bool DiskReserve::release() {
  if (!held_.exchange(false)) return false;
  return unlink(file_.c_str()) == 0;
}

bool DiskReserve::hold() {
  const OwnedFd fd(open(file_.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  if (fd.valid() && posix_fallocate(fd.get(), 0, kReserveBytes) == 0) return true;
  unlink(file_.c_str());
  return false;
}

void DiskReserve::look() {
  struct statvfs about {};
  if (statvfs(directory_.c_str(), &about) == 0) {
    free_bytes_ = static_cast<std::uint64_t>(about.f_bavail) * about.f_frsize;
    const bool low = free_bytes_ < (low_ ? 2 * kLowBytes : kLowBytes);
    if (low != low_) {
      low_ = low;
      if (low) {
        log_.error("disk.low", {{"directory", directory_}, {"bytes_left", free_bytes_}});
      } else {
        log_.info("disk.enough", {{"directory", directory_}, {"bytes_left", free_bytes_}});
      }
    }
    // Not even enough for the store to open its files.
    if (free_bytes_ < kLowBytes / 16 && release()) log_.error("disk.reserve_used", {{"directory", directory_}});
    if (!low_ && !held_ && free_bytes_ > 2 * kLowBytes + kReserveBytes) held_ = hold();
  }
  timer_ = loop_.at(loop_.now() + std::chrono::seconds(1), [this] { look(); });
}

}  // namespace proa::app
