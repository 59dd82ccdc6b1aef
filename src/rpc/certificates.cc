// SPDX-License-Identifier: Apache-2.0
#include "rpc/certificates.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "base/fd.h"
#include "rpc/openssl.h"

namespace proa::rpc {
namespace {

constexpr std::chrono::hours kDay(24);
constexpr auto kCaLife = kDay * 3650;
constexpr auto kServerLife = kDay * 397;  // Some clients accept no longer one.
constexpr auto kRenewBefore = kDay * 30;
constexpr const char* kCaName = "Proa CA of this installation";
constexpr std::size_t kFileBytesMax = 64 << 10;

using OwnedExtension = std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>>;
using OwnedNames = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;

struct Pair {
  OwnedCertificate certificate;
  OwnedKey key;
};

Error failed(const std::string& what) { return {Code::kInternal, "cannot make a certificate: " + what}; }

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(length)};
}

Result<std::string> pem_of(X509* certificate) {
  const OwnedBio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) return failed("it cannot be written as PEM");
  return text_of(bio.get());
}

Result<std::string> pem_of(EVP_PKEY* key) {
  const OwnedBio bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) return failed("its key cannot be written as PEM");
  return text_of(bio.get());
}

Result<std::string> read_pem(const std::string& path) {
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY));
  return read_all(fd.get(), kFileBytesMax, path);
}

// Nothing if the files are not there or not a pair.
std::optional<Pair> read_pair(const std::string& certificate_path, const std::string& key_path) {
  const Result<std::string> certificate = read_pem(certificate_path);
  const Result<std::string> key = read_pem(key_path);
  if (!certificate.ok() || !key.ok()) return std::nullopt;
  const OwnedBio certificate_bio(BIO_new_mem_buf(certificate->data(), static_cast<int>(certificate->size())));
  const OwnedBio key_bio(BIO_new_mem_buf(key->data(), static_cast<int>(key->size())));
  Pair pair{OwnedCertificate(PEM_read_bio_X509(certificate_bio.get(), nullptr, nullptr, nullptr)), OwnedKey(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, nullptr, nullptr))};
  if (!pair.certificate || !pair.key || X509_check_private_key(pair.certificate.get(), pair.key.get()) != 1) return std::nullopt;
  return pair;
}

bool is_address(const std::string& name) {
  std::array<unsigned char, sizeof(in6_addr)> bits{};
  return ::inet_pton(AF_INET, name.c_str(), bits.data()) == 1 || ::inet_pton(AF_INET6, name.c_str(), bits.data()) == 1;
}

bool serves(X509* certificate, const std::vector<std::string>& names, Time until) {
  const std::time_t at = std::chrono::system_clock::to_time_t(std::chrono::time_point_cast<std::chrono::system_clock::duration>(until));
  if (X509_cmp_time(X509_get0_notAfter(certificate), const_cast<std::time_t*>(&at)) <= 0) return false;
  return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return is_address(name) ? X509_check_ip_asc(certificate, name.c_str(), 0) == 1 : X509_check_host(certificate, name.data(), name.size(), 0, nullptr) == 1;
  });
}

Result<void> add_extension(X509* certificate, X509* issuer, int kind, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const OwnedExtension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1) return failed(std::string("the extension ") + OBJ_nid2sn(kind) + " is refused");
  return {};
}

// Names go in as values, not as text that OpenSSL reads.
Result<void> add_names(X509* certificate, const std::vector<std::string>& names) {
  const OwnedNames list(GENERAL_NAMES_new());
  for (const std::string& name : names) {
    std::array<unsigned char, sizeof(in6_addr)> bits{};
    GENERAL_NAME* one = GENERAL_NAME_new();
    ASN1_STRING* value = nullptr;
    const int family = ::inet_pton(AF_INET, name.c_str(), bits.data()) == 1 ? AF_INET : ::inet_pton(AF_INET6, name.c_str(), bits.data()) == 1 ? AF_INET6 : 0;
    if (family != 0) {
      value = ASN1_OCTET_STRING_new();
      ASN1_STRING_set(value, bits.data(), family == AF_INET ? 4 : 16);
      GENERAL_NAME_set0_value(one, GEN_IPADD, value);
    } else {
      value = ASN1_IA5STRING_new();
      ASN1_STRING_set(value, name.data(), static_cast<int>(name.size()));
      GENERAL_NAME_set0_value(one, GEN_DNS, value);
    }
    sk_GENERAL_NAME_push(list.get(), one);
  }
  if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, list.get(), 0, 0) != 1) return failed("its names are refused");
  return {};
}

// Signed by `ca`, or by itself if that is null.
Result<Pair> make(const std::string& common_name, const std::vector<std::string>& names, std::chrono::seconds life, const Pair* ca, Time now) {
  Pair made{OwnedCertificate(X509_new()), OwnedKey(EVP_EC_gen("P-256"))};
  X509* const certificate = made.certificate.get();
  if (certificate == nullptr || !made.key) return failed("OpenSSL has no P-256");
  std::array<unsigned char, 16> serial{};
  if (RAND_bytes(serial.data(), serial.size()) != 1) return failed("there is no randomness");
  serial[0] &= 0x7f;
  const std::unique_ptr<BIGNUM, Freer<BN_free>> number(BN_bin2bn(serial.data(), serial.size(), nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate));
  X509_set_version(certificate, X509_VERSION_3);
  const std::time_t at = std::chrono::system_clock::to_time_t(std::chrono::time_point_cast<std::chrono::system_clock::duration>(now));
  // Clocks of other machines may be a little behind.
  ASN1_TIME_set(X509_getm_notBefore(certificate), at - 3600);
  ASN1_TIME_set(X509_getm_notAfter(certificate), at + static_cast<std::time_t>(life.count()));
  X509_set_pubkey(certificate, made.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1, 0);
  X509* const issuer = ca != nullptr ? ca->certificate.get() : certificate;
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  PROA_TRY_VOID(add_extension(certificate, issuer, NID_basic_constraints, ca != nullptr ? "critical,CA:FALSE" : "critical,CA:TRUE,pathlen:0"));
  PROA_TRY_VOID(add_extension(certificate, issuer, NID_key_usage, ca != nullptr ? "critical,digitalSignature" : "critical,keyCertSign,cRLSign"));
  PROA_TRY_VOID(add_extension(certificate, issuer, NID_subject_key_identifier, "hash"));
  PROA_TRY_VOID(add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always"));
  if (ca != nullptr) {
    PROA_TRY_VOID(add_extension(certificate, issuer, NID_ext_key_usage, "serverAuth"));
    PROA_TRY_VOID(add_names(certificate, names));
  }
  if (X509_sign(certificate, ca != nullptr ? ca->key.get() : made.key.get(), EVP_sha256()) == 0) return failed("it cannot be signed");
  return made;
}

}  // namespace

Result<CertificateFiles> own_certificates(const std::string& directory, const std::vector<std::string>& names, Time now) {
  const CertificateFiles files{.ca = directory + "/ca.pem", .certificate = directory + "/server.pem", .key = directory + "/server.key"};
  const std::string ca_key = directory + "/ca.key";
  std::optional<Pair> ca = read_pair(files.ca, ca_key);
  const bool made_ca = !ca;
  if (!ca) {
    PROA_TRY(ca, make(kCaName, {}, kCaLife, nullptr, now));
    PROA_TRY(const std::string key, pem_of(ca->key.get()));
    PROA_TRY(const std::string certificate, pem_of(ca->certificate.get()));
    PROA_TRY_VOID(replace_file(ca_key, key, 0600));
    PROA_TRY_VOID(replace_file(files.ca, certificate, 0644));
  }
  if (const auto there = read_pair(files.certificate, files.key); !made_ca && there && serves(there->certificate.get(), names, now + kRenewBefore)) return files;
  PROA_TRY(const Pair server, make(names.front(), names, kServerLife, &*ca, now));
  PROA_TRY(const std::string key, pem_of(server.key.get()));
  PROA_TRY(const std::string own, pem_of(server.certificate.get()));
  PROA_TRY(const std::string issuer, pem_of(ca->certificate.get()));
  PROA_TRY_VOID(replace_file(files.key, key, 0600));
  PROA_TRY_VOID(replace_file(files.certificate, own + issuer, 0644));
  return files;
}

}  // namespace proa::rpc
