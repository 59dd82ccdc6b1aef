// SPDX-License-Identifier: Apache-2.0
#include "rpc/tls.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include "rpc/acceptor.h"
#include "rpc/client.h"
#include "rpc/server.h"

namespace proa::rpc {
namespace {

std::string pem_of(const std::function<void(BIO*)>& write) {
  BIO* bio = BIO_new(BIO_s_mem());
  write(bio);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return text;
}

TlsKeys self_signed() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  X509_EXTENSION* names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
  X509_add_ext(certificate, names, -1);
  X509_EXTENSION_free(names);
  X509_sign(certificate, key, EVP_sha256());
  TlsKeys keys{pem_of([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); }),
               pem_of([&](BIO* bio) { PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); })};
  X509_free(certificate);
  EVP_PKEY_free(key);
  return keys;
}

class Echo final : public Handler {
 public:
  Async<Result<void>> handle(ServerCall& call) override {
    secure = call.connection().secure;
    PROA_CO_TRY(auto message, co_await call.read());
    if (message) call.write_last(*std::move(message));
    co_return Result<void>();
  }
  bool secure = false;
};

// From the listening socket to the handler: acceptor, TLS, acceptor again, gRPC.
TEST(Tls, GrpcComesThroughItWholeAndIsKnownToBeSecure) {
  RealLoop loop;
  NullLogger log;
  Echo echo;
  const auto server = std::move(Server::create(loop, echo)).value();
  std::unique_ptr<TlsEnd> tls;
  Acceptor acceptor(
      loop,
      {.grpc = [&](OwnedFd fd,
                   ConnectionInfo info) { EXPECT_TRUE(server->add_connection(fd.release(), std::move(info)).ok()); },
       .http = {},
       .tls = [&](OwnedFd fd, ConnectionInfo info) { tls->add_connection(std::move(fd), std::move(info)); }},
      log);
  const TlsKeys keys = self_signed();
  tls = std::move(TlsEnd::create(loop, keys, log, [&](OwnedFd fd, ConnectionInfo info) {
          acceptor.adopt(std::move(fd), std::move(info));
        })).value();
  const std::string path = testing::TempDir() + "proa-tls-" + std::to_string(::getpid()) + ".sock";
  acceptor.listen(std::move(listen_on("unix:" + path)).value(), {.kind = ConnectionInfo::Kind::kTcp});

  for (const bool trusted : {true, false}) {
    ClientOptions options;
    options.address = "unix:" + path;
    options.tls = ClientTls{trusted ? keys.certificate_pem : self_signed().certificate_pem, "localhost"};
    const auto client = std::move(Client::create(loop, options)).value();
    for (const std::size_t size : {std::size_t{5}, std::size_t{20} << 20}) {
      const Bytes sent(size, 'x');
      std::optional<Result<Bytes>> reply;
      struct Keep {
        static Async<> into(Async<Result<Bytes>> from, std::optional<Result<Bytes>>& to) {
          to.emplace(co_await std::move(from));
        }
      };
      Scope scope;
      scope.spawn(Keep::into(client->unary("/t/Echo", sent), reply));
      while (!reply) loop.run_one();
      ASSERT_EQ(reply->ok(), trusted);
      if (!trusted) break;
      EXPECT_TRUE(**reply == sent);
      EXPECT_TRUE(echo.secure);
    }
  }
  ::unlink(path.c_str());
}

TEST(Tls, KeysThatAreNoPairAreRefused) {
  RealLoop loop;
  NullLogger log;
  TlsKeys mixed{self_signed().certificate_pem, self_signed().key_pem};
  EXPECT_EQ(TlsEnd::create(loop, mixed, log, {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(TlsEnd::create(loop, {"", ""}, log, {}).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace proa::rpc
