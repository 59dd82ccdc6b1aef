// SPDX-License-Identifier: Apache-2.0
#include "rpc/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <condition_variable>
#include <coroutine>
#include <mutex>
#include <unordered_set>

#include "base/check.h"
#include "rpc/grpc_bytes.h"
#include "rpc/waiter.h"

namespace proa::rpc {
namespace client_detail {

struct UnaryCall;

struct ChannelState {
  ChannelState(Loop& on, const std::shared_ptr<grpc::Channel>& over) : loop(on), channel(over), stub(over) {}

  // Cancels what is under way and waits until gRPC's threads have said their last word to the loop.
  void close();
  // A call is in the list until gRPC reports its end, and counted until that report is with the loop, which may
  // free the call at once.
  void begin(UnaryCall* call) { begin_in(unary, call); }
  void begin(StreamReactor* stream) { begin_in(streams, stream); }
  void leave(UnaryCall* call) { leave_from(unary, call); }
  void leave(StreamReactor* stream) { leave_from(streams, stream); }
  void reported() {
    const std::lock_guard lock(mutex);
    // With the lock, since the waiter may end this object.
    if (--unreported == 0) all_over.notify_all();
  }

  Loop& loop;
  std::shared_ptr<grpc::Channel> channel;
  grpc::GenericStub stub;

 private:
  template <class Call>
  void begin_in(std::unordered_set<Call*>& calls, Call* call) {
    const std::lock_guard lock(mutex);
    calls.insert(call);
    ++unreported;
  }
  template <class Call>
  void leave_from(std::unordered_set<Call*>& calls, Call* call) {
    const std::lock_guard lock(mutex);
    calls.erase(call);
  }

  std::mutex mutex;
  std::condition_variable all_over;
  std::size_t unreported = 0;
  std::unordered_set<UnaryCall*> unary;
  std::unordered_set<StreamReactor*> streams;
};

namespace {

void apply(grpc::ClientContext& context, const CallOptions& options) {
  for (const auto& [name, value] : options.metadata) context.AddMetadata(name, value);
  if (options.deadline != kNever) context.set_deadline(std::chrono::system_clock::time_point(options.deadline));
  context.set_wait_for_ready(options.unreachable == CallOptions::Unreachable::kWait);
  // Nobody here reads compressed messages.
  context.set_compression_algorithm(GRPC_COMPRESS_NONE);
}

// gRPC tells of bytes it was given in a header; only what was asked for goes on.
Ending ending_of(const grpc::Status& status, const grpc::ClientContext& context) {
  Ending ending;
  if (!status.ok()) ending.status = from_status(status);
  ending.status_details = status.error_details();
  for (const auto& [name, value] : context.GetServerTrailingMetadata()) {
    const std::string key(name.data(), name.size());
    if (key == "grpc-status-details-bin") continue;
    ending.trailers.emplace_back(key, std::string(value.data(), value.size()));
  }
  return ending;
}

}  // namespace

// gRPC must not drop the last reference to a channel on one of its own threads (it frees a queue twice), so what
// holds one travels to the loop and goes there: its callbacks hold nothing but a pointer.
struct UnaryCall {
  std::shared_ptr<UnaryCall> self;  // Until gRPC is done with it.
  std::shared_ptr<ChannelState> channel;
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
  UnaryReply reply;
  std::coroutine_handle<> waiter;
  bool done = false;

  void ended(const grpc::Status& status) {
    reply.ending = ending_of(status, context);
    if (status.ok()) reply.message = from_buffer(response);
    ChannelState& state = *channel;
    state.leave(this);
    state.loop.post([call = std::move(self)] {
      call->done = true;
      if (const auto waiting = std::exchange(call->waiter, nullptr)) waiting.resume();
    });
    state.reported();
  }
};

namespace {

struct CancelGuard {
  UnaryCall& call;
  ~CancelGuard() {
    if (!call.done) call.context.TryCancel();
  }
};

}  // namespace

// Belongs to its Stream and, until OnDone, to gRPC as well. Members without a remark are used on the loop only.
class StreamReactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                            public std::enable_shared_from_this<StreamReactor> {
 public:
  explicit StreamReactor(std::shared_ptr<ChannelState> channel) : channel_(std::move(channel)) {}

  void start(const std::string& method, const CallOptions& options) {
    apply(context_, options);
    self_ = shared_from_this();
    channel_->begin(this);
    channel_->stub.PrepareBidiStreamingCall(&context_, method, grpc::StubOptions(), this);
    // Reads and writes are started by the loop, and gRPC must not end the call between them.
    AddHold();
    held_ = true;
    StartCall();
  }

  Async<std::optional<Bytes>> read() {
    PROA_CHECK(!reader_);
    if (!held_) co_return std::nullopt;
    if (!read_pending_) {
      read_pending_ = true;
      StartRead(&read_buffer_);
    }
    co_await Waiter{reader_};
    if (!read_ok_) {
      release();
      co_return std::nullopt;
    }
    co_return std::move(incoming_);
  }

  Async<bool> write(Bytes message) {
    PROA_CHECK(!write_pending_ && !writes_done_);
    if (!held_) co_return false;
    write_pending_ = true;
    write_buffer_ = to_buffer(std::move(message));
    StartWrite(&write_buffer_);
    co_await Waiter{writer_};
    co_return write_ok_;
  }

  void writes_done() {
    if (!held_ || std::exchange(writes_done_, true)) return;
    StartWritesDone();
  }

  Async<Ending> ended() {
    while (!done_) {
      if (held_) {
        // What is left is read and dropped: the status comes after it.
        if (!co_await read()) continue;
      } else {
        co_await Waiter{ender_};
      }
    }
    co_return ending_;
  }

  // No more operations by us; once those under way are over, gRPC reports the status.
  void release() {
    if (std::exchange(held_, false)) RemoveHold();
  }

  void cancel() {
    if (!done_) context_.TryCancel();
  }
  void abandon() {
    cancel();
    release();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      incoming_ = from_buffer(read_buffer_);
      read_buffer_.Clear();
    }
    channel_->loop.post([self = shared_from_this(), ok] {
      self->read_pending_ = false;
      self->read_ok_ = ok;
      if (const auto waiting = std::exchange(self->reader_, nullptr)) waiting.resume();
    });
  }

  void OnWriteDone(bool ok) override {
    channel_->loop.post([self = shared_from_this(), ok] {
      self->write_pending_ = false;
      self->write_ok_ = ok;
      if (const auto waiting = std::exchange(self->writer_, nullptr)) waiting.resume();
    });
  }

  void OnDone(const grpc::Status& status) override {
    ending_ = ending_of(status, context_);
    ChannelState& state = *channel_;
    state.leave(this);
    state.loop.post([self = std::move(self_)] {
      self->done_ = true;
      if (const auto waiting = std::exchange(self->ender_, nullptr)) waiting.resume();
    });
    state.reported();
  }

 private:
  std::shared_ptr<ChannelState> channel_;
  grpc::ClientContext context_;
  std::shared_ptr<StreamReactor> self_;  // Until OnDone.
  bool held_ = false;
  grpc::ByteBuffer read_buffer_;
  grpc::ByteBuffer write_buffer_;
  Bytes incoming_;  // Filled by gRPC's thread before it posts.
  Ending ending_;   // The same.
  std::coroutine_handle<> reader_;
  bool read_pending_ = false;
  bool read_ok_ = false;
  std::coroutine_handle<> writer_;
  bool write_pending_ = false;
  bool write_ok_ = false;
  bool writes_done_ = false;
  std::coroutine_handle<> ender_;
  bool done_ = false;
};

void ChannelState::close() {
  std::unique_lock lock(mutex);
  for (UnaryCall* call : unary) call->context.TryCancel();
  for (StreamReactor* stream : streams) stream->abandon();
  all_over.wait(lock, [this] { return unreported == 0; });
}

}  // namespace client_detail

Stream::~Stream() { reactor_->abandon(); }
Async<std::optional<Bytes>> Stream::read() { return reactor_->read(); }
Async<bool> Stream::write(Bytes message) { return reactor_->write(std::move(message)); }
void Stream::writes_done() { reactor_->writes_done(); }
Async<Ending> Stream::ended() { return reactor_->ended(); }
void Stream::cancel() { reactor_->cancel(); }

Result<std::unique_ptr<Client>> Client::create(Loop& loop, ClientOptions options) {
  if (!options.address.starts_with("unix:") && options.address.rfind(':') == std::string::npos) {
    return invalid_argument("\"" + options.address + "\" is no address: host:port or unix:/path is wanted");
  }
  const auto milliseconds = [](Duration duration) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
  };
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // Proxies in the environment are for the internet, not for our own machines.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Each client its own connection, so that big messages do not stand in the way of small ones.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // How long one attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, milliseconds(options.reconnect_delay_max));
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  if (options.keepalive_time > Duration(0)) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(options.keepalive_time));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds(options.keepalive_timeout));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = options.tls->ca_pem;
    credentials = grpc::SslCredentials(ssl);
    if (!options.tls->server_name.empty()) arguments.SetSslTargetNameOverride(options.tls->server_name);
  }
  const auto channel = grpc::CreateCustomChannel(options.address, credentials, arguments);
  if (!channel) return invalid_argument("\"" + options.address + "\" is no address gRPC can use");
  return std::unique_ptr<Client>(new Client(std::make_shared<client_detail::ChannelState>(loop, channel)));
}

Client::~Client() { state_->close(); }

namespace {

// Not a member, so that it holds the channel by itself.
Async<UnaryReply> call_unary(std::shared_ptr<client_detail::ChannelState> channel, std::string method, Bytes request,
                             CallOptions options) {
  auto call = std::make_shared<client_detail::UnaryCall>();
  client_detail::apply(call->context, options);
  call->request = to_buffer(std::move(request));
  call->self = call;
  call->channel = channel;
  channel->begin(call.get());
  channel->stub.UnaryCall(&call->context, method, grpc::StubOptions(), &call->request, &call->response,
                          [raw = call.get()](const grpc::Status& status) { raw->ended(status); });
  const client_detail::CancelGuard guard{*call};
  co_await Waiter{call->waiter};
  co_return std::move(call->reply);
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
  auto reactor = std::make_shared<client_detail::StreamReactor>(state_);
  reactor->start(method, options);
  return std::make_unique<Stream>(std::move(reactor));
}

}  // namespace proa::rpc
