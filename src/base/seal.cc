// SPDX-License-Identifier: Apache-2.0
#include "base/seal.h"

#include <openssl/evp.h>

#include <limits>
#include <memory>

#include "base/check.h"

namespace proa {
namespace {

constexpr char kVersion = 1;
constexpr std::size_t kNonceBytes = 12;
constexpr std::size_t kTagBytes = 16;

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const unsigned char* raw(BytesView data) { return reinterpret_cast<const unsigned char*>(data.data()); }
unsigned char* raw(Bytes& data, std::size_t at) { return reinterpret_cast<unsigned char*>(data.data()) + at; }

}  // namespace

Bytes seal(BytesView key, BytesView associated, BytesView plain, Random& random) {
  PROA_CHECK(key.size() == kSealKeyBytes);
  PROA_CHECK(plain.size() < std::size_t{std::numeric_limits<int>::max()} && associated.size() < (1U << 20));
  Bytes out(1, kVersion);
  out += random.bytes(kNonceBytes);
  const std::size_t start = out.size();
  out.resize(start + plain.size() + kTagBytes);
  const Context context(EVP_CIPHER_CTX_new());
  int size = 0;
  PROA_CHECK(EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, raw(key), raw(out, 1)) == 1);
  PROA_CHECK(EVP_EncryptUpdate(context.get(), nullptr, &size, raw(associated), static_cast<int>(associated.size())) ==
             1);
  PROA_CHECK(EVP_EncryptUpdate(context.get(), raw(out, start), &size, raw(plain), static_cast<int>(plain.size())) == 1);
  PROA_CHECK(EVP_EncryptFinal_ex(context.get(), raw(out, start + plain.size()), &size) == 1);
  PROA_CHECK(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(kTagBytes),
                                 raw(out, start + plain.size())) == 1);
  return out;
}

Result<Bytes> unseal(BytesView key, BytesView associated, BytesView sealed) {
  PROA_CHECK(key.size() == kSealKeyBytes);
  constexpr std::size_t kStart = 1 + kNonceBytes;
  const Error damaged{Code::kDataLoss, "a sealed record cannot be opened: the key is another or its bytes changed"};
  if (sealed.size() < kStart + kTagBytes || sealed[0] != kVersion) return damaged;
  if (sealed.size() >= std::size_t{std::numeric_limits<int>::max()}) return damaged;
  const BytesView cipher = sealed.substr(kStart, sealed.size() - kStart - kTagBytes);
  Bytes tag(sealed.substr(sealed.size() - kTagBytes));
  Bytes plain(cipher.size() + 1, '\0');  // Never empty: OpenSSL wants somewhere to point to.
  const Context context(EVP_CIPHER_CTX_new());
  int size = 0;
  PROA_CHECK(EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, raw(key), raw(sealed.substr(1))) == 1);
  PROA_CHECK(EVP_DecryptUpdate(context.get(), nullptr, &size, raw(associated), static_cast<int>(associated.size())) ==
             1);
  PROA_CHECK(EVP_DecryptUpdate(context.get(), raw(plain, 0), &size, raw(cipher), static_cast<int>(cipher.size())) == 1);
  PROA_CHECK(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(kTagBytes), tag.data()) == 1);
  if (EVP_DecryptFinal_ex(context.get(), raw(plain, cipher.size()), &size) != 1) return damaged;
  plain.resize(cipher.size());
  return plain;
}

}  // namespace proa
