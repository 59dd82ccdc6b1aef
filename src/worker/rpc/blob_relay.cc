// SPDX-License-Identifier: Apache-2.0
#include "worker/rpc/blob_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <utility>

#include "base/fd.h"

namespace proa::worker {
namespace {

constexpr std::size_t kChunkBytes = 64 * 1024;
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);
// A server that restarts is back in half a second; clients give up sooner than this.
constexpr Duration kConnectMax = std::chrono::seconds(10);
constexpr Duration kConnectPause = std::chrono::milliseconds(50);
// Neither side said anything for so long: the connection is forgotten.
constexpr Duration kIdleMax = std::chrono::minutes(5);

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family = AF_UNSPEC;
};

Result<Address> read_address(const std::string& text) {
  Address address;
  constexpr std::string_view kUnix = "unix:";
  if (text.starts_with(kUnix)) {
    auto* name = reinterpret_cast<sockaddr_un*>(&address.storage);
    const std::string path = text.substr(kUnix.size());
    if (path.size() >= sizeof name->sun_path) return invalid_argument("the path " + path + " is too long for a socket");
    name->sun_family = AF_UNIX;
    std::memcpy(name->sun_path, path.c_str(), path.size() + 1);
    address.length = sizeof(sockaddr_un);
    address.family = AF_UNIX;
    return address;
  }
  const std::size_t colon = text.rfind(':');
  std::uint16_t port = 0;
  if (colon == std::string::npos ||
      std::from_chars(text.data() + colon + 1, text.data() + text.size(), port).ec != std::errc()) {
    return invalid_argument("\"" + text + "\" has no port");
  }
  std::string host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
      ::inet_pton(AF_INET, host == "localhost" ? "127.0.0.1" : host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.length = sizeof(sockaddr_in);
    address.family = AF_INET;
    return address;
  }
  if (auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
      ::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.length = sizeof(sockaddr_in6);
    address.family = AF_INET6;
    return address;
  }
  return invalid_argument("\"" + host + "\" is no numeric address");
}

Async<Result<OwnedFd>> connect_once(RealLoop& loop, Address address) {
  OwnedFd fd(::socket(address.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) co_return errno_error(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) == 0) co_return fd;
  if (errno != EINPROGRESS) co_return Error{Code::kUnavailable, std::string("connect: ") + std::strerror(errno)};
  // The watch owns a duplicate, since it closes what it watches.
  WatchedFd watched(loop, ::dup(fd.get()));
  co_await watched.writable();
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) co_return Error{Code::kUnavailable, std::string("connect: ") + std::strerror(error)};
  co_return fd;
}

struct Pair {
  Pair(RealLoop& loop, int client_fd, int server_fd)
      : client(loop, client_fd), server(loop, server_fd), changed(loop), last(loop.now()) {}
  WatchedFd client;
  WatchedFd server;
  Signal changed;
  Time last;
  int open = 2;  // Directions.
};

Async<> pump(Loop& loop, Pair* pair, WatchedFd* from, WatchedFd* to) {
  while (true) {
    Result<std::string> bytes = co_await from->read_some(kChunkBytes);
    if (!bytes.ok() || bytes->empty()) break;
    pair->last = loop.now();
    const Result<void> written = co_await to->write_all(std::move(bytes).value());
    if (!written.ok()) {
      // Nobody listens any more: the other direction ends as well.
      pair->open = 0;
      pair->changed.notify();
      co_return;
    }
    pair->last = loop.now();
  }
  ::shutdown(to->fd(), SHUT_WR);
  --pair->open;
  pair->changed.notify();
}

}  // namespace

Async<> BlobRelay::serve(int listener, std::size_t connections_max) {
  WatchedFd watched(loop_, listener);
  while (true) {
    if (scope_.size() >= connections_max) {
      // Those beyond wait in the backlog.
      co_await ended_.wait();
      continue;
    }
    const int fd = ::accept4(watched.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      scope_.spawn(carry(fd));
    } else if (errno == EAGAIN) {
      co_await watched.readable();
    } else if (errno != EINTR && errno != ECONNABORTED) {
      co_await sleep_for(loop_, kAcceptPause);
    }
  }
}

Async<> BlobRelay::carry(int client) {
  OwnedFd owned(client);
  const Result<Address> address = read_address(server_);
  if (!address.ok()) {
    log_.error("blob.no_server", {{"error", address.error().message}});
    co_return;
  }
  const Time give_up = loop_.now() + kConnectMax;
  while (true) {
    Result<OwnedFd> server = co_await connect_once(loop_, *address);
    if (server.ok()) {
      co_await carry_between(owned.release(), server->release());
      break;
    }
    if (loop_.now() >= give_up) break;
    co_await sleep_for(loop_, kConnectPause);
  }
  ended_.notify();
}

Async<> BlobRelay::carry_between(int client, int server) {
  const int on = 1;
  ::setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // Fails on a unix socket, which has no delay.
  Pair pair(loop_, client, server);
  Scope pumps;
  pumps.spawn(pump(loop_, &pair, &pair.client, &pair.server));
  pumps.spawn(pump(loop_, &pair, &pair.server, &pair.client));
  while (pair.open > 0 && loop_.now() - pair.last < kIdleMax) {
    (void)co_await pair.changed.wait_until(pair.last + kIdleMax);
  }
}

}  // namespace proa::worker
