// SPDX-License-Identifier: Apache-2.0
//
// Mounting EROFS images: from the file where the kernel can, and else through a loop device.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace proa::launcher {

// The image in the file at `path` as a mount that is nowhere yet: read-only, no devices. Needs CAP_SYS_ADMIN. A loop
// device lives as long as its mount does.
Result<OwnedFd> mount_erofs_image(const std::string& path);

}  // namespace proa::launcher
