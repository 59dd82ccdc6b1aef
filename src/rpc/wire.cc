// SPDX-License-Identifier: Apache-2.0
#include "rpc/wire.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "rpc/openssl.h"

namespace proa::rpc {
namespace {

// A peer that has gone is an error here, and not a signal that ends the process.
ssize_t send_some(int fd, const char* from, std::size_t bytes) {
  ssize_t count = 0;
  do {
    count = ::send(fd, from, bytes, MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  return count;
}

ssize_t receive_some(int fd, char* into, std::size_t bytes_max) {
  ssize_t count = 0;
  do {
    count = ::recv(fd, into, bytes_max, 0);
  } while (count < 0 && errno == EINTR);
  return count;
}

class PlainWire final : public Wire {
 public:
  ssize_t read(int fd, char* into, std::size_t bytes_max) override { return receive_some(fd, into, bytes_max); }
  ssize_t write(int fd, const char* from, std::size_t bytes) override { return send_some(fd, from, bytes); }
  bool flush(int) override { return true; }
  bool buffers() const override { return false; }
};

constexpr std::array<unsigned char, 3> kOffered = {2, 'h', '2'};  // As ALPN writes it.

// OpenSSL works on memory, since it would write to a socket in a way that raises SIGPIPE.
class OpenSslWire final : public TlsWire {
 public:
  OpenSslWire(OwnedContext context, OwnedSsl ssl) : context_(std::move(context)), ssl_(std::move(ssl)) {
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in_, -1);
    SSL_set_bio(ssl_.get(), in_, out_);  // Which owns them from here on.
    SSL_set_connect_state(ssl_.get());
  }

  Result<Step> handshake(int fd) override {
    while (true) {
      ERR_clear_error();
      const int done = SSL_do_handshake(ssl_.get());
      const int why = SSL_get_error(ssl_.get(), done);
      if (!flush(fd)) return Step::kWrite;
      if (done == 1) break;
      if (why != SSL_ERROR_WANT_READ) {
        const long verified = SSL_get_verify_result(ssl_.get());
        const std::string text = verified != X509_V_OK ? X509_verify_cert_error_string(verified) : last_openssl_error();
        return unavailable("no TLS came about with the server: " + text);
      }
      const ssize_t got = feed(fd);
      if (got < 0 && errno == EAGAIN) return Step::kRead;
      if (got <= 0) return unavailable("no TLS came about with the server: it ended the connection");
    }
    const unsigned char* chosen = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl_.get(), &chosen, &length);
    if (std::string_view(reinterpret_cast<const char*>(chosen), length) != "h2") {
      return unavailable("the server speaks TLS, but no HTTP/2 in it");
    }
    return Step::kDone;
  }

  ssize_t read(int fd, char* into, std::size_t bytes_max) override {
    while (true) {
      ERR_clear_error();
      const int count = SSL_read(ssl_.get(), into, static_cast<int>(std::min(bytes_max, kPieceMax)));
      if (count > 0) return count;
      const int why = SSL_get_error(ssl_.get(), count);
      (void)flush(fd);  // An answer to a change of keys.
      if (why == SSL_ERROR_ZERO_RETURN) return 0;
      if (why != SSL_ERROR_WANT_READ) {
        ERR_clear_error();
        errno = EPROTO;
        return -1;
      }
      const ssize_t got = feed(fd);
      if (got <= 0) return got;
    }
  }

  ssize_t write(int fd, const char* from, std::size_t bytes) override {
    if (!flush(fd)) {
      errno = EAGAIN;
      return -1;
    }
    ERR_clear_error();
    const int count = SSL_write(ssl_.get(), from, static_cast<int>(std::min(bytes, kPieceMax)));
    if (count <= 0) {
      ERR_clear_error();
      errno = EPROTO;
      return -1;
    }
    (void)flush(fd);
    return count;
  }

  bool flush(int fd) override {
    char* data = nullptr;
    const long pending = BIO_get_mem_data(out_, &data);
    std::size_t sent = 0;
    while (sent < static_cast<std::size_t>(pending)) {
      const ssize_t count = send_some(fd, data + sent, static_cast<std::size_t>(pending) - sent);
      // Of an error the next read tells.
      if (count < 0) break;
      sent += static_cast<std::size_t>(count);
    }
    // Taken out by reading it, since memory knows no other way.
    std::array<char, 4096> sink{};
    for (std::size_t left = sent; left > 0;) {
      const int count = BIO_read(out_, sink.data(), static_cast<int>(std::min(left, sink.size())));
      if (count <= 0) break;
      left -= static_cast<std::size_t>(count);
    }
    return sent == static_cast<std::size_t>(pending);
  }

  bool buffers() const override { return true; }

 private:
  static constexpr std::size_t kPieceMax = 64 << 10;

  ssize_t feed(int fd) {
    std::array<char, 16 << 10> piece;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    const ssize_t got = receive_some(fd, piece.data(), piece.size());
    if (got > 0) BIO_write(in_, piece.data(), static_cast<int>(got));
    return got;
  }

  OwnedContext context_;
  OwnedSsl ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
};

}  // namespace

std::unique_ptr<Wire> plain_wire() { return std::make_unique<PlainWire>(); }

Result<std::unique_ptr<TlsWire>> TlsWire::create(const std::string& ca_pem, const std::string& name) {
  OwnedContext context(SSL_CTX_new(TLS_client_method()));
  if (!context) return internal_error("OpenSSL gave no context: " + last_openssl_error());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (ca_pem.empty()) {
    SSL_CTX_set_default_verify_paths(context.get());
  } else {
    const OwnedBio text(BIO_new_mem_buf(ca_pem.data(), static_cast<int>(ca_pem.size())));
    bool any = false;
    while (const OwnedCertificate one{PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr)}) {
      any = X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), one.get()) == 1 || any;
    }
    ERR_clear_error();
    if (!any) return invalid_argument("the certificates to trust cannot be read: PEM is wanted");
  }
  SSL_CTX_set_alpn_protos(context.get(), kOffered.data(), kOffered.size());
  OwnedSsl ssl(SSL_new(context.get()));
  if (!ssl) return internal_error("OpenSSL gave no connection: " + last_openssl_error());
  std::array<unsigned char, sizeof(in6_addr)> address{};
  const bool is_address = ::inet_pton(AF_INET, name.c_str(), address.data()) == 1 ||
                          ::inet_pton(AF_INET6, name.c_str(), address.data()) == 1;
  if (is_address) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), name.c_str());
  } else {
    SSL_set_tlsext_host_name(ssl.get(), name.c_str());
    SSL_set1_host(ssl.get(), name.c_str());
  }
  return std::unique_ptr<TlsWire>(std::make_unique<OpenSslWire>(std::move(context), std::move(ssl)));
}

}  // namespace proa::rpc
