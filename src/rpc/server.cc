// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <array>
#include <coroutine>
#include <limits>
#include <mutex>
#include <unordered_map>

#include "base/check.h"
#include "base/fd.h"
#include "rpc/http2.h"
#include "rpc/waiter.h"

namespace proa::rpc {
namespace server_detail {
namespace {

// Status messages travel in a header, and clients refuse headers that are too long.
constexpr std::size_t kMessageBytesMax = 6000;
// What a read that waits for its message counts for: little, so that parked streams do not use a budget up.
constexpr std::size_t kPendingReadBytes = 4096;
// Of a connection: what its calls may send together before anybody reads. Our own processes carry many callers' calls
// on one connection, where one who is not read must not stand in the way of the others.
constexpr std::int32_t kWindowBytes = 16 << 20;
constexpr std::int32_t kLocalWindowBytes = 256 << 20;
// How often a peer may reset calls: all it may have at once, and then as many each second as no honest one will.
constexpr std::uint64_t kResetsPerSecond = 1'000;

std::string host_of(const std::string& address) { return address.substr(0, address.rfind(':')); }

// Whose connections are counted together: a container's, or those from one address.
std::string counted_by(const ConnectionInfo& info) {
  return info.kind == ConnectionInfo::Kind::kContainer ? info.task : host_of(info.address);
}

// "application/grpc", with what may follow it.
bool is_grpc(std::string_view content_type) {
  constexpr std::string_view kGrpc = "application/grpc";
  if (!content_type.starts_with(kGrpc)) return false;
  content_type.remove_prefix(kGrpc.size());
  return content_type.empty() || content_type.front() == '+' || content_type.front() == ';';
}

const nghttp2_nv kHttpOk = http2::constant_field(":status", "200");
const nghttp2_nv kContentType = http2::constant_field("content-type", "application/grpc");

}  // namespace

class ServerConnection;

// A call between its stream and its coroutine.
struct CallState final : http2::Stream {
  CallState(ServerState& owner, std::shared_ptr<const ConnectionInfo> from);
  ~CallState() override {
    if (budget) budget->give(budget_used);
  }

  void begin();
  Result<void> check() const;
  void finish(Result<void> result);
  // The handler is destroyed where it waits.
  void cut(Error why);
  void write(Bytes message);
  void respond();
  void respond_with_http(std::string_view code);
  enum class Alone : std::uint8_t { kYes, kNo };  // Whether nothing else is said in the answer.
  void submit_end(Alone alone);
  void fail_soon() { notify(kReadable); }
  std::string_view text(std::size_t at, std::size_t size) const {
    return std::string_view(fields_text).substr(at, size);
  }
  static Async<> run(std::shared_ptr<CallState> self);

  void on_field(std::string_view name, std::string_view value) override;
  void on_fields_end() override;
  bool submit_trailers() override;
  void on_events(unsigned events) override;

  ServerState& server;
  std::shared_ptr<const ConnectionInfo> info;

  struct Field {
    std::uint32_t name_at;
    std::uint32_t name_size;
    std::uint32_t value_at;
    std::uint32_t value_size;
  };
  // The metadata, all texts in one: it is not touched once the handler runs.
  std::string fields_text;
  std::vector<Field> fields;
  std::size_t fields_bytes = 0;
  bool fields_done = false;
  bool fields_too_big = false;
  bool fields_bad = false;
  bool is_post = false;
  std::string method;
  std::string host;
  std::string content_type;
  std::string encoding;
  std::string timeout;
  Time deadline = kNever;

  ServerCall call{*this};
  std::shared_ptr<ByteBudget> budget;
  std::size_t budget_used = 0;
  std::coroutine_handle<> reader;
  std::coroutine_handle<> writer;

  bool begun = false;
  bool finished = false;
  bool responded = false;
  std::optional<Bytes> last;
  Result<void> status;
  Bytes status_details;
  http2::Fields trailers;

  // Last, so that the coroutine goes before what it uses.
  Scope scope;
};

struct ServerState : std::enable_shared_from_this<ServerState> {
  ServerState(RealLoop& on, Handler& with, ServerOptions chosen)
      : loop(on), handler(with), options(chosen), deadlines(on) {}

  Result<void> add_connection(int fd, ConnectionInfo info);
  void serve(OwnedFd fd, std::shared_ptr<const ConnectionInfo> info);
  void uncount(const ConnectionInfo& info);
  void stop();

  RealLoop& loop;
  Handler& handler;
  const ServerOptions options;
  ServerProbe probe;

  std::mutex mutex;  // For these three.
  bool stopped = false;
  std::size_t open_count = 0;
  std::unordered_map<std::string, std::size_t> open_by_host;

  // On the loop only.
  http2::Scratch scratch;
  http2::Deadlines deadlines;
  std::unordered_map<ServerConnection*, std::shared_ptr<ServerConnection>> connections;
};

class ServerConnection final : public http2::Connection {
 public:
  ServerConnection(std::shared_ptr<ServerState> server, OwnedFd fd, std::shared_ptr<const ConnectionInfo> info,
                   http2::ConnectionOptions options)
      : Connection(server->loop, server->scratch, std::move(fd), plain_wire(), options),
        server_(std::move(server)),
        info_(std::move(info)) {}

 protected:
  std::shared_ptr<http2::Stream> make_stream() override { return std::make_shared<CallState>(*server_, info_); }
  void on_closed() override {
    server_->uncount(*info_);
    const auto found = server_->connections.find(this);
    PROA_CHECK(found != server_->connections.end());
    loop().post([keep = std::move(found->second)] {});
    server_->connections.erase(found);
  }

 private:
  const std::shared_ptr<ServerState> server_;
  const std::shared_ptr<const ConnectionInfo> info_;
};

// --- A call ---

CallState::CallState(ServerState& owner, std::shared_ptr<const ConnectionInfo> from)
    : Stream(owner.options.message_bytes_max), server(owner), info(std::move(from)) {}

void CallState::on_field(std::string_view name, std::string_view value) {
  if (fields_done) return;               // Trailers of a request mean nothing in gRPC.
  constexpr std::size_t kOverhead = 32;  // As HTTP/2 counts.
  fields_bytes += name.size() + value.size() + kOverhead;
  if (fields_bytes > server.options.metadata_bytes_max) {
    fields_too_big = true;
    return;
  }
  if (name == ":path") {
    method = value;
  } else if (name == ":authority" || (name == "host" && host.empty())) {
    host = value;
  } else if (name == ":method") {
    is_post = value == "POST";
  } else if (name == "content-type") {
    content_type = value;
  } else if (name == "grpc-encoding") {
    encoding = value;
  } else if (name == "grpc-timeout") {
    timeout = value;
  } else if (!http2::is_protocol_field(name)) {
    const auto add = [this](std::string_view key, std::string_view content) {
      if (fields.empty()) {
        fields_text.reserve(768);
        fields.reserve(16);
      }
      const auto at = static_cast<std::uint32_t>(fields_text.size());
      const auto key_size = static_cast<std::uint32_t>(key.size());
      fields.push_back({at, key_size, at + key_size, static_cast<std::uint32_t>(content.size())});
      fields_text.append(key).append(content);
    };
    if (http2::is_binary(name)) {
      const auto decoded = http2::decode_binary(value);
      fields_bad = fields_bad || !decoded.ok();
      if (decoded.ok()) add(name, *decoded);
    } else {
      add(name, value);
    }
  }
}

void CallState::on_fields_end() {
  if (std::exchange(fields_done, true)) return;
  notify(kBegun);
}

Result<void> CallState::check() const {
  if (fields_too_big) {
    return resource_exhausted("the call's metadata has more than " + std::to_string(server.options.metadata_bytes_max) +
                              " bytes, which is the most this server takes");
  }
  if (!encoding.empty() && encoding != "identity") {
    return unimplemented("the call's messages are compressed with " + encoding.substr(0, 32) +
                         ", which this server does not read: send them as they are");
  }
  if (fields_bad) return invalid_argument("the call has binary metadata that is no base64");
  return {};
}

void CallState::begin() {
  begun = true;
  server.probe.calls_started.fetch_add(1, std::memory_order_relaxed);
  server.probe.calls_active.fetch_add(1, std::memory_order_relaxed);
  if (!is_post) return respond_with_http("405");
  if (!is_grpc(content_type)) return respond_with_http("415");
  if (Result<void> checked = check(); !checked.ok()) return finish(std::move(checked));
  if (!timeout.empty()) {
    const auto left = http2::decode_timeout(timeout);
    if (!left.ok()) return finish(left.error());
    const Time now = server.loop.now();
    if (*left < kNever - now) {
      deadline = now + *left;
      set_deadline(server.deadlines, deadline);
    }
  }
  scope.spawn(run(std::static_pointer_cast<CallState>(shared_from_this())));
}

Async<> CallState::run(std::shared_ptr<CallState> self) {
  Result<void> result = co_await self->server.handler.handle(self->call);
  self->finish(std::move(result));
}

// For whoever does not speak gRPC.
void CallState::respond_with_http(std::string_view code) {
  finished = true;
  responded = true;
  const std::array<nghttp2_nv, 2> head = {http2::field(":status", code), http2::constant_field("content-length", "0")};
  nghttp2_submit_response(session(), id(), head.data(), head.size(), nullptr);
  discard();
}

void CallState::respond() {
  if (connection() == nullptr || std::exchange(responded, true)) return;
  const std::array<nghttp2_nv, 2> head = {kHttpOk, kContentType};
  const nghttp2_data_provider from = source();
  nghttp2_submit_response(session(), id(), head.data(), head.size(), &from);
}

void CallState::write(Bytes message) {
  server.probe.bytes_written.fetch_add(message.size(), std::memory_order_relaxed);
  enqueue(std::move(message));
  respond();
}

void CallState::finish(Result<void> result) {
  if (finished) return;
  finished = true;
  clear_deadline();
  if (connection() == nullptr) return;
  status = std::move(result);
  // An error without a code would read as success.
  if (!status.ok() && status.error().code == Code::kOk) status.error().code = Code::kUnknown;
  if (status.ok()) {
    if (last) write(*std::move(last));
    respond();
  }
  if (responded) {
    end_writing();
  } else {
    responded = true;
    submit_end(Alone::kYes);
  }
  discard();
}

bool CallState::submit_trailers() {
  submit_end(Alone::kNo);
  return true;
}

void CallState::submit_end(Alone alone) {
  if (status.ok() && trailers.empty()) {
    const nghttp2_nv ok = http2::constant_field("grpc-status", "0");
    nghttp2_submit_trailer(session(), id(), &ok, 1);
    return;
  }
  std::vector<nghttp2_nv> all;
  all.reserve(trailers.size() + 6);
  if (alone == Alone::kYes) {
    all.push_back(kHttpOk);
    all.push_back(kContentType);
  }
  const Code code = status.ok() ? Code::kOk : status.error().code;
  const std::string number = std::to_string(static_cast<int>(code));
  all.push_back(http2::field("grpc-status", number));
  std::string message;
  std::string details;
  if (!status.ok()) {
    message = http2::encode_status_message(std::string_view(status.error().message).substr(0, kMessageBytesMax));
    details = http2::encode_binary(status_details);
    if (!message.empty()) all.push_back(http2::field("grpc-message", message));
    if (!details.empty()) all.push_back(http2::field("grpc-status-details-bin", details));
    if (code == Code::kUnimplemented) all.push_back(http2::constant_field("grpc-accept-encoding", "identity"));
  }
  for (const auto& [name, value] : trailers) all.push_back(http2::field(name, value));
  if (alone == Alone::kYes) {
    nghttp2_submit_response(session(), id(), all.data(), all.size(), nullptr);
    connection()->schedule_flush();
  } else {
    nghttp2_submit_trailer(session(), id(), all.data(), all.size());
  }
}

void CallState::cut(Error why) {
  if (finished) return;
  server.probe.calls_cancelled.fetch_add(1, std::memory_order_relaxed);
  scope.cancel_all();
  last.reset();
  finish(std::move(why));
}

void CallState::on_events(unsigned events) {
  if ((events & kClosed) != 0) {
    if (!begun) return;
    server.probe.calls_active.fetch_sub(1, std::memory_order_relaxed);
    return cut({Code::kCancelled, "the call was cancelled"});
  }
  if ((events & kBegun) != 0) begin();
  if ((events & kLate) != 0) cut(deadline_exceeded("the call's time is over"));
  if ((events & kReadable) != 0 && !finished) {
    switch (fault()) {
      case Fault::kNone: break;
      case Fault::kTooBig:
        return cut(resource_exhausted("a message of " + std::to_string(message_size()) + " bytes is more than the " +
                                      std::to_string(server.options.message_bytes_max) + " that this server takes"));
      case Fault::kCompressed: return cut(internal_error("a message is compressed, and its call does not say how"));
    }
    if (reader && ready()) std::exchange(reader, nullptr).resume();
  }
  if ((events & kWritten) != 0 && writer && queued() <= kWriteAhead) std::exchange(writer, nullptr).resume();
}

// --- The server ---

Result<void> ServerState::add_connection(int fd, ConnectionInfo info) {
  OwnedFd given(fd);
  {
    const std::lock_guard lock(mutex);
    if (stopped) return unavailable("the server is stopping");
    std::size_t of_one_max = std::numeric_limits<std::size_t>::max();
    if (info.kind == ConnectionInfo::Kind::kTcp) of_one_max = options.connections_per_address_max;
    if (info.kind == ConnectionInfo::Kind::kContainer) of_one_max = options.connections_per_container_max;
    const std::string counted = counted_by(info);
    const auto found = open_by_host.find(counted);
    if (open_count >= options.connections_max || (found != open_by_host.end() && found->second >= of_one_max)) {
      probe.connections_refused.fetch_add(1, std::memory_order_relaxed);
      return resource_exhausted("there are too many connections, from " + counted + " or in all");
    }
    ++open_count;
    if (info.kind != ConnectionInfo::Kind::kLocal) ++open_by_host[counted];
  }
  probe.connections_accepted.fetch_add(1, std::memory_order_relaxed);
  loop.post([self = shared_from_this(), shared = std::make_shared<OwnedFd>(std::move(given)),
             who = std::make_shared<const ConnectionInfo>(std::move(info))] { self->serve(std::move(*shared), who); });
  return {};
}

void ServerState::uncount(const ConnectionInfo& info) {
  const std::lock_guard lock(mutex);
  --open_count;
  if (info.kind == ConnectionInfo::Kind::kLocal) return;
  const auto found = open_by_host.find(counted_by(info));
  if (--found->second == 0) open_by_host.erase(found);
}

void ServerState::serve(OwnedFd fd, std::shared_ptr<const ConnectionInfo> info) {
  {
    const std::lock_guard lock(mutex);
    if (stopped) return;
  }
  const bool is_local = info->kind == ConnectionInfo::Kind::kLocal;
  http2::ConnectionOptions chosen;
  chosen.end = http2::ConnectionOptions::End::kServer;
  chosen.window_bytes = is_local ? kLocalWindowBytes : kWindowBytes;
  chosen.streams_max = static_cast<std::uint32_t>(options.streams_max);
  chosen.fields_bytes_max = static_cast<std::uint32_t>(options.metadata_bytes_max);
  // Our own processes end all calls of a container at once.
  chosen.resets_burst = is_local ? std::numeric_limits<std::uint64_t>::max() : chosen.streams_max;
  chosen.resets_per_second = kResetsPerSecond;
  chosen.keepalive_time = options.keepalive_time;
  chosen.keepalive_timeout = options.keepalive_timeout;
  auto connection = std::make_shared<ServerConnection>(shared_from_this(), std::move(fd), std::move(info), chosen);
  ServerConnection& served = *connection;
  connections.emplace(&served, std::move(connection));
  served.start();
}

void ServerState::stop() {
  {
    const std::lock_guard lock(mutex);
    stopped = true;
  }
  std::vector<std::shared_ptr<ServerConnection>> open;
  open.reserve(connections.size());
  for (const auto& [pointer, connection] : connections) open.push_back(connection);
  for (const auto& connection : open) {
    std::vector<std::shared_ptr<CallState>> calls;
    for (const auto& [id, stream] : connection->streams()) calls.push_back(std::static_pointer_cast<CallState>(stream));
    for (const auto& call : calls) {
      // Of the others the end of the connection tells.
      if (call->begun) call->cut(unavailable("the server is stopping"));
    }
    nghttp2_submit_goaway(connection->session(), NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(connection->session()), NGHTTP2_NO_ERROR, nullptr, 0);
    connection->flush_now();
    connection->close("the server is stopping");
  }
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

// What a read that waits counts for, while it waits.
struct PendingRead {
  explicit PendingRead(CallState& of) : state(of) { change(true); }
  ~PendingRead() { change(false); }
  PendingRead(const PendingRead&) = delete;
  PendingRead& operator=(const PendingRead&) = delete;
  void change(bool more) const {
    if (!state.budget) return;
    if (more) {
      state.budget->take(server_detail::kPendingReadBytes);
    } else {
      state.budget->give(server_detail::kPendingReadBytes);
    }
  }
  CallState& state;
};

}  // namespace

const std::string& ServerCall::method() const { return state_.method; }
const std::string& ServerCall::host() const { return state_.host; }
const ConnectionInfo& ServerCall::connection() const { return *state_.info; }
Time ServerCall::deadline() const { return state_.deadline; }

std::optional<std::string_view> ServerCall::metadata(std::string_view key) const {
  for (const CallState::Field& field : state_.fields) {
    if (state_.text(field.name_at, field.name_size) == key) return state_.text(field.value_at, field.value_size);
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::string>> ServerCall::all_metadata() const {
  std::vector<std::pair<std::string, std::string>> all;
  all.reserve(state_.fields.size());
  for (const CallState::Field& field : state_.fields) {
    all.emplace_back(state_.text(field.name_at, field.name_size), state_.text(field.value_at, field.value_size));
  }
  return all;
}

Async<Result<std::optional<Bytes>>> ServerCall::read(Duration patience) {
  CallState& state = state_;
  PROA_CHECK(!state.reader);
  if (!state.has_message() && state.budget && !state.budget->has_room()) co_await state.budget->room();
  // The peer has gone, and the call is about to end where it waits: that is not the end of what it had to say.
  if (state.connection() == nullptr) co_await Waiter{state.reader};
  if (!state.want()) {
    const PendingRead pending(state);
    TimerGuard guard{state.server.loop};
    if (patience != Duration::max()) {
      guard.timer = state.server.loop.at(state.server.loop.now() + patience, [&state] {
        if (const auto waiting = std::exchange(state.reader, nullptr)) waiting.resume();
      });
    }
    co_await Waiter{state.reader};
    if (!state.ready()) {
      state.stop_wanting();
      co_return deadline_exceeded("the request's message did not arrive in time");
    }
  } else if (state.fault() != http2::Stream::Fault::kNone) {
    state.fail_soon();
    co_await Waiter{state.reader};  // Where the call's end finds it.
  }
  if (!state.has_message()) {
    if (state.cut_short()) co_return invalid_argument("the request ends within a message");
    co_return std::optional<Bytes>();
  }
  Bytes message = state.take_message();
  state.server.probe.bytes_read.fetch_add(message.size(), std::memory_order_relaxed);
  if (state.budget) {
    state.budget->take(message.size());
    state.budget_used += message.size();
  }
  co_return std::optional<Bytes>(std::move(message));
}

Async<bool> ServerCall::write(Bytes message) {
  CallState& state = state_;
  PROA_CHECK(!state.writer && !state.last);
  if (state.connection() == nullptr) co_return false;
  state.write(std::move(message));
  if (state.queued() > http2::Stream::kWriteAhead) co_await Waiter{state.writer};
  co_return true;
}

void ServerCall::write_last(Bytes message) {
  PROA_CHECK(!state_.last);
  state_.last.emplace(std::move(message));
}

void ServerCall::add_trailer(std::string_view name, std::string_view value) {
  state_.trailers.emplace_back(name, http2::is_binary(name) ? http2::encode_binary(value) : std::string(value));
}
void ServerCall::set_status_details(Bytes details) { state_.status_details = std::move(details); }
void ServerCall::set_budget(std::shared_ptr<ByteBudget> budget) {
  PROA_CHECK(!state_.budget);
  state_.budget = std::move(budget);
}

Result<std::unique_ptr<Server>> Server::create(RealLoop& loop, Handler& handler, ServerOptions options) {
  return std::unique_ptr<Server>(new Server(std::make_shared<server_detail::ServerState>(loop, handler, options)));
}

Server::~Server() { state_->stop(); }

Result<void> Server::add_connection(int fd, ConnectionInfo info) { return state_->add_connection(fd, std::move(info)); }

const ServerProbe& Server::probe() const { return state_->probe; }

}  // namespace proa::rpc
