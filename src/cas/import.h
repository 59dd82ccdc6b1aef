// SPDX-License-Identifier: Apache-2.0
//
// From directories and archives to trees, and back: the contents become objects of a store, durable with one flush
// before the tree is returned. The tree itself is not put; ObjectStore::put_tree does that.
//
// Blocking; on pool threads, or in programs without a loop. Directories are walked by descriptors, without following
// links. Sockets and devices are left out. A directory that changes meanwhile gives some tree that mixes the
// states, never an escape from the directory.
//
// Archives may be hostile: names are checked (kInvalidArgument), and sizes are bounded (kOutOfRange).
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "cas/object_store.h"
#include "cas/tree.h"

namespace proa::cas {

enum class Owners : std::uint8_t {
  kKeep,  // As they are.
  kRoot,  // All become 0.
};

struct ImportOptions {
  Owners owners = Owners::kKeep;
  int threads = 2;                                   // That read and hash files.
  std::uint64_t bytes_max = std::uint64_t{1} << 40;  // Of all files together.
};

Result<Tree> import_directory(ObjectStore& store, const std::string& path, const ImportOptions& options);

// How an archive says that something of a lower layer is gone.
enum class Whiteouts : std::uint8_t {
  kNone,  // It is a whole file system: names that begin with ".wh." mean nothing.
  kOci,   // ".wh.NAME" removes NAME, ".wh..wh..opq" hides what lower layers have in the directory.
};

struct ArchiveOptions {
  Owners owners = Owners::kKeep;
  Whiteouts whiteouts = Whiteouts::kNone;
  std::uint64_t bytes_max = std::uint64_t{1} << 40;  // Of all files together, unpacked.
  std::size_t entries_max = kTreeEntriesMax;
};

// A tar archive, plain or compressed (gzip, zstd, xz, bzip2), read from the descriptor's position to its end. Of
// entries with one name the last counts, as when unpacking. kDataLoss if the archive is cut short or damaged.
Result<Tree> import_archive(ObjectStore& store, int fd, const ArchiveOptions& options);

// Writes the tree below `path`, an empty or missing directory: contents checked, modes and times set, and owners and
// attributes too if the caller is root. Files are copies. kFailedPrecondition if the directory is not empty;
// kInvalidArgument for a tree with whiteouts.
Result<void> export_tree(const ObjectStore& store, const Tree& tree, const std::string& path);

}  // namespace proa::cas
