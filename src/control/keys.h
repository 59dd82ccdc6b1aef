// SPDX-License-Identifier: Apache-2.0
//
// Keys of stored rows: ids and digests as raw bytes, numbers big-endian, so that rows lie in order of what
// they are about. docs/formats/tables.md lists them. DO NOT CHANGE.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/codec.h"
#include "base/digest.h"
#include "base/id.h"

namespace proa::control {

inline Bytes key_of(std::uint64_t number) {
  Bytes key(8, '\0');
  for (int i = 7; i >= 0; --i, number >>= 8) key[static_cast<std::size_t>(i)] = static_cast<char>(number & 0xFF);
  return key;
}
template <class Kind>
Bytes key_of(const Id<Kind>& id) {
  return key_of(id.bits().high) + key_of(id.bits().low);
}
inline Bytes key_of(const Digest& digest) { return Bytes(digest.view()); }

// The time of creation of something that lists are paged by: never the same twice.
class UniqueTimes {
 public:
  Time next(Time now) { return last_ = now > last_ ? now : last_ + Duration(1); }
  void seen(Time time) {
    if (time > last_) last_ = time;
  }

 private:
  Time last_{};
};

}  // namespace proa::control
