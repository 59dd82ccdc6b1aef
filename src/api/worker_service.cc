// SPDX-License-Identifier: Apache-2.0
#include "api/worker_service.h"

#include <deque>

#include "base/codec.h"

namespace proa::api {
namespace {

// One worker's stream: commands wait here for the transport.
class StreamLink final : public sched::WorkerLink {
 public:
  explicit StreamLink(Loop& loop) : changed_(loop) {}
  void send(std::vector<sched::Command> commands) override {
    for (sched::Command& command : commands) waiting_.push_back(std::move(command));
    changed_.notify();
  }
  void close(std::string why) override {
    closed_ = std::move(why);
    changed_.notify();
  }
  // Writes what waits until the peer is gone or the link is closed.
  static Async<> write(std::shared_ptr<StreamLink> self, rpc::ServerCall& call) {
    while (!self->closed_) {
      if (self->waiting_.empty()) {
        co_await self->changed_.wait();
        continue;
      }
      sched::Commands message;
      message.commands.assign(std::make_move_iterator(self->waiting_.begin()), std::make_move_iterator(self->waiting_.end()));
      self->waiting_.clear();
      if (!co_await call.write(encode(message))) co_return;
    }
  }
  const std::optional<std::string>& closed() const { return closed_; }

 private:
  Signal changed_;
  std::deque<sched::Command> waiting_;
  std::optional<std::string> closed_;
};

// Tells the scheduler when the stream is over, however that comes about.
struct Connected {
  sched::Scheduler& scheduler;
  std::shared_ptr<StreamLink> link;
  ~Connected() { scheduler.disconnected(*link); }
};

}  // namespace

Result<void> WorkerService::check(const rpc::ServerCall& call) const {
  if (call.connection().kind == rpc::ConnectionInfo::Kind::kLocal) return {};
  const auto given = call.metadata("x-proa-worker-token");
  if (!token_.empty() && given && equal_in_constant_time(*given, token_)) return {};
  return unauthenticated("this service is for workers: the token of `proa worker --token` is missing or wrong");
}

Async<Result<void>> WorkerService::handle(rpc::ServerCall& call) {
  PROA_CO_TRY_VOID(check(call));
  const std::string method = call.method().substr(std::string_view(kPrefix).size());
  if (method == "Session") co_return co_await session(call);
  PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(std::chrono::seconds(60)));
  if (!request) co_return invalid_argument("the request is missing");
  PROA_CO_TRY(Bytes response, co_await answer(method, std::move(*request)));
  call.write_last(std::move(response));
  co_return Result<void>();
}

Async<Result<void>> WorkerService::session(rpc::ServerCall& call) {
  auto link = std::make_shared<StreamLink>(loop_);
  const Connected connected{scheduler_, link};
  Scope writing;
  writing.spawn(StreamLink::write(link, call));
  while (true) {
    PROA_CO_TRY(std::optional<Bytes> message, co_await call.read());
    if (!message) co_return Result<void>();
    PROA_CO_TRY(sched::Reports reports, decode<sched::Reports>(*message));
    for (sched::Report& report : reports.reports) scheduler_.report(*link, std::move(report));
    if (link->closed()) co_return failed_precondition(*link->closed());
  }
}

Async<Result<Bytes>> WorkerService::answer(std::string method, Bytes request) {
  if (method == "FetchTask") {
    PROA_CO_TRY(const sched::FetchTask fetch, decode<sched::FetchTask>(request));
    PROA_CO_TRY(const sched::TaskOrder order, co_await scheduler_.fetch_task(fetch.task));
    co_return encode(order);
  }
  if (method == "FetchArguments") {
    PROA_CO_TRY(const sched::LeaseId lease, decode<sched::LeaseId>(request));
    PROA_CO_TRY(const control::Arguments arguments, co_await scheduler_.fetch_arguments(lease));
    co_return encode(arguments);
  }
  if (method == "PutOutputs") {
    PROA_CO_TRY(sched::PutOutputs put, decode<sched::PutOutputs>(request));
    PROA_CO_TRY_VOID(co_await scheduler_.put_outputs(put.worker, std::move(put.outputs)));
    co_return Bytes();
  }
  if (method == "PutLogs") {
    PROA_CO_TRY(sched::PutLogs put, decode<sched::PutLogs>(request));
    PROA_CO_TRY_VOID(co_await put_logs_(std::move(put.lines)));
    co_return Bytes();
  }
  if (method == "FetchStep") {
    PROA_CO_TRY(const sched::StepResult named, decode<sched::StepResult>(request));
    PROA_CO_TRY(const sched::StepOrder order, co_await steps_.fetch_step(named.step));
    co_return encode(order);
  }
  if (method == "PutStepOutput") {
    PROA_CO_TRY(sched::StepOutput output, decode<sched::StepOutput>(request));
    PROA_CO_TRY_VOID(co_await steps_.put_step_output(std::move(output)));
    co_return Bytes();
  }
  if (method == "FinishStep") {
    PROA_CO_TRY(sched::StepResult result, decode<sched::StepResult>(request));
    PROA_CO_TRY_VOID(co_await steps_.finish_step(std::move(result)));
    co_return Bytes();
  }
  co_return unimplemented("workers have no method " + method);
}

}  // namespace proa::api
