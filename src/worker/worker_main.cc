// SPDX-License-Identifier: Apache-2.0
#include "worker/worker_main.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <thread>

#include "base/fd.h"
#include "cas/object_store.h"
#include "container/launcher_runtime.h"
#include "rt/pool.h"
#include "rt/real_loop.h"
#include "worker/agent.h"
#include "worker/load_probe.h"
#include "worker/real_pipes.h"
#include "worker/rpc/container_face.h"
#include "worker/rpc/server_connection.h"
#include "worker/step_host.h"
#ifdef PROA_MODAL_API
#include "worker/rpc/modal_face.h"
#endif

namespace proa::worker {
namespace {

// Containers and the system need some memory that is nobody's.
constexpr std::int64_t kMemoryShare = 90;  // Percent.
constexpr int kPoolThreads = 2;

control::Resources offered(const WorkerOptions& options) {
  control::Resources total = options.total;
  if (total.cpu_milli <= 0)
    total.cpu_milli = 1000 * static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  if (total.memory_bytes <= 0) {
    struct sysinfo info{};
    ::sysinfo(&info);
    total.memory_bytes =
        static_cast<std::int64_t>(info.totalram) * static_cast<std::int64_t>(info.mem_unit) / 100 * kMemoryShare;
  }
  return total;
}

WorkerId read_or_make_id(const std::string& path, Random& random, Time now, Logger& log) {
  const WorkerId fresh = WorkerId::make(random, now);
  if (path.empty()) return fresh;
  if (auto file = open_file(AT_FDCWD, path, O_RDONLY); file.ok()) {
    if (auto text = read_all(file->get(), 100, path); text.ok()) {
      if (auto id = WorkerId::parse(*text); id.ok()) return *id;
    }
  }
  auto file = open_file(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const Result<void> written = file.ok() ? write_all(file->get(), fresh.text(), path) : Result<void>(file.error());
  if (!written.ok()) log.warning("worker.id_not_kept", {{"error", written.error().message}});
  return fresh;
}

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

Async<> shut_down(Agent& agent, RealLoop& loop, Duration grace) {
  co_await agent.shut_down(grace);
  loop.stop();
}

Async<> say_what_is_less(container::LauncherRuntime& runtime, Logger& log) {
  const Result<container::Capabilities> found = co_await runtime.hello();
  if (found.ok() && !found->less.empty()) log.warning("worker.less", {{"missing", found->less}});
}

}  // namespace

int run_worker(const WorkerOptions& options, Logger& log) {
  RealLoop loop;
  SystemRandom random;
  int status = 0;
  const auto runtime = container::LauncherRuntime::create(loop, options.launcher_fd, log, [&] {
    log.error("launcher.lost", {{"means", "its containers are gone; the worker ends"}});
    status = 1;
    loop.stop();
  });

  const ServerAddress server{.address = options.server, .blobs = options.blobs, .token = options.token};
  auto link = ServerConnection::create(loop, random, log, server);
  auto face = ContainerFace::create(loop, log, server, {});
  for (const Error* error : {link.ok() ? nullptr : &link.error(), face.ok() ? nullptr : &face.error()}) {
    if (error == nullptr) continue;
    std::fprintf(stderr, "proa worker: %s\n", error->message.c_str());
    return 1;
  }
#ifdef PROA_MODAL_API
  (*face)->add_wire(make_modal_face(log));
#endif
  RealPipes pipes(loop);
  ProcLoadProbe load;

  AgentOptions agent_options;
  agent_options.worker = read_or_make_id(options.id_file, random, loop.now(), log);
  agent_options.name = options.name.empty() ? host_name() : options.name;
  agent_options.total = offered(options);
  agent_options.cores = std::max(1U, std::thread::hardware_concurrency());
  agent_options.prepared_slots = options.prepared_slots;
  auto objects = cas::ObjectStore::open(options.objects_dir);
  if (!objects.ok()) {
    std::fprintf(stderr, "proa worker: %s\n", objects.error().message.c_str());
    return 1;
  }
  ThreadPool pool(kPoolThreads);
  StepHost steps(loop, pool, *runtime, pipes, **objects, **link);
  Agent agent({.loop = loop,
               .random = random,
               .log = log,
               .runtime = *runtime,
               .link = **link,
               .face = **face,
               .pipes = pipes,
               .load = load,
               .steps = &steps},
              agent_options);

  Scope scope;
  scope.spawn(say_what_is_less(*runtime, log));
  bool stopping = false;
  loop.on_signals({SIGTERM, SIGINT}, [&](int) {
    // A second signal is somebody's impatience: the launcher ends the containers.
    if (std::exchange(stopping, true)) return loop.stop();
    scope.spawn(shut_down(agent, loop, std::chrono::seconds(options.stop_grace_seconds)));
  });
  agent.start();
  log.info("worker.started", {{"worker", agent_options.worker.text()}, {"server", options.server}});
  loop.run();
  (*face)->close();
  return status;
}

}  // namespace proa::worker
