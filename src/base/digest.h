// SPDX-License-Identifier: Apache-2.0
//
// Digests and keyed hashes. SHA-256 names everything that is stored by content; MD5 is there only because
// upload URLs answer with an ETag, and CRC-32C because on-disk formats carry it.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace proa {

// A SHA-256. A value; ordered bytewise, so that sorted lists are canonical.
struct Digest {
  std::array<std::uint8_t, 32> bytes{};

  std::string hex() const;
  BytesView view() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  static Result<Digest> from_hex(std::string_view hex);
  static Result<Digest> from_bytes(BytesView raw);

  friend auto operator<=>(const Digest&, const Digest&) = default;
};

Digest sha256(BytesView data);
Bytes md5(BytesView data);                          // 16 raw bytes.
Digest hmac_sha256(BytesView key, BytesView data);
std::uint32_t crc32c(BytesView data);
// Compares without telling by its duration where two secrets differ. Lengths may leak.
bool equal_in_constant_time(BytesView a, BytesView b);

// Streams: update() as often as wanted, then finish() once.
class Hasher {
 public:
  enum class Kind { kSha256, kMd5 };
  explicit Hasher(Kind kind);
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void update(BytesView data);
  Bytes finish();  // Raw: 32 or 16 bytes.

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace proa

template <>
struct std::hash<proa::Digest> {
  std::size_t operator()(const proa::Digest& digest) const noexcept {
    std::size_t value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) value = (value << 8) | digest.bytes[i];
    return value;
  }
};
