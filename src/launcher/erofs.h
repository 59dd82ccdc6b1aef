// SPDX-License-Identifier: Apache-2.0
//
// Writes a tree as an EROFS image that holds names, modes, owners, times, links and attributes, and no
// file's bytes: each regular file is a hole of the right size whose overlay attributes name its object
// (trusted.overlay.metacopy and .redirect). Mounted as an overlay's lower layer over the object directory as
// data-only layer, it is the tree. An image of any size is mounted in the same small time.
//
// Written by the launcher itself, from a tree that it has checked, because the kernel must not be given a
// file system that somebody else wrote. Format: kernel.org, filesystems/erofs; fs/erofs/erofs_fs.h.
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "cas/tree.h"

namespace proa::launcher {

// kInvalidArgument for what an image cannot hold: whiteouts, more than 4 GiB of metadata.
Result<Bytes> write_erofs(const cas::Tree& tree);

}  // namespace proa::launcher
