// SPDX-License-Identifier: Apache-2.0
//
// What a call costs on the wire: rpc::Client against rpc::Server in another process, over a unix socket. Each row is
// a number of calls in flight; CPU time is that of either process, divided by the calls.
//
//   rpc_bench [SECONDS]    for each row; 3 without
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "rpc/acceptor.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "rt/real_loop.h"

namespace proa::rpc {
namespace {

constexpr std::size_t kMessageBytes = 256;
constexpr std::size_t kBigBytes = std::size_t{100} << 20;

class Echo final : public Handler {
 public:
  Async<Result<void>> handle(ServerCall& call) override {
    PROA_CO_TRY(auto message, co_await call.read());
    if (!message) co_return invalid_argument("the request is missing");
    if (call.method() == "/bench/Size") {
      call.write_last(std::to_string(message->size()));
    } else {
      call.write_last(*std::move(message));
    }
    co_return Result<void>();
  }
};

[[noreturn]] void serve(OwnedFd listener, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) std::_Exit(1);
  RealLoop loop;
  NullLogger log;
  Echo echo;
  const auto server = std::move(Server::create(loop, echo)).value();
  Acceptor acceptor(
      loop,
      {.grpc = [&](OwnedFd fd,
                   ConnectionInfo info) { (void)server->add_connection(fd.release(), std::move(info)).ok(); },
       .http = {},
       .tls = {}},
      log);
  acceptor.listen(std::move(listener), {.kind = ConnectionInfo::Kind::kLocal});
  loop.run();
  std::_Exit(0);
}

double cpu_seconds(pid_t pid) {
  clockid_t clock{};
  PROA_CHECK(::clock_getcpuclockid(pid, &clock) == 0);
  timespec time{};
  PROA_CHECK(::clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Row {
  RealLoop& loop;
  Client& client;
  Time end;
  int running = 0;
  std::size_t calls = 0;
};

Async<> call_again_and_again(Row& row) {
  ++row.running;
  while (row.loop.now() < row.end) {
    const auto reply = co_await row.client.unary("/bench/Echo", Bytes(kMessageBytes, 'x'));
    PROA_CHECK(reply.ok() && reply->size() == kMessageBytes);
    ++row.calls;
  }
  if (--row.running == 0) row.loop.stop();
}

void measure(pid_t server, const std::string& address, int in_flight, Duration length) {
  RealLoop loop;
  const auto client = std::move(Client::create(loop, {.address = address})).value();
  Row row{loop, *client, loop.now() + length};
  const Time begun = loop.now();
  const double ours = cpu_seconds(::getpid());
  const double theirs = cpu_seconds(server);
  {
    Scope scope;
    for (int i = 0; i < in_flight; ++i) scope.spawn(call_again_and_again(row));
    loop.run();
  }
  const double seconds = std::chrono::duration<double>(loop.now() - begun).count();
  const auto calls = static_cast<double>(row.calls);
  std::printf("unary echo of %zu bytes, %3d in flight: %8.0f calls/s, CPU per call %6.1f us client, %6.1f us server\n",
              kMessageBytes, in_flight, calls / seconds, (cpu_seconds(::getpid()) - ours) / calls * 1e6,
              (cpu_seconds(server) - theirs) / calls * 1e6);
}

Async<> send_big(RealLoop& loop, Client& client) {
  const Time begun = loop.now();
  const auto reply = co_await client.unary("/bench/Size", Bytes(kBigBytes, 'x'));
  PROA_CHECK(reply.ok() && *reply == std::to_string(kBigBytes));
  const double seconds = std::chrono::duration<double>(loop.now() - begun).count();
  const Time then = loop.now();
  const auto echoed = co_await client.unary("/bench/Echo", Bytes(kBigBytes, 'x'));
  PROA_CHECK(echoed.ok() && echoed->size() == kBigBytes);
  const double both = std::chrono::duration<double>(loop.now() - then).count();
  std::printf("one message of %zu MiB: %.0f MiB/s there, %.0f MiB/s there and back\n", kBigBytes >> 20,
              static_cast<double>(kBigBytes >> 20) / seconds, static_cast<double>(2 * (kBigBytes >> 20)) / both);
  loop.stop();
}

void measure_big(const std::string& address) {
  RealLoop loop;
  const auto client = std::move(Client::create(loop, {.address = address})).value();
  Scope scope;
  scope.spawn(send_big(loop, *client));
  loop.run();
}

}  // namespace
}  // namespace proa::rpc

int main(int count, char** arguments) {
  using namespace proa;  // NOLINT
  const auto length = std::chrono::seconds(count > 1 ? std::atoi(arguments[1]) : 3);
  const std::string path = "/tmp/proa-rpc-bench-" + std::to_string(::getpid()) + ".sock";
  const std::string address = "unix:" + path;
  auto listener = std::move(rpc::listen_on(address)).value();
  const pid_t parent = ::getpid();
  const pid_t server = ::fork();
  if (server == 0) rpc::serve(std::move(listener), parent);
  for (const int in_flight : {1, 100}) rpc::measure(server, address, in_flight, length);
  rpc::measure_big(address);
  ::kill(server, SIGKILL);
  ::waitpid(server, nullptr, 0);
  ::unlink(path.c_str());
  return 0;
}
