// SPDX-License-Identifier: Apache-2.0
#include "rpc/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>

#include <coroutine>
#include <utility>

#include "rpc/grpc_bytes.h"

namespace proa::rpc {
namespace client_detail {
namespace {

constexpr int kMessageBytesMax = 128 << 20;

Metadata trailers_of(const grpc::ClientContext& context) {
  Metadata out;
  for (const auto& [name, value] : context.GetServerTrailingMetadata()) {
    out.emplace_back(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
  }
  return out;
}

Ending ending_of(const grpc::Status& status, const grpc::ClientContext& context) {
  Ending ending;
  if (!status.ok()) ending.status = from_status(status);
  ending.trailers = trailers_of(context);
  ending.status_details = status.error_details();
  return ending;
}

void prepare(grpc::ClientContext& context, const CallOptions& options) {
  for (const auto& [name, value] : options.metadata) context.AddMetadata(name, value);
  if (options.deadline != kNever) context.set_deadline(std::chrono::time_point_cast<std::chrono::system_clock::duration>(options.deadline));
  context.set_wait_for_ready(options.unreachable == CallOptions::Unreachable::kWait);
}

}  // namespace

struct ChannelState {
  explicit ChannelState(Loop& on) : loop(on) {}
  Loop& loop;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<grpc::GenericStub> stub;
};

// A unary call outlives its waiter: gRPC writes into it until it is done, cancelled or not.
struct UnaryState {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

// Cancels the call if its waiter goes first.
struct CancelGuard {
  std::shared_ptr<UnaryState> state;
  bool done = false;
  ~CancelGuard() {
    if (!done) state->context.TryCancel();
  }
};

// A stream between gRPC's threads and the loop. It holds itself until OnDone; on the loop everything else.
class StreamReactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>, public std::enable_shared_from_this<StreamReactor> {
 public:
  explicit StreamReactor(std::shared_ptr<ChannelState> channel) : channel_(std::move(channel)), changed_(channel_->loop) {}

  void start(const std::string& method, const CallOptions& options) {
    prepare(context_, options);
    self_ = shared_from_this();
    channel_->stub->PrepareBidiStreamingCall(&context_, method, grpc::StubOptions(), this);
    // Reads and writes start from the loop, outside of reactions.
    AddHold();
    StartCall();
  }

  Async<std::optional<Bytes>> read() {
    if (done_) co_return std::nullopt;
    if (!reading_) {
      reading_ = true;
      StartRead(&read_buffer_);
    }
    while (reading_) co_await changed_.wait();
    co_return std::exchange(read_, std::nullopt);
  }

  Async<bool> write(Bytes message) {
    if (done_ || half_closed_) co_return false;
    while (writing_) co_await changed_.wait();
    if (done_) co_return false;
    writing_ = true;
    write_buffer_ = to_buffer(std::move(message));
    StartWrite(&write_buffer_);
    while (writing_) co_await changed_.wait();
    co_return wrote_;
  }

  void writes_done() {
    if (done_ || std::exchange(half_closed_, true)) return;
    StartWritesDone();
  }

  Async<Ending> ended() {
    release();
    while (!done_) {
      if (!reading_) {
        reading_ = true;
        StartRead(&read_buffer_);
      }
      co_await changed_.wait();
    }
    co_return *ending_;
  }

  void abandon() {
    context_.TryCancel();
    release();
  }

  void OnReadDone(bool ok) override {
    auto bytes = ok ? std::make_shared<Bytes>(from_buffer(read_buffer_)) : nullptr;
    channel_->loop.post([self = shared_from_this(), bytes] {
      self->reading_ = false;
      self->read_.reset();
      if (bytes) self->read_ = std::move(*bytes);
      if (!bytes) self->release();
      self->changed_.notify();
    });
  }
  void OnWriteDone(bool ok) override {
    channel_->loop.post([self = shared_from_this(), ok] {
      self->writing_ = false;
      self->wrote_ = ok;
      self->changed_.notify();
    });
  }
  void OnDone(const grpc::Status& status) override {
    // gRPC lets go of this object when OnDone returns; the posted work has its own hold.
    channel_->loop.post([self = std::exchange(self_, nullptr), status] {
      self->done_ = true;
      self->reading_ = self->writing_ = false;
      self->wrote_ = false;
      self->ending_ = ending_of(status, self->context_);
      self->changed_.notify();
    });
  }

 private:
  void release() {
    if (!std::exchange(released_, true)) RemoveHold();
  }

  std::shared_ptr<ChannelState> channel_;
  std::shared_ptr<StreamReactor> self_;
  grpc::ClientContext context_;
  grpc::ByteBuffer read_buffer_;
  grpc::ByteBuffer write_buffer_;
  std::optional<Bytes> read_;
  bool reading_ = false;
  bool writing_ = false;
  bool wrote_ = false;
  bool half_closed_ = false;
  bool released_ = false;
  bool done_ = false;
  std::optional<Ending> ending_;
  Signal changed_;
};

}  // namespace client_detail

using client_detail::ChannelState;
using client_detail::UnaryState;

Stream::~Stream() { reactor_->abandon(); }
// Copies of the pointer live in the coroutines, so that a Stream may go while one of them is suspended.
Async<std::optional<Bytes>> Stream::read() { return reactor_->read(); }
Async<bool> Stream::write(Bytes message) { return reactor_->write(std::move(message)); }
void Stream::writes_done() { reactor_->writes_done(); }
Async<Ending> Stream::ended() { return reactor_->ended(); }
void Stream::cancel() { reactor_->abandon(); }

Result<std::unique_ptr<Client>> Client::create(Loop& loop, ClientOptions options) {
  if (options.address.empty()) return invalid_argument("the address of a server is missing");
  auto state = std::make_shared<ChannelState>(loop);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(client_detail::kMessageBytesMax);
  arguments.SetMaxSendMessageSize(client_detail::kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(options.reconnect_delay_max.count() / 1000));
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 << 20);
  // A server that was away must not be remembered as such by another channel of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (options.keepalive_time.count() > 0 && !options.address.starts_with("unix:")) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options.keepalive_time.count() / 1000));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(options.keepalive_timeout.count() / 1000));
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = options.tls->ca_pem;
    credentials = grpc::SslCredentials(ssl);
    if (!options.tls->server_name.empty()) arguments.SetSslTargetNameOverride(options.tls->server_name);
  }
  state->channel = grpc::CreateCustomChannel(options.address, credentials, arguments);
  state->stub = std::make_unique<grpc::GenericStub>(state->channel);
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

Client::~Client() = default;

Async<UnaryReply> Client::unary_with_trailers(std::string method, Bytes request, CallOptions options) {
  const std::shared_ptr<ChannelState> channel = state_;
  client_detail::CancelGuard guard{std::make_shared<UnaryState>()};
  const std::shared_ptr<UnaryState> call = guard.state;
  client_detail::prepare(call->context, options);
  call->request = to_buffer(std::move(request));
  UnaryReply reply = co_await suspend<UnaryReply>(channel->loop, [&](Resumer<UnaryReply> resume) {
    channel->stub->UnaryCall(&call->context, method, grpc::StubOptions(), &call->request, &call->response, [channel, call, resume](const grpc::Status& status) {
      auto got = std::make_shared<UnaryReply>();
      got->ending = client_detail::ending_of(status, call->context);
      if (status.ok()) got->message = from_buffer(call->response);
      channel->loop.post([resume, got] { resume(std::move(*got)); });
    });
  });
  guard.done = true;
  co_return reply;
}

Async<Result<Bytes>> Client::unary(std::string method, Bytes request, CallOptions options) {
  UnaryReply reply = co_await unary_with_trailers(std::move(method), std::move(request), std::move(options));
  if (!reply.ending.status.ok()) co_return reply.ending.status.error();
  co_return std::move(reply.message);
}

std::unique_ptr<Stream> Client::stream(std::string method, CallOptions options) {
  auto reactor = std::make_shared<client_detail::StreamReactor>(state_);
  reactor->start(method, options);
  return std::make_unique<Stream>(std::move(reactor));
}

}  // namespace proa::rpc
