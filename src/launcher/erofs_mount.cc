// SPDX-License-Identifier: Apache-2.0
#include "launcher/erofs_mount.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace proa::launcher {
namespace {

// Others take devices too: one that was free a moment ago may not be any more.
constexpr int kLoopAttempts = 64;

Error cannot_mount(int err, const std::string& path) { return errno_error(err, "cannot mount the image " + path); }

// Leaves errno.
OwnedFd mount_source(const std::string& source) {
  const OwnedFd context(static_cast<int>(syscall(SYS_fsopen, "erofs", FSOPEN_CLOEXEC)));
  if (!context.valid() || syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_STRING, "source", source.c_str(), 0) != 0 ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, 0) != 0 ||
      syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return OwnedFd();
  }
  return OwnedFd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV)));
}

Result<OwnedFd> mount_by_loop(const std::string& path) {
  const OwnedFd image(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!image.valid()) return cannot_mount(errno, path);
  const OwnedFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return errno_error(errno, "the file system of " + path + " needs loop devices, and /dev/loop-control cannot be opened");
  for (int attempt = 0; attempt < kLoopAttempts; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return errno_error(errno, "no loop device is free");
    const std::string device_path = "/dev/loop" + std::to_string(number);
    const OwnedFd device(open(device_path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!device.valid()) return errno_error(errno, "cannot open " + device_path);
    loop_config config{};
    config.fd = static_cast<__u32>(image.get());
    config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
    if (ioctl(device.get(), LOOP_CONFIGURE, &config) != 0) {
      if (errno == EBUSY) continue;
      return errno_error(errno, "cannot use " + device_path);
    }
    OwnedFd mounted = mount_source(device_path);
    if (!mounted.valid()) return cannot_mount(errno, path);
    return mounted;
  }
  return failed_precondition("no loop device stayed free long enough to mount " + path);
}

}  // namespace

Result<OwnedFd> mount_erofs_image(const std::string& path) {
  OwnedFd mounted = mount_source(path);
  if (mounted.valid()) return mounted;
  if (errno == ENODEV) return errno_error(errno, "the kernel has no erofs");
  // tmpfs and overlay cannot be mounted from directly, nor can any file before Linux 6.12.
  if (errno == ENOTBLK) return mount_by_loop(path);
  return cannot_mount(errno, path);
}

}  // namespace proa::launcher
