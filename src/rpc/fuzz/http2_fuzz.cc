// SPDX-License-Identifier: Apache-2.0
//
// Fuzz target: any bytes from a peer, through framing, fields and messages to a handler that reads and answers. Its
// corpus is beside it. The first byte says into what pieces the rest is cut.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "rpc/server.h"

namespace {

using namespace proa;  // NOLINT

class Echo final : public rpc::Handler {
 public:
  Async<Result<void>> handle(rpc::ServerCall& call) override {
    call.add_trailer("x-fields", std::to_string(call.all_metadata().size()));
    while (true) {
      PROA_CO_TRY(auto message, co_await call.read());
      if (!message) break;
      if (!co_await call.write(*std::move(message))) co_return Error{Code::kCancelled, "gone"};
    }
    call.write_last(call.host());
    co_return Result<void>();
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t piece = std::size_t{data[0]} * 8 + 1;
  RealLoop loop;
  Echo echo;
  rpc::ServerOptions options;
  options.message_bytes_max = 1 << 16;
  options.streams_max = 16;
  options.keepalive_time = Duration(0);
  const auto server = std::move(rpc::Server::create(loop, echo, options)).value();
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) return 0;
  if (!server->add_connection(ends[1], {.kind = rpc::ConnectionInfo::Kind::kTcp, .address = "192.0.2.1:1"}).ok())
    return 0;
  const auto turn = [&] {
    loop.post([] {});
    loop.run_one();
  };
  std::array<char, 4096> sink{};
  bool open = true;
  const auto listen = [&] {
    while (true) {
      const ssize_t count = ::recv(ends[0], sink.data(), sink.size(), 0);
      if (count > 0) continue;
      if (count == 0) open = false;
      return;
    }
  };
  for (std::size_t at = 1; at < size && open;) {
    const ssize_t count = ::send(ends[0], data + at, std::min(piece, size - at), MSG_NOSIGNAL);
    if (count <= 0) break;
    at += static_cast<std::size_t>(count);
    for (int i = 0; i < 4; ++i) turn();
    listen();
  }
  ::shutdown(ends[0], SHUT_WR);
  for (int i = 0; i < 1000 && open; ++i) {
    turn();
    listen();
  }
  if (open) __builtin_trap();  // A connection ends with its peer.
  ::close(ends[0]);
  for (int i = 0; i < 8; ++i) turn();
  return 0;
}
