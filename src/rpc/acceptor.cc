// SPDX-License-Identifier: Apache-2.0
#include "rpc/acceptor.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace proa::rpc {
namespace {

constexpr int kBacklog = 4096;
// What tells HTTP/2's preface "PRI * HTTP/2.0" from every method of HTTP/1.1.
constexpr std::string_view kHttp2 = "PRI";
constexpr char kTlsHandshake = 0x16;

enum class Protocol { kUndecided, kHttp2, kTls, kOther };

Protocol protocol_of(std::string_view first) {
  if (first.empty()) return Protocol::kUndecided;
  if (first.front() == kTlsHandshake) return Protocol::kTls;
  if (first.starts_with(kHttp2)) return Protocol::kHttp2;
  return kHttp2.starts_with(first) ? Protocol::kUndecided : Protocol::kOther;
}

std::string text_of(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
    return std::string(text.data()) + ":" + std::to_string(ntohs(in.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &in.sin6_addr, text.data(), text.size());
    return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(in.sin6_port));
  }
  return "";
}

}  // namespace

struct Acceptor::Undecided {
  Undecided(RealLoop& loop, OwnedFd connection, ConnectionInfo who)
      : owner(loop), fd(std::make_unique<WatchedFd>(loop, connection.release())), info(std::move(who)) {}
  ~Undecided() { owner.cancel(timer); }
  // Wakes whoever waits for its bytes.
  void give_up() const { ::shutdown(fd->fd(), SHUT_RDWR); }

  RealLoop& owner;
  std::unique_ptr<WatchedFd> fd;
  ConnectionInfo info;
  Loop::TimerId timer = 0;
};

Acceptor::Acceptor(RealLoop& loop, Routes routes, Logger& log) : Acceptor(loop, std::move(routes), log, Limits()) {}
Acceptor::Acceptor(RealLoop& loop, Routes routes, Logger& log, Limits limits)
    : loop_(loop), routes_(std::move(routes)), log_(log), limits_(limits) {}

void Acceptor::listen(OwnedFd listener, ConnectionInfo info) {
  scope_.spawn(accept_from(std::make_shared<WatchedFd>(loop_, listener.release()), std::move(info)));
}

Async<> Acceptor::accept_from(std::shared_ptr<WatchedFd> listener, ConnectionInfo info) {
  while (true) {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    OwnedFd connection(
        ::accept4(listener->fd(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid()) {
      ConnectionInfo who = info;
      who.address = text_of(address);
      adopt(std::move(connection), std::move(who));
      continue;
    }
    if (errno == EAGAIN) {
      co_await listener->readable();
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      log_.warning("acceptor.exhausted", {{"error", errno_error(errno, "accept").message}});
      co_await sleep_for(loop_, std::chrono::milliseconds(100));
    } else if (errno == EINVAL || errno == EBADF || errno == ENOTSOCK) {
      log_.error("acceptor.failed", {{"error", errno_error(errno, "accept").message}});
      co_return;
    }
    // Everything else is about one connection that ended before it was accepted.
  }
}

void Acceptor::adopt(OwnedFd connection, ConnectionInfo info) {
  while (!undecided_.empty() && undecided_.front().expired()) undecided_.pop_front();
  if (undecided_.size() >= limits_.undecided_max) {
    std::erase_if(undecided_, [](const auto& one) { return one.expired(); });
    if (undecided_.size() >= limits_.undecided_max) {
      if (const auto oldest = undecided_.front().lock()) oldest->give_up();
      undecided_.pop_front();
    }
  }
  auto undecided = std::make_shared<Undecided>(loop_, std::move(connection), std::move(info));
  undecided->timer = loop_.at(loop_.now() + limits_.first_bytes, [weak = std::weak_ptr(undecided)] {
    if (const auto late = weak.lock()) late->give_up();
  });
  undecided_.push_back(undecided);
  scope_.spawn(sort(std::move(undecided)));
}

Async<> Acceptor::sort(std::shared_ptr<Undecided> connection) {
  Protocol protocol = Protocol::kUndecided;
  while (protocol == Protocol::kUndecided) {
    std::array<char, 16> first{};
    const ssize_t count = ::recv(connection->fd->fd(), first.data(), first.size(), MSG_PEEK | MSG_DONTWAIT);
    if (count == 0) co_return;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN) co_return;
    if (count < 0) {
      co_await connection->fd->readable();
      continue;
    }
    protocol = protocol_of({first.data(), static_cast<std::size_t>(count)});
    // What is there stays there and keeps the socket readable: look again a little later.
    if (protocol == Protocol::kUndecided) co_await sleep_for(loop_, std::chrono::milliseconds(5));
  }
  const Sink& sink = protocol == Protocol::kHttp2 ? routes_.grpc
                     : protocol == Protocol::kTls ? routes_.tls
                                                  : routes_.http;
  if (sink) sink(OwnedFd(connection->fd->release()), connection->info);
}

Result<OwnedFd> listen_on(const std::string& address) {
  constexpr std::string_view kUnix = "unix:";
  if (address.starts_with(kUnix)) {
    const std::string path = address.substr(kUnix.size());
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof name.sun_path) {
      return invalid_argument("\"" + path + "\" cannot be the path of a socket: it must have 1 to 107 bytes");
    }
    path.copy(name.sun_path, path.size());
    OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::unlink(path.c_str());
    if (!fd.valid() || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
        ::listen(fd.get(), kBacklog) != 0) {
      return errno_error(errno, "cannot listen on " + address);
    }
    return fd;
  }
  const auto colon = address.rfind(':');
  if (colon == std::string::npos) return invalid_argument("\"" + address + "\" is no address: host:port is wanted");
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.empty() ? nullptr : host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (failed != 0) return invalid_argument("cannot listen on " + address + ": " + ::gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  OwnedFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    Error error = errno_error(errno, "cannot listen on " + address);
    if (errno == EADDRINUSE) error.code = Code::kFailedPrecondition;
    return error;
  }
  return fd;
}

}  // namespace proa::rpc
