// SPDX-License-Identifier: Apache-2.0
#include "rpc/dial.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

namespace proa::rpc {
namespace {

constexpr std::string_view kUnix = "unix:";
constexpr std::string_view kAbstract = "unix-abstract:";

SocketName name_of_unix(const std::string& path) {
  SocketName name;
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  path.copy(un.sun_path, path.size());
  std::memcpy(&name.address, &un, sizeof un);
  name.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  return name;
}

// `flags` as getaddrinfo() has them.
Result<std::vector<SocketName>> names_of(const Address& address, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (failed != 0) return unavailable("cannot find " + address.text + ": " + ::gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  std::vector<SocketName> names;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    SocketName& name = names.emplace_back();
    std::memcpy(&name.address, one->ai_addr, std::min<std::size_t>(one->ai_addrlen, sizeof name.address));
    name.length = one->ai_addrlen;
  }
  return names;
}

}  // namespace

Result<Address> Address::parse(const std::string& text) {
  Address address;
  address.text = text;
  const auto wrong = [&] {
    return invalid_argument("\"" + text + "\" is no address: host:port or unix:/path is wanted");
  };
  if (text.starts_with(kUnix) || text.starts_with(kAbstract)) {
    address.host = "localhost";
    address.path = text.starts_with(kUnix) ? text.substr(kUnix.size()) : '\0' + text.substr(kAbstract.size());
    if (address.path.size() < 2 || address.path.size() >= sizeof(sockaddr_un::sun_path)) return wrong();
    return address;
  }
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return wrong();
  address.host = text.substr(0, colon);
  address.port = text.substr(colon + 1);
  if (address.host.starts_with('[') && address.host.ends_with(']')) {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  const bool is_number =
      !address.port.empty() && address.port.size() <= 5 &&
      std::all_of(address.port.begin(), address.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (address.host.empty() || !is_number) return wrong();
  return address;
}

Dialer::~Dialer() {
  if (thread_.joinable()) thread_.join();
}

Async<Result<std::vector<SocketName>>> Dialer::look_up(Address address) {
  using Found = Result<std::vector<SocketName>>;
  if (!address.path.empty()) co_return std::vector<SocketName>{name_of_unix(address.path)};
  if (Found known = names_of(address, AI_NUMERICHOST); known.ok()) co_return known;
  if (thread_.joinable()) thread_.join();
  co_return co_await suspend<Found>(loop_, [this, address](Resumer<Found> resume) {
    thread_ = std::thread([&loop = loop_, address, resume] {
      auto found = std::make_shared<Found>(names_of(address, 0));
      loop.post([resume, found] { resume(std::move(*found)); });
    });
  });
}

Async<Result<OwnedFd>> Dialer::dial(Address address) {
  PROA_CO_TRY(const std::vector<SocketName> names, co_await look_up(address));
  int error = 0;
  for (const SocketName& name : names) {
    OwnedFd fd(::socket(name.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) {
      error = errno;
      continue;
    }
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name.address), name.length) == 0) co_return fd;
    error = errno;
    if (error != EINPROGRESS) continue;
    WatchedFd watched(loop_, fd.release());
    co_await watched.writable();
    socklen_t size = sizeof error;
    if (::getsockopt(watched.fd(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error == 0) co_return OwnedFd(watched.release());
  }
  co_return unavailable(errno_error(error, "cannot connect to " + address.text).message);
}

}  // namespace proa::rpc
