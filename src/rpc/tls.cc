// SPDX-License-Identifier: Apache-2.0
#include "rpc/tls.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "rpc/openssl.h"

namespace proa::rpc {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;
constexpr int kUserTimeoutMs = 120'000;  // How long a peer may leave what was sent to it unacknowledged.

// "h2" where it is offered, since gRPC's clients insist on it, and else "http/1.1".
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* offered,
                    unsigned int offered_length, void*) {
  constexpr std::array<std::string_view, 2> kOurs = {"h2", "http/1.1"};
  for (const std::string_view ours : kOurs) {
    for (unsigned int at = 0; at < offered_length;) {
      const unsigned int length = offered[at];
      if (at + 1 + length > offered_length) break;
      if (std::string_view(reinterpret_cast<const char*>(offered + at + 1), length) == ours) {
        *out = offered + at + 1;
        *out_length = static_cast<unsigned char>(length);
        return SSL_TLSEXT_ERR_OK;
      }
      at += 1 + length;
    }
  }
  return SSL_TLSEXT_ERR_NOACK;
}

Result<OwnedContext> make_context(const TlsKeys& keys) {
  OwnedContext context(SSL_CTX_new(TLS_server_method()));
  if (!context) return internal_error("OpenSSL gave no context: " + last_openssl_error());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);

  const OwnedBio chain(BIO_new_mem_buf(keys.certificate_pem.data(), static_cast<int>(keys.certificate_pem.size())));
  const OwnedCertificate own(PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr));
  if (!own || SSL_CTX_use_certificate(context.get(), own.get()) != 1) {
    return invalid_argument("the TLS certificate cannot be read: " + last_openssl_error());
  }
  while (OwnedCertificate next{PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr)}) {
    if (SSL_CTX_add_extra_chain_cert(context.get(), next.get()) == 1) (void)next.release();
  }
  ERR_clear_error();
  const OwnedBio key_text(BIO_new_mem_buf(keys.key_pem.data(), static_cast<int>(keys.key_pem.size())));
  const OwnedKey key(PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr));
  if (!key || SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 || SSL_CTX_check_private_key(context.get()) != 1) {
    return invalid_argument("the TLS key cannot be read, or is not that of the certificate: " + last_openssl_error());
  }
  return context;
}

// One connection. OpenSSL works on memory; the sockets are ours.
class Relay {
 public:
  Relay(RealLoop& loop, SSL_CTX* context, OwnedFd connection)
      : ssl_(SSL_new(context)), outer_(loop, connection.release()), flushed_(loop) {
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl_.get(), in_, out_);  // Which owns them from here on.
    SSL_set_accept_state(ssl_.get());
  }

  // False: it did not come about.
  Async<bool> handshake() {
    while (true) {
      ERR_clear_error();
      const int done = SSL_do_handshake(ssl_.get());
      const int why = SSL_get_error(ssl_.get(), done);
      if (!(co_await flush()).ok()) co_return false;
      if (done == 1) co_return true;
      if (why != SSL_ERROR_WANT_READ || !co_await feed()) co_return false;
    }
  }

  void give_up() const { ::shutdown(outer_.fd(), SHUT_RDWR); }

  // From the peer to `inner`, until the peer has no more.
  Async<> pump_in(WatchedFd& inner) {
    Bytes piece(kPieceBytes, '\0');
    bool open = true;
    while (open) {
      ERR_clear_error();
      const int count = SSL_read(ssl_.get(), piece.data(), static_cast<int>(piece.size()));
      if (count > 0) {
        if (!(co_await inner.write_all(piece.substr(0, static_cast<std::size_t>(count)))).ok()) break;
        continue;
      }
      const int why = SSL_get_error(ssl_.get(), count);
      if (!(co_await flush()).ok()) break;
      open = why == SSL_ERROR_WANT_READ && co_await feed();
    }
    ::shutdown(inner.fd(), SHUT_WR);
  }

  // From `inner` to the peer, until inner ends; then says goodbye.
  Async<> pump_out(WatchedFd& inner) {
    while (true) {
      const auto piece = co_await inner.read_some(kPieceBytes);
      if (!piece.ok() || piece->empty()) break;
      ERR_clear_error();
      // Memory takes it all; waiting for the socket is in flush().
      if (SSL_write(ssl_.get(), piece->data(), static_cast<int>(piece->size())) <= 0) co_return;
      if (!(co_await flush()).ok()) co_return;
    }
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    (void)(co_await flush()).ok();
  }

 private:
  Async<bool> feed() {
    const auto more = co_await outer_.read_some(kPieceBytes);
    if (!more.ok() || more->empty()) co_return false;
    co_return BIO_write(in_, more->data(), static_cast<int>(more->size())) == static_cast<int>(more->size());
  }

  // Writes what OpenSSL has ready. Both pumps come here: what one takes is on the wire before the other's.
  Async<Result<void>> flush() {
    while (busy_) co_await flushed_.wait();
    struct Busy {
      Relay& relay;
      explicit Busy(Relay& of) : relay(of) { relay.busy_ = true; }
      ~Busy() {
        relay.busy_ = false;
        relay.flushed_.notify();
      }
    } const busy(*this);
    while (const auto waiting = static_cast<std::size_t>(BIO_pending(out_))) {
      Bytes bytes(waiting, '\0');
      const int count = BIO_read(out_, bytes.data(), static_cast<int>(bytes.size()));
      if (count <= 0) break;
      bytes.resize(static_cast<std::size_t>(count));
      PROA_CO_TRY_VOID(co_await outer_.write_all(std::move(bytes)));
    }
    co_return Result<void>();
  }

  OwnedSsl ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
  WatchedFd outer_;
  bool busy_ = false;
  Signal flushed_;
};

struct TimerGuard {
  Loop& loop;
  Loop::TimerId timer;
  ~TimerGuard() { loop.cancel(timer); }
};

}  // namespace

struct TlsEnd::State {
  State(RealLoop& on, Logger& to, Sink sink, Limits chosen)
      : loop(on), log(to), inside(std::move(sink)), limits(chosen) {}

  static Async<> serve(State& state, OwnedFd connection, ConnectionInfo info);

  RealLoop& loop;
  Logger& log;
  const Sink inside;
  const Limits limits;
  OwnedContext context;
  Scope scope;
};

Async<> TlsEnd::State::serve(State& state, OwnedFd connection, ConnectionInfo info) {
  const int on = 1;
  ::setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(connection.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(connection.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMs, sizeof kUserTimeoutMs);
  Relay relay(state.loop, state.context.get(), std::move(connection));
  {
    const TimerGuard late{state.loop,
                          state.loop.at(state.loop.now() + state.limits.handshake, [&relay] { relay.give_up(); })};
    if (!co_await relay.handshake()) {
      state.log.debug("tls.failed", {{"address", info.address}, {"why", last_openssl_error()}});
      co_return;
    }
  }
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    state.log.warning("tls.exhausted", {{"why", errno_error(errno, "socketpair").message}});
    co_return;
  }
  WatchedFd inner(state.loop, ends[0]);
  info.secure = true;
  state.inside(OwnedFd(ends[1]), std::move(info));
  Scope incoming;  // Goes before what it uses.
  incoming.spawn(relay.pump_in(inner));
  co_await relay.pump_out(inner);
}

Result<std::unique_ptr<TlsEnd>> TlsEnd::create(RealLoop& loop, TlsKeys keys, Logger& log, Sink inside) {
  return create(loop, std::move(keys), log, std::move(inside), Limits());
}

Result<std::unique_ptr<TlsEnd>> TlsEnd::create(RealLoop& loop, TlsKeys keys, Logger& log, Sink inside, Limits limits) {
  auto state = std::make_shared<State>(loop, log, std::move(inside), limits);
  PROA_TRY(state->context, make_context(keys));
  return std::unique_ptr<TlsEnd>(new TlsEnd(std::move(state)));
}

TlsEnd::~TlsEnd() { state_->scope.cancel_all(); }

void TlsEnd::add_connection(OwnedFd connection, ConnectionInfo info) {
  if (state_->scope.size() >= state_->limits.connections_max) {
    state_->log.warning("tls.too_many_connections", {{"address", info.address}});
    return;
  }
  state_->scope.spawn(State::serve(*state_, std::move(connection), std::move(info)));
}

Result<void> TlsEnd::replace_keys(TlsKeys keys) {
  PROA_TRY(state_->context, make_context(keys));
  return {};
}

}  // namespace proa::rpc
