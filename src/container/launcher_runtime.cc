// SPDX-License-Identifier: Apache-2.0
#include "container/launcher_runtime.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "base/codec.h"
#include "launcher/messages.h"
#include "launcher/protocol.h"

namespace proa::container {
namespace {

using launcher::Message;
using launcher::MessageKind;
using launcher::Op;
using launcher::Request;

struct Answer {
  Message message;
  std::vector<std::shared_ptr<OwnedFd>> fds;
};

Error error_of(const Message& message) {
  Message copy = message;
  copy.text.back() = '\0';
  return {static_cast<Code>(copy.code), copy.text.data()};
}

// The variable part of a start, where the launcher can read it and nobody can change it any more.
Result<OwnedFd> seal(const Bytes& bytes) {
  OwnedFd fd(memfd_create("task", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return errno_error(errno, "memfd");
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t put = write(fd.get(), bytes.data() + at, bytes.size() - at);
    if (put <= 0) return errno_error(errno, "cannot hand the task over");
    at += static_cast<std::size_t>(put);
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) return errno_error(errno, "cannot seal the task");
  return fd;
}

class Implementation final : public LauncherRuntime {
 public:
  Implementation(RealLoop& loop, int socket_fd, Logger& log, std::function<void()> on_lost)
      : loop_(loop), log_(log), on_lost_(std::move(on_lost)), socket_(loop, socket_fd) {
    scope_.spawn(read_messages());
  }

  Async<Result<Capabilities>> hello() override {
    PROA_CO_TRY(const Answer answer, co_await ask({.op = Op::kHello}, nullptr));
    Message message = answer.message;
    message.text.back() = '\0';
    co_return Capabilities{static_cast<int>(message.cgroups), message.network != 0, message.text.data()};
  }

  Async<Result<Slot>> prepare(SlotSpec spec) override {
    Request request;
    request.op = Op::kPrepare;
    request.network = spec.network == Network::kInternet ? 1 : 0;
    request.cpu_milli_max = spec.limits.cpu_milli_max;
    request.cpu_milli_weight = spec.limits.cpu_milli_weight;
    request.memory_bytes_max = spec.limits.memory_bytes_max;
    request.pids_max = spec.limits.pids_max;
    PROA_CO_TRY(const Answer answer, co_await ask(request, nullptr));
    if (answer.fds.size() != 4) co_return internal_error("the launcher prepared a slot without its descriptors");
    Slot slot;
    slot.id = answer.message.slot;
    slot.api_listener = std::move(*answer.fds[0]);
    slot.blob_listener = std::move(*answer.fds[1]);
    slot.stdout_pipe = std::move(*answer.fds[2]);
    slot.stderr_pipe = std::move(*answer.fds[3]);
    if (answer.message.ipv4 != 0) {
      const in_addr address{answer.message.ipv4};
      std::array<char, INET_ADDRSTRLEN> text{};
      inet_ntop(AF_INET, &address, text.data(), text.size());
      slot.address = text.data();
    }
    known_.try_emplace(slot.id, std::make_unique<Known>(loop_));
    co_return slot;
  }

  Async<Result<void>> start(SlotId slot, TaskSpec task) override {
    launcher::StartRecord record;
    record.trees = std::move(task.trees);
    record.argv = std::move(task.argv);
    record.env = std::move(task.env);
    record.working_directory = std::move(task.working_directory);
    record.uid = task.uid;
    record.gid = task.gid;
    record.hostname = std::move(task.hostname);
    for (PrivateFile& file : task.files) record.files[file.name] = std::move(file.content);
    const Bytes encoded = encode(record);
    if (encoded.size() > launcher::kStartBytesMax) {
      co_return invalid_argument("a task with its files has at most " + std::to_string(launcher::kStartBytesMax >> 20) + " MiB, this one " + std::to_string(encoded.size() >> 20));
    }
    PROA_CO_TRY(const OwnedFd sealed, seal(encoded));
    Request request;
    request.op = Op::kStart;
    request.slot = slot;
    PROA_CO_TRY_VOID(co_await ask(request, &sealed));
    co_return Result<void>();
  }

  Async<Result<void>> signal(SlotId slot, int number) override { return order({.op = Op::kSignal, .slot = slot, .signal = number}); }

  Async<Result<Exit>> wait(SlotId slot) override {
    while (true) {
      const auto found = known_.find(slot);
      if (found == known_.end()) co_return not_found("no such slot");
      if (found->second->exit) co_return *found->second->exit;
      if (lost_) co_return unavailable("the launcher has gone");
      co_await found->second->changed.wait();
    }
  }

  Async<Result<void>> stop(SlotId slot, std::chrono::milliseconds grace) override {
    PROA_CO_TRY_VOID(co_await signal(slot, SIGINT));
    const Time deadline = loop_.now() + grace;
    while (true) {
      const auto found = known_.find(slot);
      if (found == known_.end() || found->second->exit || lost_) co_return Result<void>();
      if (loop_.now() >= deadline) break;
      (void)co_await found->second->changed.wait_until(deadline);
    }
    PROA_CO_TRY_VOID(co_await order({.op = Op::kKill, .slot = slot}));
    PROA_CO_TRY_VOID(co_await wait(slot));
    co_return Result<void>();
  }

  Async<Result<Usage>> usage(SlotId slot) override {
    PROA_CO_TRY(const Answer answer, co_await ask({.op = Op::kUsage, .slot = slot}, nullptr));
    co_return Usage{answer.message.cpu_micros, answer.message.memory_bytes, answer.message.memory_bytes_peak};
  }

  Async<Result<OwnedFd>> export_upper(SlotId slot) override {
    PROA_CO_TRY(const Answer answer, co_await ask({.op = Op::kExport, .slot = slot}, nullptr));
    if (answer.fds.size() != 1) co_return internal_error("the launcher exported a slot without a descriptor");
    co_return std::move(*answer.fds[0]);
  }

  Async<Result<void>> remove(SlotId slot) override {
    PROA_CO_TRY_VOID(co_await order({.op = Op::kRemove, .slot = slot}));
    known_.erase(slot);
    co_return Result<void>();
  }

 private:
  struct Known {
    explicit Known(Loop& loop) : changed(loop) {}
    std::optional<Exit> exit;
    Signal changed;
  };

  Async<Result<void>> order(Request request) {
    PROA_CO_TRY_VOID(co_await ask(request, nullptr));
    co_return Result<void>();
  }

  Async<Result<Answer>> ask(Request request, const OwnedFd* fd) {
    using Reply = Result<Answer>;
    if (lost_) co_return unavailable("the launcher has gone");
    request.id = next_request_++;
    const int raw = fd != nullptr ? fd->get() : -1;
    while (!launcher::send_with_fds(socket_.fd(), &request, sizeof request, &raw, fd != nullptr ? 1 : 0)) {
      if (errno != EAGAIN) co_return unavailable("the launcher has gone");
      co_await socket_.writable();
    }
    const std::uint64_t id = request.id;
    Reply reply = co_await suspend<Reply>(loop_, [this, id](Resumer<Reply> resume) { asked_.emplace(id, resume); });
    if (!reply.ok()) co_return reply.error();
    if (reply->message.code != 0) co_return error_of(reply->message);
    co_return std::move(reply);
  }

  Async<> read_messages() {
    while (true) {
      Message message;
      int fds[launcher::kPassedFdsMax] = {-1, -1, -1, -1};
      std::size_t count = launcher::kPassedFdsMax;
      const ssize_t got = launcher::receive_with_fds(socket_.fd(), &message, sizeof message, fds, count);
      if (got < 0 && errno == EAGAIN) {
        co_await socket_.readable();
        continue;
      }
      Answer answer;
      for (std::size_t i = 0; i < count; ++i) answer.fds.push_back(std::make_shared<OwnedFd>(fds[i]));
      if (got != sizeof message) break;
      answer.message = message;
      if (message.kind == MessageKind::kExited) {
        if (const auto found = known_.find(message.slot); found != known_.end()) {
          found->second->exit = Exit{message.exit_code, message.oom != 0};
          found->second->changed.notify();
        }
        continue;
      }
      const auto asker = asked_.find(message.id);
      if (asker == asked_.end()) continue;
      const Resumer<Result<Answer>> resume = asker->second;
      asked_.erase(asker);
      resume(std::move(answer));
    }
    lost_ = true;
    log_.warning("launcher.lost");
    for (auto& [id, resume] : std::exchange(asked_, {})) resume(unavailable("the launcher has gone"));
    for (auto& [id, known] : known_) known->changed.notify();
    if (on_lost_) on_lost_();
  }

  RealLoop& loop_;
  Logger& log_;
  std::function<void()> on_lost_;
  WatchedFd socket_;
  std::uint64_t next_request_ = 1;
  bool lost_ = false;
  std::map<std::uint64_t, Resumer<Result<Answer>>> asked_;
  std::unordered_map<SlotId, std::unique_ptr<Known>> known_;
  Scope scope_;
};

}  // namespace

std::unique_ptr<LauncherRuntime> LauncherRuntime::create(RealLoop& loop, int socket_fd, Logger& log, std::function<void()> on_lost) {
  return std::make_unique<Implementation>(loop, socket_fd, log, std::move(on_lost));
}

}  // namespace proa::container
