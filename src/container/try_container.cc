// SPDX-License-Identifier: Apache-2.0
//
// proa-try: runs one program in a container, for people who look at the launcher by itself.
//   proa-try LAUNCHER STATE OBJECTS TREE PROGRAM [ARGUMENT…]
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>

#include "container/launcher_runtime.h"

namespace proa::container {
namespace {

Async<> copy_out(RealLoop& loop, int fd) {
  WatchedFd pipe(loop, fd);
  while (true) {
    auto text = co_await pipe.read_some(4096);
    if (!text.ok() || text->empty()) co_return;
    std::fwrite(text->data(), 1, text->size(), stdout);
  }
}

Async<> run(RealLoop& loop, LauncherRuntime& runtime, std::vector<std::string> argv, Digest tree, int* status, Scope* scope) {
  const Time t0 = loop.now();
  auto slot = co_await runtime.prepare({.limits = {.memory_bytes_max = 512LL << 20}});
  if (!slot.ok()) {
    std::fprintf(stderr, "prepare: %s\n", slot.error().message.c_str());
    loop.stop();
    co_return;
  }
  const Time t1 = loop.now();
  scope->spawn(copy_out(loop, slot->stdout_pipe.release()));
  scope->spawn(copy_out(loop, slot->stderr_pipe.release()));
  TaskSpec task;
  task.trees = {tree};
  task.argv = std::move(argv);
  task.env = {"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root"};
  task.hostname = "proa";
  const auto started = co_await runtime.start(slot->id, std::move(task));
  const Time t2 = loop.now();
  if (!started.ok()) std::fprintf(stderr, "start: %s\n", started.error().message.c_str());
  auto exit = co_await runtime.wait(slot->id);
  const Time t3 = loop.now();
  if (exit.ok()) *status = exit->code;
  (void)co_await runtime.remove(slot->id);
  std::fprintf(stderr, "[prepare %.1f ms, start %.1f ms, ran %.1f ms, remove %.1f ms, exit %d%s, address %s]\n", static_cast<double>((t1 - t0).count()) / 1e3,
               static_cast<double>((t2 - t1).count()) / 1e3, static_cast<double>((t3 - t2).count()) / 1e3, static_cast<double>((loop.now() - t3).count()) / 1e3, *status,
               exit.ok() && exit->oom ? " (out of memory)" : "", slot->address.c_str());
  loop.stop();
}

int try_it(int argc, char** argv) {
  if (argc < 6) return 2;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) return 1;
  if (fork() == 0) {
    close(ends[1]);
    execl(argv[1], argv[1], "--socket-fd", std::to_string(ends[0]).c_str(), "--state-dir", argv[2], "--objects-dir", argv[3], nullptr);
    _exit(127);
  }
  close(ends[0]);
  RealLoop loop;
  StreamLogger log(stderr, LogStyle::kPlain, Severity::kInfo, "try");
  auto runtime = LauncherRuntime::create(loop, ends[1], log, [&] { loop.stop(); });
  Scope scope;
  int status = 1;
  scope.spawn(run(loop, *runtime, {argv + 5, argv + argc}, Digest::from_hex(argv[4]).value(), &status, &scope));
  loop.run();
  return status;
}

}  // namespace
}  // namespace proa::container

int main(int argc, char** argv) { return proa::container::try_it(argc, argv); }
