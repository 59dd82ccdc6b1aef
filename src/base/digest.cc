// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace proa {
namespace {

const unsigned char* raw(BytesView data) { return reinterpret_cast<const unsigned char*>(data.data()); }

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1U) != 0 ? 0x82F63B78U : 0U);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

}  // namespace

struct Hasher::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Hasher::Hasher(Kind kind) : state_(std::make_unique<State>()) {
  const EVP_MD* type = kind == Kind::kSha256 ? EVP_sha256() : EVP_md5();
  PROA_CHECK(EVP_DigestInit_ex(state_->context, type, nullptr) == 1);
}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(BytesView data) {
  PROA_CHECK(EVP_DigestUpdate(state_->context, data.data(), data.size()) == 1);
}

Bytes Hasher::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
  unsigned int size = 0;
  PROA_CHECK(EVP_DigestFinal_ex(state_->context, out.data(), &size) == 1);
  return {reinterpret_cast<const char*>(out.data()), size};
}

std::string Digest::hex() const { return to_hex(view()); }

Result<Digest> Digest::from_hex(std::string_view hex) {
  PROA_TRY(const Bytes decoded, proa::from_hex(hex));
  return from_bytes(decoded);
}

Result<Digest> Digest::from_bytes(BytesView raw_bytes) {
  Digest digest;
  if (raw_bytes.size() != digest.bytes.size()) return invalid_argument("a SHA-256 has 32 bytes");
  std::copy(raw_bytes.begin(), raw_bytes.end(), digest.bytes.begin());
  return digest;
}

Digest sha256(BytesView data) {
  Digest digest;
  unsigned int size = 0;
  PROA_CHECK(EVP_Digest(data.data(), data.size(), digest.bytes.data(), &size, EVP_sha256(), nullptr) == 1);
  return digest;
}

Bytes md5(BytesView data) {
  Hasher hasher(Hasher::Kind::kMd5);
  hasher.update(data);
  return hasher.finish();
}

Digest hmac_sha256(BytesView key, BytesView data) {
  Digest digest;
  unsigned int size = 0;
  PROA_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(data), data.size(),
                  digest.bytes.data(), &size) != nullptr);
  return digest;
}

std::uint32_t crc32c(BytesView data) {
  std::uint32_t crc = ~0U;
  for (const char c : data) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 255U] ^ (crc >> 8);
  return ~crc;
}

bool equal_in_constant_time(BytesView a, BytesView b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace proa
