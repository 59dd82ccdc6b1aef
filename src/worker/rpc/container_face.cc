// SPDX-License-Identifier: Apache-2.0
#include "worker/rpc/container_face.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "worker/backoff.h"
#include "worker/rpc/blob_relay.h"

namespace proa::worker {
namespace {

constexpr Duration kRequestPatience = std::chrono::seconds(60);
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);

// What of a container's metadata reaches the server. Everything else, credentials above all, does not.
constexpr std::array kForwarded = std::to_array<std::string_view>({
    "x-idempotency-key",
    "x-modal-client-type",
    "x-modal-client-version",
    "x-modal-libmodal-version",
    "x-modal-python-version",
    "x-modal-timestamp",
    "x-proa-client-version",
    "x-retry-attempt",
    "x-retry-delay",
    "x-throttle-retry-attempt",
});

struct Counted {
  std::size_t& count;
  explicit Counted(std::size_t& of) : count(of) { ++count; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --count; }
};

}  // namespace

// Accepts on a container's two sockets for as long as it lives.
class ContainerFace::OpenDoor final : public Door {
 public:
  OpenDoor(ContainerFace& face, std::string task)
      : face_(face), task_(std::move(task)), relay_(face.loop_, face.log_, face.server_.blobs) {}
  ~OpenDoor() override { face_.containers_.erase(task_); }

  void serve(container::OwnedFd api_listener, container::OwnedFd blob_listener) {
    if (api_listener.valid()) scope_.spawn(accept_calls(api_listener.release()));
    if (blob_listener.valid()) scope_.spawn(relay_.serve(blob_listener.release(), face_.limits_.blob_connections_max));
  }

 private:
  Async<> accept_calls(int listener) {
    WatchedFd watched(face_.loop_, listener);
    while (true) {
      const int fd = ::accept4(watched.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        const Result<void> added = face_.rpc_server_->add_connection(
            fd, {.kind = rpc::ConnectionInfo::Kind::kContainer, .address = "", .task = task_});
        if (!added.ok()) {
          face_.log_.warning("container.refused", {{"task", task_}, {"error", added.error().message}});
        }
      } else if (errno == EAGAIN) {
        co_await watched.readable();
      } else if (errno != EINTR && errno != ECONNABORTED) {
        // No descriptor is left, most likely; some will be.
        co_await sleep_for(face_.loop_, kAcceptPause);
      }
    }
  }

  ContainerFace& face_;
  std::string task_;
  BlobRelay relay_;
  Scope scope_;
};

Result<std::unique_ptr<ContainerFace>> ContainerFace::create(RealLoop& loop, Logger& log, ServerAddress server,
                                                             ContainerLimits limits) {
  PROA_TRY(auto client, rpc::Client::create(loop, {.address = server.address, .tls = std::nullopt}));
  std::unique_ptr<ContainerFace> face(new ContainerFace(loop, log, std::move(server), limits, std::move(client)));
  rpc::ServerOptions options;
  options.keepalive_time = Duration(0);  // Unix sockets end with their peers.
  PROA_TRY(face->rpc_server_, rpc::Server::create(loop, *face, options));
  return face;
}

ContainerFace::ContainerFace(RealLoop& loop, Logger& log, ServerAddress server, ContainerLimits limits,
                             std::unique_ptr<rpc::Client> client)
    : loop_(loop), log_(log), server_(std::move(server)), limits_(limits), client_(std::move(client)) {}

ContainerFace::~ContainerFace() = default;

std::unique_ptr<Door> ContainerFace::open(std::shared_ptr<Task> task, container::OwnedFd api_listener,
                                          container::OwnedFd blob_listener) {
  const std::string id = task->id().text();
  auto state = std::make_shared<ContainerState>();
  state->task = std::move(task);
  state->budget = std::make_shared<rpc::ByteBudget>(loop_, limits_.bytes_max);
  containers_.insert_or_assign(id, std::move(state));
  auto door = std::make_unique<OpenDoor>(*this, id);
  door->serve(std::move(api_listener), std::move(blob_listener));
  return door;
}

Async<Result<void>> ContainerFace::handle(rpc::ServerCall& call) {
  const auto found = containers_.find(call.connection().task);
  if (found == containers_.end()) co_return Error{Code::kCancelled, "the container has ended"};
  std::shared_ptr<ContainerState> container = found->second;
  const std::string full = call.method();
  const auto wire =
      std::find_if(wires_.begin(), wires_.end(), [&](const auto& one) { return full.starts_with(one->prefix()); });
  if (wire == wires_.end()) co_return unimplemented("containers have no method " + full);
  if (container->calls >= limits_.calls_max) {
    co_return resource_exhausted("this container has " + std::to_string(container->calls) +
                                 " calls under way, which is the most it may have");
  }
  const Counted counted(container->calls);
  call.set_budget(container->budget);
  const std::string method = full.substr((*wire)->prefix().size());
  switch ((*wire)->route(*container->task, method)) {
    case WireFace::Route::kLocal: co_return co_await serve_local(call, **wire, container, method);
    case WireFace::Route::kForward: co_return co_await forward(call, container);
    case WireFace::Route::kForwardStream: co_return co_await forward_stream(call, container);
    case WireFace::Route::kRefuse: break;
  }
  co_return permission_denied(method + " is not open to this container: its function was declared untrusted");
}

Async<Result<void>> ContainerFace::serve_local(rpc::ServerCall& call, WireFace& wire,
                                               std::shared_ptr<ContainerState> container, std::string method) {
  PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(kRequestPatience));
  if (!request) co_return invalid_argument("the request is missing");
  std::string key(call.metadata("x-idempotency-key").value_or(""));
  PROA_CO_TRY(Bytes answer,
              co_await wire.serve(std::move(container), std::move(method), std::move(*request), std::move(key)));
  call.write_last(std::move(answer));
  co_return Result<void>();
}

rpc::Metadata ContainerFace::forwarded_metadata(const rpc::ServerCall& call, const Task& task) const {
  rpc::Metadata metadata{{"x-proa-task", task.id().text()}};
  if (!server_.token.empty()) metadata.emplace_back("x-proa-worker-token", server_.token);
  for (const std::string_view name : kForwarded) {
    if (const auto value = call.metadata(name)) metadata.emplace_back(name, *value);
  }
  return metadata;
}

Async<Result<void>> ContainerFace::forward(rpc::ServerCall& call, std::shared_ptr<ContainerState> container) {
  PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(kRequestPatience));
  if (!request) co_return invalid_argument("the request is missing");
  const rpc::Metadata metadata = forwarded_metadata(call, *container->task);
  const Time give_up = loop_.now() + limits_.server_absence_max;
  Backoff backoff;
  while (true) {
    rpc::UnaryReply reply = co_await client_->unary_with_trailers(call.method(), *request,
                                                                  {.metadata = metadata, .deadline = call.deadline()});
    // The calls carry keys under which the server remembers them, so that a second one does no harm.
    const bool away = !reply.ending.status.ok() && reply.ending.status.error().code == Code::kUnavailable;
    if (away && reply.ending.status_details.empty() && loop_.now() < give_up && !container->task->ended()) {
      co_await sleep_for(loop_, backoff.next());
      continue;
    }
    for (const auto& [name, value] : reply.ending.trailers) {
      if (name.starts_with("x-modal-")) call.add_trailer(name, value);
    }
    if (!reply.ending.status.ok()) {
      call.set_status_details(std::move(reply.ending.status_details));
      co_return std::move(reply.ending.status).error();
    }
    call.write_last(std::move(reply.message));
    co_return Result<void>();
  }
}

Async<Result<void>> ContainerFace::forward_stream(rpc::ServerCall& call, std::shared_ptr<ContainerState> container) {
  PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(kRequestPatience));
  if (!request) co_return invalid_argument("the request is missing");
  const rpc::Metadata metadata = forwarded_metadata(call, *container->task);
  const Time give_up = loop_.now() + limits_.server_absence_max;
  Backoff backoff;
  bool begun = false;
  while (true) {
    const std::unique_ptr<rpc::Stream> stream =
        client_->stream(call.method(), {.metadata = metadata, .deadline = call.deadline()});
    if (co_await stream->write(*request)) stream->writes_done();
    while (std::optional<Bytes> message = co_await stream->read()) {
      begun = true;
      if (!co_await call.write(std::move(*message))) co_return Error{Code::kCancelled, "the container went away"};
    }
    rpc::Ending ending = co_await stream->ended();
    // Once something has come, only the container knows from where to go on.
    const bool away = !ending.status.ok() && ending.status.error().code == Code::kUnavailable;
    if (away && !begun && ending.status_details.empty() && loop_.now() < give_up && !container->task->ended()) {
      co_await sleep_for(loop_, backoff.next());
      continue;
    }
    for (const auto& [name, value] : ending.trailers) {
      if (name.starts_with("x-modal-")) call.add_trailer(name, value);
    }
    call.set_status_details(std::move(ending.status_details));
    co_return std::move(ending.status);
  }
}

}  // namespace proa::worker
