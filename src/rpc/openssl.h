// SPDX-License-Identifier: Apache-2.0
//
// OpenSSL's objects as values that free themselves, and what it has to say. For this room's .cc files only.
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <array>
#include <memory>
#include <string>

namespace proa::rpc {

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using OwnedContext = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;
using OwnedSsl = std::unique_ptr<SSL, Freer<SSL_free>>;
using OwnedBio = std::unique_ptr<BIO, Freer<BIO_free>>;
using OwnedCertificate = std::unique_ptr<X509, Freer<X509_free>>;
using OwnedKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

// Takes what OpenSSL has to say out of its queue, so that it is not found there by the next call.
inline std::string last_openssl_error() {
  std::array<char, 256> text{};
  const unsigned long code = ERR_get_error();
  if (code != 0) ERR_error_string_n(code, text.data(), text.size());
  ERR_clear_error();
  return text.data();
}

}  // namespace proa::rpc
