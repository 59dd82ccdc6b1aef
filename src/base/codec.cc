// SPDX-License-Identifier: Apache-2.0
#include "base/codec.h"

namespace proa::codec {
namespace {

bool take_varint(BytesView& rest, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (rest.empty()) return false;
    const auto byte = static_cast<unsigned char>(rest.front());
    rest.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 127U) << shift;
    if (byte < 128) return true;
  }
  return false;
}

}  // namespace

void put_varint(Bytes& out, std::uint64_t value) {
  while (value >= 128) {
    out += static_cast<char>(value | 128U);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

// A field is a varint of tag * 2 + kind; kind 0 is followed by a varint, kind 1 by a length and the bytes.
void put_number(Bytes& out, std::uint32_t tag, std::uint64_t value) {
  put_varint(out, std::uint64_t{tag} << 1);
  put_varint(out, value);
}

void put_bytes(Bytes& out, std::uint32_t tag, BytesView bytes) {
  put_varint(out, (std::uint64_t{tag} << 1) | 1U);
  put_varint(out, bytes.size());
  out += bytes;
}

Result<std::vector<Entry>> read_entries(BytesView bytes) {
  const Error torn{Code::kDataLoss, "a stored record is cut short or damaged"};
  std::vector<Entry> entries;
  while (!bytes.empty()) {
    std::uint64_t head = 0;
    std::uint64_t number = 0;
    if (!take_varint(bytes, head) || !take_varint(bytes, number) || (head >> 1) > 0xFFFFFFFFU) return torn;
    Entry entry{.tag = static_cast<std::uint32_t>(head >> 1), .is_bytes = (head & 1U) != 0, .number = number, .bytes = {}};
    if (entry.is_bytes) {
      if (number > bytes.size()) return torn;
      entry.bytes = bytes.substr(0, number);
      bytes.remove_prefix(number);
    }
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace proa::codec
