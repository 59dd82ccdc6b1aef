// SPDX-License-Identifier: Apache-2.0
#include "rpc/client.h"

#include <algorithm>
#include <charconv>
#include <coroutine>
#include <unordered_map>

#include "base/check.h"
#include "rpc/dial.h"
#include "rpc/http2.h"
#include "rpc/waiter.h"

namespace proa::rpc {
namespace client_detail {
namespace {

// An answer may hold several messages of clients, each of which the server bounds.
constexpr std::size_t kMessageBytesMax = std::size_t{1} << 30;
constexpr std::size_t kTrailerBytesMax = 1 << 20;
constexpr std::size_t kMetadataBytesMax = 256 << 10;
// What a server may send before anybody reads. Calls of many callers share a connection, and those who do not read must
// not stand in the way of the others; the server is ours.
constexpr std::int32_t kWindowBytes = 256 << 20;
// From the beginning of an attempt to the server's first word.
constexpr Duration kConnectMax = std::chrono::seconds(5);
constexpr Duration kDelayFirst = std::chrono::milliseconds(50);
// A connection has numbers for 2^30 calls. Before they are used up, another takes over.
constexpr std::uint32_t kLastStream = 0x7fff'0000;

constexpr const char* kDeadlineText = "the call's deadline has passed";

}  // namespace

// A call, from its beginning to its ending.
class Exchange final : public http2::Stream {
 public:
  enum class Shape : std::uint8_t { kUnary, kStream };
  Exchange(std::shared_ptr<ChannelState> channel, Shape shape, std::string method, CallOptions options);

  Async<UnaryReply> reply();
  Async<std::optional<Bytes>> read();
  Async<bool> write(Bytes message);
  void writes_done();
  Async<Ending> ended();
  void cancel() { end_early({Code::kCancelled, "the call was cancelled"}); }
  bool is_done() const { return done_; }
  const CallOptions& options() const { return options_; }

  void begin();
  // A number on a connection of ours.
  void submit(http2::Connection& connection);
  // Before or while it is sent: without the server.
  void end_early(Error error);

 protected:
  void on_field(std::string_view name, std::string_view value) override;
  void on_fields_end() override {}
  void on_events(unsigned events) override;

 private:
  void end(Ending ending);
  Ending ending_of_fields();
  Error error_of_close() const;
  void wake();

  const std::shared_ptr<ChannelState> channel_;
  const Shape shape_;
  const std::string method_;
  CallOptions options_;

  std::string http_status_;
  std::string content_type_;
  std::string grpc_status_;
  std::string grpc_message_;
  std::size_t fields_bytes_ = 0;

  Ending ending_;
  bool done_ = false;
  bool writes_done_ = false;
  std::optional<Bytes> unary_;
  std::coroutine_handle<> reader_;
  std::coroutine_handle<> writer_;
  std::coroutine_handle<> ender_;
};

class ClientConnection final : public http2::Connection {
 public:
  ClientConnection(std::shared_ptr<ChannelState> channel, OwnedFd fd, std::unique_ptr<Wire> wire,
                   http2::ConnectionOptions options);

 protected:
  void on_settings() override;
  void on_goaway() override;
  void on_stream_gone() override;
  void on_closed() override;

 private:
  const std::shared_ptr<ChannelState> channel_;
};

struct ChannelState : std::enable_shared_from_this<ChannelState> {
  ChannelState(RealLoop& on, ClientOptions chosen, Address where)
      : loop(on), options(std::move(chosen)), address(std::move(where)), deadlines(on), dialer(on) {}

  void begin(const std::shared_ptr<Exchange>& exchange);
  void leave(const Exchange& exchange) {
    std::erase_if(waiting, [&](const auto& one) { return one.get() == &exchange; });
  }
  void connect();
  static Async<> dial(ChannelState* self);
  Result<std::unique_ptr<TlsWire>> tls_wire() const;
  void open(OwnedFd fd, std::unique_ptr<Wire> wire);
  // The server has said its first word on the newest connection.
  void ready();
  // No connection came about, or the newest was lost.
  void failed(const std::string& why);
  void retire(ClientConnection& connection);
  void close();

  RealLoop& loop;
  const ClientOptions options;
  const Address address;
  http2::Scratch scratch;
  http2::Deadlines deadlines;
  Dialer dialer;

  enum class Phase : std::uint8_t { kIdle, kConnecting, kReady, kPause } phase = Phase::kIdle;
  ClientConnection* newest = nullptr;  // kConnecting (perhaps), kReady. Takes new calls.
  std::unordered_map<ClientConnection*, std::shared_ptr<ClientConnection>> connections;
  std::vector<std::shared_ptr<Exchange>> waiting;  // For kReady.
  bool closed = false;
  Duration delay = kDelayFirst;
  Time pause_until{};
  std::string last_error;
  Loop::TimerId timer = 0;  // kConnecting: for how long; kPause: until when.
  Scope scope;
};

// --- Exchange ---

Exchange::Exchange(std::shared_ptr<ChannelState> channel, Shape shape, std::string method, CallOptions options)
    : Stream(kMessageBytesMax),
      channel_(std::move(channel)),
      shape_(shape),
      method_(std::move(method)),
      options_(std::move(options)) {}

void Exchange::begin() {
  const auto self = std::static_pointer_cast<Exchange>(shared_from_this());
  std::size_t metadata_bytes = 0;
  for (const auto& [name, value] : options_.metadata) metadata_bytes += name.size() + value.size();
  if (metadata_bytes > kMetadataBytesMax) {
    return end_early(resource_exhausted("the call's metadata is too big to be sent"));
  }
  if (options_.deadline != kNever) {
    if (options_.deadline <= channel_->loop.now()) return end_early(deadline_exceeded(kDeadlineText));
    set_deadline(channel_->deadlines, options_.deadline);
  }
  channel_->begin(self);
}

void Exchange::submit(http2::Connection& connection) {
  if (done_) return;
  std::vector<nghttp2_nv> head;
  head.reserve(options_.metadata.size() + 9);
  head.push_back(http2::constant_field(":method", "POST"));
  head.push_back(channel_->options.tls ? http2::constant_field(":scheme", "https")
                                       : http2::constant_field(":scheme", "http"));
  head.push_back(http2::field(":path", method_));
  const std::string authority = channel_->address.path.empty() ? channel_->address.text : channel_->address.host;
  head.push_back(http2::field(":authority", authority));
  head.push_back(http2::constant_field("te", "trailers"));
  head.push_back(http2::constant_field("content-type", "application/grpc"));
  head.push_back(http2::constant_field("user-agent", "proa/1"));
  std::string timeout;
  if (options_.deadline != kNever) {
    timeout = http2::encode_timeout(options_.deadline - channel_->loop.now());
    head.push_back(http2::field("grpc-timeout", timeout));
    head.back().flags = NGHTTP2_NV_FLAG_NO_INDEX;  // It is another one each time.
  }
  for (auto& [name, value] : options_.metadata) {
    if (http2::is_binary(name)) value = http2::encode_binary(value);
    head.push_back(http2::field(name, value));
  }
  const nghttp2_data_provider from = source();
  const std::int32_t id =
      nghttp2_submit_request(connection.session(), nullptr, head.data(), head.size(), &from, nullptr);
  if (id < 0) return end_early(unavailable(std::string("the call could not be sent: ") + nghttp2_strerror(id)));
  connection.add_stream(id, shared_from_this());
  connection.schedule_flush();
  if (shape_ == Shape::kUnary) (void)want();
}

void Exchange::on_field(std::string_view name, std::string_view value) {
  fields_bytes_ += name.size() + value.size();
  if (fields_bytes_ > kTrailerBytesMax) return;
  if (name == ":status") {
    http_status_ = value;
  } else if (name == "content-type") {
    content_type_ = value;
  } else if (name == "grpc-status") {
    grpc_status_ = value;
  } else if (name == "grpc-message") {
    grpc_message_ = value;
  } else if (name == "grpc-status-details-bin") {
    if (auto decoded = http2::decode_binary(value); decoded.ok()) ending_.status_details = std::move(decoded).value();
  } else if (!http2::is_protocol_field(name)) {
    Bytes plain(value);
    if (http2::is_binary(name)) {
      if (auto decoded = http2::decode_binary(value); decoded.ok()) plain = std::move(decoded).value();
    }
    ending_.trailers.emplace_back(name, std::move(plain));
  }
}

Ending Exchange::ending_of_fields() {
  Ending ending = std::move(ending_);
  int code = -1;
  if (!grpc_status_.empty()) {
    const char* const end = grpc_status_.data() + grpc_status_.size();
    if (std::from_chars(grpc_status_.data(), end, code).ptr != end) code = static_cast<int>(Code::kUnknown);
  }
  if (code < 0) {
    // Whoever answers without gRPC is no server of ours, but perhaps something before it.
    const bool is_away =
        http_status_ == "429" || http_status_ == "502" || http_status_ == "503" || http_status_ == "504";
    ending.status = Error{is_away                 ? Code::kUnavailable
                          : http_status_ == "200" ? Code::kInternal
                                                  : Code::kUnknown,
                          "the server ended the call without a status of gRPC's (HTTP " + http_status_ + ")"};
  } else if (code != 0) {
    if (code > static_cast<int>(Code::kUnauthenticated)) code = static_cast<int>(Code::kUnknown);
    ending.status = Error{static_cast<Code>(code), http2::decode_status_message(grpc_message_)};
  } else if (cut_short()) {
    ending.status = internal_error("the server's last message is not whole");
  }
  return ending;
}

Error Exchange::error_of_close() const {
  if (lost()) return unavailable("the connection to " + channel_->address.text + " was lost: " + why_lost());
  switch (close_code()) {
    case NGHTTP2_REFUSED_STREAM: return unavailable("the server did not take the call");
    case NGHTTP2_CANCEL: return {Code::kCancelled, "the server cancelled the call"};
    case NGHTTP2_ENHANCE_YOUR_CALM: return resource_exhausted("the server has too much to do for the call");
    case NGHTTP2_INADEQUATE_SECURITY: return permission_denied("the server does not trust the connection");
    default:
      return internal_error(std::string("the server ended the call without a status: ") +
                            nghttp2_http2_strerror(close_code()));
  }
}

void Exchange::on_events(unsigned events) {
  if (done_) return;
  if ((events & kLate) != 0) return end_early(deadline_exceeded(kDeadlineText));
  if (fault() != Fault::kNone) {
    return end_early(
        fault() == Fault::kTooBig
            ? resource_exhausted("the server's message of " + std::to_string(message_size()) + " bytes is too big")
            : internal_error("the server's message is compressed, which was not asked for"));
  }
  const bool has_ended = remote_done() && (events & (kReadable | kClosed)) != 0;
  if (shape_ == Shape::kUnary && has_message()) {
    const bool again = unary_.has_value();
    unary_ = take_message();
    if (again) return end_early(internal_error("the server answered more than once"));
    if (!has_ended) (void)want();
  }
  if (has_ended) {
    const bool said = !grpc_status_.empty() || close_code() == NGHTTP2_NO_ERROR;
    const bool is_open = connection() != nullptr;
    if (!lost() && said && (is_open || !http_status_.empty())) {
      // Nobody reads what we have still to say.
      if (is_open && !(writes_done_ && queued() == 0)) connection()->reset(*this, NGHTTP2_CANCEL);
      end(ending_of_fields());
    } else if (lost() && !grpc_status_.empty()) {
      end(ending_of_fields());
    } else {
      Ending ending;
      ending.status = error_of_close();
      end(std::move(ending));
    }
    return wake();
  }
  if (reader_ && ready()) std::exchange(reader_, nullptr).resume();
  if (writer_ && queued() <= kWriteAhead) std::exchange(writer_, nullptr).resume();
}

void Exchange::end_early(Error error) {
  if (done_) return;
  if (connection() != nullptr) {
    connection()->reset(*this, NGHTTP2_CANCEL);
  } else {
    channel_->leave(*this);
  }
  discard();
  Ending ending;
  ending.status = std::move(error);
  end(std::move(ending));
  if (!reader_ && !writer_ && !ender_) return;
  // Later: whoever ends a call in this way may be in the midst of something.
  channel_->loop.post([self = std::static_pointer_cast<Exchange>(shared_from_this())] { self->wake(); });
}

void Exchange::end(Ending ending) {
  done_ = true;
  ending_ = std::move(ending);
  clear_deadline();
}

void Exchange::wake() {
  if (reader_) std::exchange(reader_, nullptr).resume();
  if (writer_) std::exchange(writer_, nullptr).resume();
  if (ender_) std::exchange(ender_, nullptr).resume();
}

Async<UnaryReply> Exchange::reply() {
  if (!done_) co_await Waiter{ender_};
  UnaryReply reply;
  reply.ending = std::move(ending_);
  if (reply.ending.status.ok()) {
    if (unary_) {
      reply.message = *std::move(unary_);
    } else {
      reply.ending.status = internal_error("the server ended the call without an answer");
    }
  }
  co_return reply;
}

Async<std::optional<Bytes>> Exchange::read() {
  PROA_CHECK(!reader_);
  if (!want() && !done_) co_await Waiter{reader_};
  if (has_message() || want()) {
    if (has_message()) co_return take_message();
  }
  co_return std::nullopt;
}

Async<bool> Exchange::write(Bytes message) {
  PROA_CHECK(!writer_ && !writes_done_);
  if (done_) co_return false;
  enqueue(std::move(message));
  if (queued() > kWriteAhead) co_await Waiter{writer_};
  co_return !done_;
}

void Exchange::writes_done() {
  if (done_ || std::exchange(writes_done_, true)) return;
  end_writing();
}

Async<Ending> Exchange::ended() {
  if (!done_) {
    discard();
    co_await Waiter{ender_};
  }
  co_return ending_;
}

// --- Connections ---

ClientConnection::ClientConnection(std::shared_ptr<ChannelState> channel, OwnedFd fd, std::unique_ptr<Wire> wire,
                                   http2::ConnectionOptions options)
    : Connection(channel->loop, channel->scratch, std::move(fd), std::move(wire), options),
      channel_(std::move(channel)) {}

void ClientConnection::on_settings() {
  if (channel_->newest == this) channel_->ready();
}

// The calls that the server has taken go on; new ones go elsewhere.
void ClientConnection::on_goaway() { channel_->retire(*this); }

void ClientConnection::on_stream_gone() {
  if (channel_->newest == this || !streams().empty()) return;
  nghttp2_session_terminate_session(session(), NGHTTP2_NO_ERROR);
}

void ClientConnection::on_closed() {
  const auto found = channel_->connections.find(this);
  PROA_CHECK(found != channel_->connections.end());
  loop().post([keep = std::move(found->second)] {});
  channel_->connections.erase(found);
  if (channel_->newest == this) channel_->failed(why_closed());
}

void ChannelState::begin(const std::shared_ptr<Exchange>& exchange) {
  if (closed) return exchange->end_early({Code::kCancelled, "the client has gone"});
  if (phase == Phase::kReady && newest->is_closed()) {
    newest = nullptr;
    phase = Phase::kIdle;
  }
  if (phase == Phase::kReady) {
    if (nghttp2_session_get_next_stream_id(newest->session()) < kLastStream) return exchange->submit(*newest);
    retire(*newest);
  }
  const bool may_wait = exchange->options().unreachable == CallOptions::Unreachable::kWait;
  if (phase == Phase::kPause && !may_wait) {
    if (loop.now() < pause_until) return exchange->end_early(unavailable(last_error));
    if (timer != 0) loop.cancel(std::exchange(timer, 0));
    phase = Phase::kIdle;
  }
  waiting.push_back(exchange);
  if (phase == Phase::kPause && timer == 0) {
    timer = loop.at(pause_until, [this] {
      timer = 0;
      connect();
    });
  }
  if (phase == Phase::kIdle) connect();
}

void ChannelState::connect() {
  phase = Phase::kConnecting;
  timer = loop.at(loop.now() + kConnectMax, [this] {
    timer = 0;
    const auto self = shared_from_this();
    scope.cancel_all();
    if (newest != nullptr) {
      newest->close("it does not answer");
    } else {
      failed("it does not answer");
    }
  });
  scope.spawn(dial(this));
}

Result<std::unique_ptr<TlsWire>> ChannelState::tls_wire() const {
  return TlsWire::create(options.tls->ca_pem,
                         options.tls->server_name.empty() ? address.host : options.tls->server_name);
}

// Nothing after open() or failed(), either of which may end it.
Async<> ChannelState::dial(ChannelState* self) {
  Result<OwnedFd> fd = co_await self->dialer.dial(self->address);
  if (!fd.ok()) {
    self->failed(fd.error().message);
    co_return;
  }
  if (!self->options.tls) {
    self->open(std::move(fd).value(), plain_wire());
    co_return;
  }
  Result<std::unique_ptr<TlsWire>> wire = self->tls_wire();
  if (!wire.ok()) {
    self->failed(wire.error().message);
    co_return;
  }
  WatchedFd watched(self->loop, std::move(fd).value().release());
  while (true) {
    const Result<TlsWire::Step> step = (*wire)->handshake(watched.fd());
    if (!step.ok()) {
      self->failed(step.error().message);
      co_return;
    }
    if (*step == TlsWire::Step::kDone) break;
    if (*step == TlsWire::Step::kRead) {
      co_await watched.readable();
    } else {
      co_await watched.writable();
    }
  }
  self->open(OwnedFd(watched.release()), std::move(wire).value());
}

void ChannelState::open(OwnedFd fd, std::unique_ptr<Wire> wire) {
  http2::ConnectionOptions chosen;
  chosen.end = http2::ConnectionOptions::End::kClient;
  chosen.window_bytes = kWindowBytes;
  chosen.fields_bytes_max = kTrailerBytesMax;
  chosen.keepalive_time = options.keepalive_time;
  chosen.keepalive_timeout = options.keepalive_timeout;
  auto connection = std::make_shared<ClientConnection>(shared_from_this(), std::move(fd), std::move(wire), chosen);
  newest = connection.get();
  connections.emplace(newest, std::move(connection));
  newest->start();
}

void ChannelState::ready() {
  if (phase != Phase::kConnecting) return;
  phase = Phase::kReady;
  if (timer != 0) loop.cancel(std::exchange(timer, 0));
  delay = kDelayFirst;
  for (const auto& exchange : std::exchange(waiting, {})) exchange->submit(*newest);
}

void ChannelState::failed(const std::string& why) {
  newest = nullptr;
  if (timer != 0) loop.cancel(std::exchange(timer, 0));
  if (closed) return;
  last_error = "the server at " + address.text + " cannot be reached: " + why;
  if (phase == Phase::kReady) {
    // It was good until now, so that the next attempt may come at once.
    phase = Phase::kIdle;
    return;
  }
  phase = Phase::kPause;
  pause_until = loop.now() + delay;
  delay = std::min(delay * 8 / 5, options.reconnect_delay_max);
  std::vector<std::shared_ptr<Exchange>> still;
  for (const auto& exchange : std::exchange(waiting, {})) {
    if (exchange->options().unreachable == CallOptions::Unreachable::kWait) {
      still.push_back(exchange);
    } else {
      exchange->end_early(unavailable(last_error));
    }
  }
  waiting = std::move(still);
  if (waiting.empty()) return;
  timer = loop.at(pause_until, [this] {
    timer = 0;
    connect();
  });
}

void ChannelState::retire(ClientConnection& connection) {
  if (newest != &connection) return;
  newest = nullptr;
  if (connection.streams().empty()) {
    nghttp2_session_terminate_session(connection.session(), NGHTTP2_NO_ERROR);
    connection.schedule_flush();
  }
  if (phase == Phase::kConnecting) return failed("it is about to stop");
  phase = Phase::kIdle;
}

void ChannelState::close() {
  const auto self = shared_from_this();
  closed = true;
  scope.cancel_all();
  if (timer != 0) loop.cancel(std::exchange(timer, 0));
  const Error gone{Code::kCancelled, "the client has gone"};
  for (const auto& exchange : std::exchange(waiting, {})) exchange->end_early(gone);
  std::vector<std::shared_ptr<ClientConnection>> open;
  open.reserve(connections.size());
  for (const auto& [pointer, connection] : connections) open.push_back(connection);
  for (const auto& connection : open) {
    std::vector<std::shared_ptr<Exchange>> calls;
    for (const auto& [id, stream] : connection->streams()) calls.push_back(std::static_pointer_cast<Exchange>(stream));
    for (const auto& call : calls) call->end_early(gone);
    if (!connection->in_turn()) connection->flush_now();
    connection->close("the client has gone");
  }
}

}  // namespace client_detail

using client_detail::Exchange;

Stream::~Stream() { exchange_->cancel(); }
Async<std::optional<Bytes>> Stream::read() { return exchange_->read(); }
Async<bool> Stream::write(Bytes message) { return exchange_->write(std::move(message)); }
void Stream::writes_done() { exchange_->writes_done(); }
Async<Ending> Stream::ended() { return exchange_->ended(); }
void Stream::cancel() { exchange_->cancel(); }

Result<std::unique_ptr<Client>> Client::create(RealLoop& loop, ClientOptions options) {
  PROA_TRY(Address address, Address::parse(options.address));
  return std::unique_ptr<Client>(
      new Client(std::make_shared<client_detail::ChannelState>(loop, std::move(options), std::move(address))));
}

Client::~Client() { state_->close(); }

namespace {

struct CancelGuard {
  Exchange& exchange;
  ~CancelGuard() { exchange.cancel(); }
};

// Not a member, so that it holds the channel by itself.
Async<UnaryReply> call_unary(std::shared_ptr<client_detail::ChannelState> channel, std::string method, Bytes request,
                             CallOptions options) {
  const auto exchange =
      std::make_shared<Exchange>(std::move(channel), Exchange::Shape::kUnary, std::move(method), std::move(options));
  exchange->enqueue(std::move(request));
  exchange->writes_done();
  const CancelGuard guard{*exchange};
  exchange->begin();
  co_return co_await exchange->reply();
}

Async<Result<Bytes>> message_of(Async<UnaryReply> reply) {
  UnaryReply got = co_await std::move(reply);
  if (!got.ending.status.ok()) co_return std::move(got.ending.status).error();
  co_return std::move(got.message);
}

}  // namespace

Async<UnaryReply> Client::unary_with_trailers(std::string method, Bytes request, CallOptions options) {
  return call_unary(state_, std::move(method), std::move(request), std::move(options));
}

Async<Result<Bytes>> Client::unary(std::string method, Bytes request, CallOptions options) {
  return message_of(call_unary(state_, std::move(method), std::move(request), std::move(options)));
}

std::unique_ptr<Stream> Client::stream(std::string method, CallOptions options) {
  auto exchange = std::make_shared<Exchange>(state_, Exchange::Shape::kStream, std::move(method), std::move(options));
  exchange->begin();
  return std::make_unique<Stream>(std::move(exchange));
}

}  // namespace proa::rpc
