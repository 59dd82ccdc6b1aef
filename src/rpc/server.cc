// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <fcntl.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <unordered_map>

#include "base/check.h"
#include "base/fd.h"
#include "rpc/grpc_bytes.h"
#include "rpc/waiter.h"

namespace proa::rpc {
namespace server_detail {
namespace {

// Status messages travel in a header, and clients refuse headers that are too long.
constexpr std::size_t kMessageBytesMax = 6000;
// What a read that waits for its message counts for: little, so that parked streams do not use a budget up.
constexpr std::size_t kPendingReadBytes = 4096;
// Descriptor numbers name connections to gRPC ("fd:17"). A number is not given to a peer of another kind before
// calls of its last owner, already on their way to us, must have arrived.
constexpr Duration kNumberRest = std::chrono::seconds(10);
constexpr int kFirstNumber = 32;
constexpr int kLastNumber = 1 << 17;

Time time_of(std::chrono::system_clock::time_point point) {
  // gRPC gives "no deadline" as a time far away, which must not overflow.
  const auto year = std::chrono::hours(24 * 365);
  if (point > std::chrono::system_clock::now() + 100 * year) return kNever;
  return std::chrono::time_point_cast<Duration>(point);
}

std::string host_of(const std::string& address) { return address.substr(0, address.rfind(':')); }

// Whose connections are counted together: a container's, or those from one address.
std::string counted_by(const ConnectionInfo& info) {
  return info.kind == ConnectionInfo::Kind::kContainer ? info.task : host_of(info.address);
}

}  // namespace

class Reactor;

// A call between gRPC and its coroutine. Created by a thread of gRPC, from begin() on used on the loop only.
struct CallState : std::enable_shared_from_this<CallState> {
  explicit CallState(ServerState& owner) : server(owner) {}
  ~CallState() {
    if (budget) budget->give(budget_used);
  }

  void begin(Handler& handler);
  void cancelled();
  void finish(Result<void> result);
  void read_done(bool ok);
  void write_done(bool ok);
  static Async<> run(std::shared_ptr<CallState> self, Handler& handler);

  ServerState& server;
  // Both belong to gRPC and are valid until finish() has been called, which happens exactly once.
  Reactor* reactor = nullptr;
  grpc::GenericCallbackServerContext* context = nullptr;

  std::string method;
  std::string host;
  std::shared_ptr<const ConnectionInfo> connection;
  Time deadline = kNever;
  ServerCall call{*this};
  std::shared_ptr<ByteBudget> budget;
  std::size_t budget_used = 0;

  // Filled by gRPC's thread before it posts.
  Bytes incoming;

  std::coroutine_handle<> reader;
  bool read_pending = false;
  bool read_ok = false;
  bool unread = false;  // A read is over that nobody waited for any more.
  bool at_end = false;  // The peer has sent all.
  std::coroutine_handle<> writer;
  bool write_pending = false;
  bool write_ok = false;

  bool finished = false;
  std::optional<Result<void>> finish_after_write;
  std::optional<Bytes> last;
  Bytes status_details;
  std::vector<std::pair<std::string, std::string>> trailers;

  // Last, so that the coroutine goes before what it uses.
  Scope scope;
};

class Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Reactor(std::shared_ptr<CallState> state) : state_(std::move(state)) {}
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void start_read() { StartRead(&read_buffer_); }
  void start_write(Bytes bytes) {
    write_buffer_ = to_buffer(std::move(bytes));
    StartWrite(&write_buffer_);
  }
  void finish_with(Bytes bytes) {
    last_buffer_ = to_buffer(std::move(bytes));
    StartWriteAndFinish(&last_buffer_, grpc::WriteOptions(), grpc::Status::OK);
  }

 private:
  std::shared_ptr<CallState> state_;
  grpc::ByteBuffer read_buffer_;
  grpc::ByteBuffer write_buffer_;
  grpc::ByteBuffer last_buffer_;
};

struct ServerState : std::enable_shared_from_this<ServerState> {
  ServerState(Loop& on, Handler& with, ServerOptions chosen) : loop(on), handler(with), options(chosen) {}

  struct Slot {
    ino_t inode = 0;
    bool open = false;
    Time added{};
    std::shared_ptr<const ConnectionInfo> info;
  };

  class Service final : public grpc::CallbackGenericService {
   public:
    explicit Service(ServerState& owner) : owner_(owner) {}
    grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
      return owner_.create_reactor(context);
    }

   private:
    ServerState& owner_;
  };

  grpc::ServerGenericBidiReactor* create_reactor(grpc::GenericCallbackServerContext* context);
  std::shared_ptr<const ConnectionInfo> connection_of(const std::string& peer);
  Result<void> add_connection(int fd, ConnectionInfo info);
  void sweep();
  void begin_pending();
  void stop();

  Loop& loop;
  Handler& handler;
  const ServerOptions options;
  ServerProbe probe;

  std::mutex mutex;  // Guards what threads of gRPC and acceptors share: the next seven.
  bool stopped = false;
  std::vector<std::shared_ptr<CallState>> pending;  // Created, and not begun on the loop yet.
  bool begin_posted = false;
  std::vector<Slot> slots;  // By descriptor number.
  std::size_t open_count = 0;
  std::unordered_map<std::string, std::size_t> open_by_host;
  int next_number = kFirstNumber;

  // On the loop only.
  std::unordered_map<CallState*, std::shared_ptr<CallState>> calls;

  Service service{*this};
  std::unique_ptr<grpc::Server> server;
};

void Reactor::OnReadDone(bool ok) {
  if (ok) {
    state_->incoming = from_buffer(read_buffer_);
    read_buffer_.Clear();
  }
  state_->server.loop.post([state = state_, ok] { state->read_done(ok); });
}

void Reactor::OnWriteDone(bool ok) {
  state_->server.loop.post([state = state_, ok] { state->write_done(ok); });
}

void Reactor::OnCancel() {
  state_->server.loop.post([state = state_] { state->cancelled(); });
}

void Reactor::OnDone() {
  state_->server.loop.post([state = state_, server = state_->server.shared_from_this()] {
    server->calls.erase(state.get());
    server->probe.calls_active.fetch_sub(1, std::memory_order_relaxed);
  });
  delete this;
}

void CallState::begin(Handler& handler) { scope.spawn(run(shared_from_this(), handler)); }

Async<> CallState::run(std::shared_ptr<CallState> self, Handler& handler) {
  Result<void> result = co_await handler.handle(self->call);
  self->finish(std::move(result));
}

void CallState::cancelled() {
  if (finished) return;
  server.probe.calls_cancelled.fetch_add(1, std::memory_order_relaxed);
  const std::shared_ptr<CallState> self = shared_from_this();
  scope.cancel_all();
  finish_after_write.reset();
  finish(Error{Code::kCancelled, "the call was cancelled"});
}

void CallState::finish(Result<void> result) {
  if (finished) return;
  if (result.ok() && last && write_pending) {
    finish_after_write = std::move(result);
    return;
  }
  finished = true;
  for (const auto& [name, value] : trailers) context->AddTrailingMetadata(name, value);
  if (result.ok()) {
    if (last) {
      server.probe.bytes_written.fetch_add(last->size(), std::memory_order_relaxed);
      reactor->finish_with(*std::move(last));
    } else {
      reactor->Finish(grpc::Status::OK);
    }
    return;
  }
  const Error& error = result.error();
  // An error without a code would read as success.
  const Code code = error.code == Code::kOk ? Code::kUnknown : error.code;
  reactor->Finish(
      grpc::Status(static_cast<grpc::StatusCode>(code), error.message.substr(0, kMessageBytesMax), status_details));
}

void CallState::read_done(bool ok) {
  read_pending = false;
  read_ok = ok;
  if (!ok) at_end = true;
  unread = true;
  if (const auto waiting = std::exchange(reader, nullptr)) waiting.resume();
}

void CallState::write_done(bool ok) {
  write_pending = false;
  write_ok = ok;
  if (finish_after_write && !finished) {
    Result<void> result = *std::exchange(finish_after_write, std::nullopt);
    finish(std::move(result));
    return;
  }
  if (const auto waiting = std::exchange(writer, nullptr)) waiting.resume();
}

grpc::ServerGenericBidiReactor* ServerState::create_reactor(grpc::GenericCallbackServerContext* context) {
  auto state = std::make_shared<CallState>(*this);
  auto* reactor = new Reactor(state);
  state->reactor = reactor;
  state->context = context;
  state->method = context->method();
  state->host = context->host();
  state->deadline = time_of(context->deadline());
  state->connection = connection_of(context->peer());
  probe.calls_started.fetch_add(1, std::memory_order_relaxed);
  probe.calls_active.fetch_add(1, std::memory_order_relaxed);

  const std::lock_guard lock(mutex);
  if (stopped || !state->connection) {
    state->finished = true;
    reactor->Finish(stopped ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is stopping")
                            : grpc::Status(grpc::StatusCode::INTERNAL, "the call came by an unknown connection"));
    return reactor;
  }
  pending.push_back(std::move(state));
  if (!std::exchange(begin_posted, true)) {
    loop.post([self = shared_from_this()] { self->begin_pending(); });
  }
  return reactor;
}

void ServerState::begin_pending() {
  std::vector<std::shared_ptr<CallState>> batch;
  {
    const std::lock_guard lock(mutex);
    batch.swap(pending);
    begin_posted = false;
    if (stopped) return;  // stop() has ended those that were pending.
  }
  for (std::shared_ptr<CallState>& state : batch) {
    CallState& call = *state;
    calls.emplace(&call, std::move(state));
    call.begin(handler);
  }
}

std::shared_ptr<const ConnectionInfo> ServerState::connection_of(const std::string& peer) {
  constexpr std::string_view kPrefix = "fd:";
  int number = -1;
  if (!peer.starts_with(kPrefix)) return nullptr;
  std::from_chars(peer.data() + kPrefix.size(), peer.data() + peer.size(), number);
  const std::lock_guard lock(mutex);
  if (number < 0 || static_cast<std::size_t>(number) >= slots.size()) return nullptr;
  return slots[static_cast<std::size_t>(number)].info;
}

// Finds out which connections gRPC has closed since: their numbers are free or name another file.
void ServerState::sweep() {
  open_count = 0;
  open_by_host.clear();
  for (std::size_t number = 0; number < slots.size(); ++number) {
    Slot& slot = slots[number];
    if (!slot.open) continue;
    struct stat status{};
    slot.open = ::fstat(static_cast<int>(number), &status) == 0 && status.st_ino == slot.inode;
    if (!slot.open) continue;
    ++open_count;
    if (slot.info->kind != ConnectionInfo::Kind::kLocal) ++open_by_host[counted_by(*slot.info)];
  }
}

Result<void> ServerState::add_connection(int fd, ConnectionInfo info) {
  const OwnedFd given(fd);
  int number = -1;
  {
    const std::lock_guard lock(mutex);
    if (stopped) return unavailable("the server is stopping");
    const bool is_tcp = info.kind == ConnectionInfo::Kind::kTcp;
    const bool is_container = info.kind == ConnectionInfo::Kind::kContainer;
    const std::string peer_host = host_of(info.address);
    const std::string counted = counted_by(info);
    const auto is_full = [&] {
      return open_count >= options.connections_max ||
             (is_tcp && open_by_host[counted] >= options.connections_per_address_max) ||
             (is_container && open_by_host[counted] >= options.connections_per_container_max);
    };
    if (is_full()) sweep();
    if (is_full()) {
      probe.connections_refused.fetch_add(1, std::memory_order_relaxed);
      return resource_exhausted("there are too many connections, from " + counted + " or in all");
    }

    const Time now = loop.now();
    // Numbers go round, so that one is used again as late as possible.
    for (int attempt = 0; attempt < 64 && number < 0; ++attempt) {
      number = ::fcntl(fd, F_DUPFD_CLOEXEC, next_number);
      if (number > kLastNumber || (number < 0 && (errno == EINVAL || errno == EMFILE))) {
        if (number >= 0) ::close(number);
        number = ::fcntl(fd, F_DUPFD_CLOEXEC, kFirstNumber);
      }
      if (number < 0) break;
      next_number = number + 1;
      if (slots.size() <= static_cast<std::size_t>(number)) slots.resize(static_cast<std::size_t>(number) + 1);
      const Slot& before = slots[static_cast<std::size_t>(number)];
      const bool same_rights = before.info && is_tcp && before.info->kind == info.kind &&
                               before.info->secure == info.secure && host_of(before.info->address) == peer_host;
      if (before.info && !same_rights && now - before.added < kNumberRest) {
        ::close(number);
        number = -1;
      }
    }
    if (number < 0) {
      probe.connections_refused.fetch_add(1, std::memory_order_relaxed);
      return resource_exhausted("no descriptor is left for a connection from " + info.address);
    }
    Slot& slot = slots[static_cast<std::size_t>(number)];
    struct stat status{};
    ::fstat(number, &status);
    slot = Slot{status.st_ino, true, now, std::make_shared<const ConnectionInfo>(std::move(info))};
    ++open_count;
    if (is_tcp || is_container) ++open_by_host[counted];
  }
  const int on = 1;
  ::setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // Fails on a unix socket, which has no delay.
  ::fcntl(number, F_SETFL, ::fcntl(number, F_GETFL) | O_NONBLOCK);
  probe.connections_accepted.fetch_add(1, std::memory_order_relaxed);
  grpc::AddInsecureChannelFromFd(server.get(), number);
  return {};
}

void ServerState::stop() {
  std::vector<std::shared_ptr<CallState>> never_begun;
  {
    const std::lock_guard lock(mutex);
    stopped = true;
    never_begun.swap(pending);
  }
  const Error stopping = unavailable("the server is stopping");
  for (const auto& state : never_begun) state->finish(stopping);
  for (const auto& [pointer, state] : calls) {
    state->scope.cancel_all();
    state->finish_after_write.reset();
    state->finish(stopping);
  }
  // Waits for OnDone of every call; from then on gRPC has no reference to anything of ours.
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  calls.clear();
}

}  // namespace server_detail

namespace {

using server_detail::CallState;

struct TimerGuard {
  Loop& loop;
  Loop::TimerId timer = 0;
  ~TimerGuard() {
    if (timer != 0) loop.cancel(timer);
  }
};

}  // namespace

const std::string& ServerCall::method() const { return state_.method; }
const std::string& ServerCall::host() const { return state_.host; }
const ConnectionInfo& ServerCall::connection() const { return *state_.connection; }
Time ServerCall::deadline() const { return state_.deadline; }

std::optional<std::string_view> ServerCall::metadata(std::string_view key) const {
  const auto& all = state_.context->client_metadata();
  const auto place = all.find(grpc::string_ref(key.data(), key.size()));
  if (place == all.end()) return std::nullopt;
  return std::string_view(place->second.data(), place->second.size());
}

std::vector<std::pair<std::string, std::string>> ServerCall::all_metadata() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& [key, value] : state_.context->client_metadata()) {
    all.emplace_back(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  }
  return all;
}

Async<Result<std::optional<Bytes>>> ServerCall::read(Duration patience) {
  CallState& state = state_;
  PROA_CHECK(!state.reader);
  if (state.at_end) co_return std::optional<Bytes>();
  if (state.budget && !state.unread) {
    co_await state.budget->room();
    state.budget->take(server_detail::kPendingReadBytes);
    state.budget_used += server_detail::kPendingReadBytes;
  }
  if (!state.read_pending && !state.unread) {
    state.read_pending = true;
    state.reactor->start_read();
  }
  if (!state.unread) {
    TimerGuard guard{state.server.loop};
    if (patience != Duration::max()) {
      guard.timer = state.server.loop.at(state.server.loop.now() + patience, [&state] {
        if (const auto waiting = std::exchange(state.reader, nullptr)) waiting.resume();
      });
    }
    co_await Waiter{state.reader};
    if (state.budget) {
      state.budget->give(server_detail::kPendingReadBytes);
      state.budget_used -= server_detail::kPendingReadBytes;
    }
  }
  if (!std::exchange(state.unread, false)) co_return deadline_exceeded("the request's message did not arrive in time");
  if (!state.read_ok) co_return std::optional<Bytes>();
  Bytes message = std::move(state.incoming);
  state.incoming = Bytes();
  state.server.probe.bytes_read.fetch_add(message.size(), std::memory_order_relaxed);
  if (state.budget) {
    state.budget->take(message.size());
    state.budget_used += message.size();
  }
  co_return std::optional<Bytes>(std::move(message));
}

Async<bool> ServerCall::write(Bytes message) {
  CallState& state = state_;
  PROA_CHECK(!state.write_pending && !state.last);
  state.server.probe.bytes_written.fetch_add(message.size(), std::memory_order_relaxed);
  state.write_pending = true;
  state.reactor->start_write(std::move(message));
  co_await Waiter{state.writer};
  co_return state.write_ok;
}

void ServerCall::write_last(Bytes message) {
  PROA_CHECK(!state_.last);
  state_.last.emplace(std::move(message));
}

void ServerCall::add_trailer(std::string_view name, std::string_view value) {
  state_.trailers.emplace_back(name, value);
}
void ServerCall::set_status_details(Bytes details) { state_.status_details = std::move(details); }
void ServerCall::set_budget(std::shared_ptr<ByteBudget> budget) {
  PROA_CHECK(!state_.budget);
  state_.budget = std::move(budget);
}

Result<std::unique_ptr<Server>> Server::create(Loop& loop, Handler& handler, ServerOptions options) {
  auto state = std::make_shared<server_detail::ServerState>(loop, handler, options);
  const auto milliseconds = [](Duration duration) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
  };
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&state->service);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.message_bytes_max));
  builder.SetMaxSendMessageSize(-1);
  // Clients cannot read compressed answers, and a compressed request may be a bomb.
  builder.SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_max);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(options.metadata_bytes_max));
  // What a stream may send before anybody reads it. It grows with the measured bandwidth and with the size of
  // the message that is being read; more to begin with would only be memory that a peer can fill.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  // Clients ping every 30 s, with and without calls; an answer of "too many pings" ends all calls of a connection.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  if (options.keepalive_time > Duration(0)) {
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(options.keepalive_time));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds(options.keepalive_timeout));
  }
  state->server = builder.BuildAndStart();
  if (!state->server) return internal_error("gRPC did not start a server");
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::~Server() { state_->stop(); }

Result<void> Server::add_connection(int fd, ConnectionInfo info) { return state_->add_connection(fd, std::move(info)); }

const ServerProbe& Server::probe() const { return state_->probe; }

}  // namespace proa::rpc
