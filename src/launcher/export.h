// SPDX-License-Identifier: Apache-2.0
//
// Export: what an ended container wrote over its trees, as a stream (docs/formats/layer-stream.md). A child
// walks the directory from inside, confined to it, with no more rights than reading takes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/fd.h"
#include "base/result.h"

namespace proa::launcher {

// What stands before each entry's bytes in the stream: the record's size as 4 bytes, the record, and for
// regular files with content `size_bytes` bytes. The stream ends with a record whose `end` is set.
struct LayerRecord {
  std::string path;  // "" is the root.
  std::uint8_t kind = 0;  // cas::EntryKind.
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime_nanos = 0;
  std::uint64_t size_bytes = 0;
  std::string target;
  std::map<std::string, std::string> xattrs;
  bool opaque = false;
  // Only names or modes changed: the content (of a directory: what it holds) is that of `origin`, an absolute
  // path in the trees below; for files also "/ab/cdef…", an object.
  bool unchanged_content = false;
  std::string origin;
  bool end = false;
  std::string error;  // With `end`: why the walk could not be finished.

  static void fields(auto& visit, auto& self) {
    visit(1, self.path), visit(2, self.kind), visit(3, self.mode), visit(4, self.uid), visit(5, self.gid);
    visit(6, self.mtime_nanos), visit(7, self.size_bytes), visit(8, self.target), visit(9, self.xattrs);
    visit(10, self.opaque), visit(11, self.unchanged_content), visit(12, self.origin), visit(13, self.end);
    visit(14, self.error);
  }
  friend bool operator==(const LayerRecord&, const LayerRecord&) = default;
};

constexpr std::size_t kLayerRecordBytesMax = 1 << 20;

// Starts the walk of `directory`, whose owner ids begin at `id_base`; answers the pipe to read from, and adds
// the child to `exporters`.
Result<OwnedFd> start_export(const std::string& directory, std::uint32_t id_base, std::uint32_t ids, std::vector<pid_t>& exporters);
// Collects those that have ended.
void reap_exporters(std::vector<pid_t>& exporters);

}  // namespace proa::launcher
