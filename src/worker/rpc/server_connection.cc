// SPDX-License-Identifier: Apache-2.0
#include "worker/rpc/server_connection.h"

#include <algorithm>
#include <utility>

#include "base/codec.h"

namespace proa::worker {
namespace {

constexpr std::string_view kService = "/proa.worker.v1.Worker/";
// A server that accepts a call and does not answer it is as good as away.
constexpr Duration kCallMax = std::chrono::seconds(60);
constexpr Duration kDelayFirst = std::chrono::milliseconds(10);
constexpr Duration kDelayMost = std::chrono::seconds(1);
// A stream that lived for so long was good: the next attempt comes at once again.
constexpr Duration kGoodStream = std::chrono::seconds(2);
// Reports that go in one message.
constexpr std::size_t kReportsMax = 1000;

std::string method_path(std::string_view name) { return std::string(kService) + std::string(name); }

}  // namespace

Result<std::unique_ptr<ServerConnection>> ServerConnection::create(RealLoop& loop, Random& random, Logger& log,
                                                                   ServerAddress server) {
  const rpc::ClientOptions options{.address = server.address, .tls = std::nullopt};
  PROA_TRY(auto stream_client, rpc::Client::create(loop, options));
  PROA_TRY(auto call_client, rpc::Client::create(loop, options));
  return std::unique_ptr<ServerConnection>(
      new ServerConnection(loop, random, log, std::move(server), std::move(stream_client), std::move(call_client)));
}

ServerConnection::ServerConnection(Loop& loop, Random& random, Logger& log, ServerAddress server,
                                   std::unique_ptr<rpc::Client> stream_client, std::unique_ptr<rpc::Client> call_client)
    : loop_(loop),
      random_(random),
      log_(log),
      server_(std::move(server)),
      stream_client_(std::move(stream_client)),
      call_client_(std::move(call_client)),
      changed_(loop) {}

ServerConnection::~ServerConnection() { scope_.cancel_all(); }

rpc::Metadata ServerConnection::metadata() const {
  if (server_.token.empty()) return {};
  return {{"x-proa-worker-token", server_.token}};
}

// --- The stream ---

void ServerConnection::start(Listener& listener) {
  listener_ = &listener;
  scope_.spawn(run());
}

void ServerConnection::send(sched::Report report) {
  if (!up_) return;
  waiting_.push_back(std::move(report));
  changed_.notify();
}

Async<> ServerConnection::run() {
  Duration delay = kDelayFirst;
  while (true) {
    const Time begun = loop_.now();
    co_await session();
    if (loop_.now() - begun > kGoodStream) delay = kDelayFirst;
    // Up to half of it by chance, so that many workers do not come back as one.
    const auto jitter = static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(delay.count() / 2 + 1)));
    co_await sleep_for(loop_, delay + Duration(jitter));
    delay = std::min(delay * 2, kDelayMost);
  }
}

Async<> ServerConnection::session() {
  const std::unique_ptr<rpc::Stream> stream = stream_client_->stream(method_path("Session"), {.metadata = metadata()});
  struct Up {
    ServerConnection& connection;
    explicit Up(ServerConnection& of) : connection(of) {
      connection.up_ = true;
      connection.waiting_.clear();
      connection.listener_->on_connected();
    }
    Up(const Up&) = delete;
    Up& operator=(const Up&) = delete;
    ~Up() {
      connection.up_ = false;
      connection.waiting_.clear();
    }
  };
  {
    const Up up(*this);
    Scope writing;
    writing.spawn(write(stream.get()));
    while (true) {
      std::optional<Bytes> message = co_await stream->read();
      if (!message) break;
      Result<sched::Commands> commands = decode<sched::Commands>(*message);
      if (!commands.ok()) {
        log_.error("server.unreadable", {{"error", commands.error().message}});
        break;
      }
      if (!last_error_.empty()) log_.info("server.connected", {{"server", server_.address}});
      last_error_.clear();
      for (sched::Command& command : commands->commands) listener_->on_command(std::move(command));
    }
  }
  listener_->on_disconnected();
  const rpc::Ending ending = co_await stream->ended();
  const std::string why = ending.status.ok() ? "the server ended the stream" : ending.status.error().message;
  if (why != last_error_) {
    log_.warning("server.disconnected", {{"server", server_.address}, {"error", why}});
    last_error_ = why;
  }
}

Async<> ServerConnection::write(rpc::Stream* stream) {
  while (true) {
    if (waiting_.empty()) {
      co_await changed_.wait();
      continue;
    }
    sched::Reports message;
    const auto count = static_cast<std::ptrdiff_t>(std::min(waiting_.size(), kReportsMax));
    message.reports.assign(std::make_move_iterator(waiting_.begin()),
                           std::make_move_iterator(waiting_.begin() + count));
    waiting_.erase(waiting_.begin(), waiting_.begin() + count);
    if (!co_await stream->write(encode(message))) co_return;
  }
}

// --- The calls ---

Async<Result<Bytes>> ServerConnection::call(std::string method, Bytes request, Duration limit) {
  co_return co_await call_client_->unary(method_path(method), std::move(request),
                                         {.metadata = metadata(), .deadline = loop_.now() + limit});
}

Async<Result<sched::TaskOrder>> ServerConnection::fetch_task(TaskId task) {
  PROA_CO_TRY(const Bytes order, co_await call("FetchTask", encode(sched::FetchTask{.task = task}), kCallMax));
  co_return decode<sched::TaskOrder>(order);
}

Async<Result<control::Arguments>> ServerConnection::fetch_arguments(sched::LeaseId lease) {
  PROA_CO_TRY(const Bytes arguments, co_await call("FetchArguments", encode(lease), kCallMax));
  co_return decode<control::Arguments>(arguments);
}

Async<Result<void>> ServerConnection::put_outputs(WorkerId worker, std::vector<sched::Output> outputs) {
  const sched::PutOutputs request{.worker = worker, .outputs = std::move(outputs)};
  PROA_CO_TRY_VOID(co_await call("PutOutputs", encode(request), kCallMax));
  co_return Result<void>();
}

Async<Result<void>> ServerConnection::put_logs(WorkerId worker, std::vector<sched::LogLine> lines) {
  const sched::PutLogs request{.worker = worker, .lines = std::move(lines)};
  PROA_CO_TRY_VOID(co_await call("PutLogs", encode(request), kCallMax));
  co_return Result<void>();
}

Async<Result<sched::StepOrder>> ServerConnection::fetch_step(sched::StepId step) {
  const sched::StepResult named{.step = std::move(step)};
  PROA_CO_TRY(const Bytes order, co_await call("FetchStep", encode(named), kCallMax));
  co_return decode<sched::StepOrder>(order);
}

Async<Result<void>> ServerConnection::put_step_output(sched::StepOutput output) {
  PROA_CO_TRY_VOID(co_await call("PutStepOutput", encode(output), kCallMax));
  co_return Result<void>();
}

Async<Result<void>> ServerConnection::finish_step(sched::StepResult result) {
  PROA_CO_TRY_VOID(co_await call("FinishStep", encode(result), kCallMax));
  co_return Result<void>();
}

}  // namespace proa::worker
