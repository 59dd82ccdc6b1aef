// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>

#include "api/local_service.h"
#include "base/codec.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "rpc/client.h"
#include "rt/real_loop.h"

namespace proa::cli {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);

// Whether the server's socket lets us in, and if not, what to do: gRPC would say no more than that it failed.
Result<void> check_socket(const std::string& path, const std::string& data_dir) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return invalid_argument("the data directory's path is too long for a socket in it: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return {};
  switch (errno) {
    case EACCES:
    case EPERM:
      return permission_denied("you may not open " + path + ": run this as root, or as the user who runs `proa up`");
    case ENOENT:
    case ECONNREFUSED:
      return unavailable("no server runs on " + data_dir + ": start it with `proa up --data-dir " + data_dir +
                         "`, or name another directory with --data-dir");
    default: return errno_error(errno, "cannot reach the server at " + path);
  }
}

Async<> ask(rpc::Client& client, Time deadline, std::optional<Result<Bytes>>* answer, RealLoop& loop) {
  answer->emplace(
      co_await client.unary(std::string(api::LocalService::kPrefix) + "LoginCode", "", {.deadline = deadline}));
  loop.stop();
}

Result<api::LoginCode> ask_for_code(const std::string& data_dir) {
  const std::string path = data_dir + "/run/server.sock";
  PROA_TRY_VOID(check_socket(path, data_dir));
  RealLoop loop;
  PROA_TRY(const auto client, rpc::Client::create(loop, {.address = "unix:" + path, .tls = std::nullopt}));
  std::optional<Result<Bytes>> answer;
  Scope scope;
  scope.spawn(ask(*client, loop.now() + kPatience, &answer, loop));
  loop.run();
  PROA_TRY(const Bytes bytes, *std::move(answer));
  return decode<api::LoginCode>(bytes);
}

}  // namespace

void add_login_code(CLI::App& program, Chosen& chosen) {
  auto* verb = program.add_subcommand(
      "login-code", "Print a one-time code that approves a login in the browser, as `modal token new` begins one");
  auto data_dir = std::make_shared<std::string>(default_data_dir());
  verb->add_option("--data-dir", *data_dir, "Of the server that runs on this machine")->capture_default_str();
  verb->callback([=, &chosen] {
    chosen.run = [=] {
      const Result<api::LoginCode> given =
          ask_for_code(std::filesystem::absolute(*data_dir).lexically_normal().string());
      if (!given.ok()) {
        std::fprintf(stderr, "proa: no login code was made: %s\n", given.error().message.c_str());
        return 1;
      }
      const auto minutes = std::chrono::round<std::chrono::minutes>(given->expires - SystemClock().now()).count();
      // The code alone on the standard output, for programs.
      std::printf("%s\n", given->code.c_str());
      std::fflush(stdout);
      std::fprintf(stderr,
                   "\nIt approves one login and holds for %ld minutes. Open the address that `modal token new` prints, "
                   "see that the\n"
                   "page shows the same code as the terminal does, and type this one there. Give it to nobody else.\n",
                   static_cast<long>(minutes));
      return 0;
    };
  });
}

}  // namespace proa::cli
