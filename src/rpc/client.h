// SPDX-License-Identifier: Apache-2.0
//
// rpc::Client: gRPC calls as bytes, from a loop: unary, and streams of any shape. One client is one connection,
// made when first needed and made again when it is lost; nothing is retried for the caller.
//
// On the loop only. Destroying the Async of a call, or a Stream, cancels it at the server. The calls of a Client that
// goes end with kCancelled.
//
// A call is sent once the server has said its first word on a connection. kUnavailable is all that is known of one that
// was cut off: it may have reached the server, or not.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "rt/real_loop.h"

namespace proa::rpc {

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct ClientTls {
  std::string ca_pem;       // Empty: the system's roots.
  std::string server_name;  // If it is not that of the address.
};

struct ClientOptions {
  std::string address;  // "host:port", "[::1]:port", "unix:/path" or "unix-abstract:name".
  std::optional<ClientTls> tls;
  // How soon a server that went away without a word is noticed. 0 is off (unix sockets need none).
  Duration keepalive_time = std::chrono::seconds(20);
  Duration keepalive_timeout = std::chrono::seconds(20);
  Duration reconnect_delay_max = std::chrono::seconds(1);
};

struct CallOptions {
  Metadata metadata;
  Time deadline = kNever;
  // Whether a call waits (until its deadline) for a server that cannot be reached, or fails with kUnavailable.
  enum class Unreachable { kFail, kWait } unreachable = Unreachable::kFail;
};

// How a call ended, with what came beside the message.
struct Ending {
  Result<void> status;
  Metadata trailers;
  Bytes status_details;  // "grpc-status-details-bin".
};

struct UnaryReply {
  Bytes message;  // Empty unless the ending is ok.
  Ending ending;
};

namespace client_detail {
struct ChannelState;
class Exchange;
}  // namespace client_detail

class Stream {
 public:
  explicit Stream(std::shared_ptr<client_detail::Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~Stream();  // Cancels, unless it has ended.
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Like ServerCall's, from the other side: one read and one write at a time, which may go beside each other.
  Async<std::optional<Bytes>> read();  // Nothing: the server sends no more; ended() says why.
  Async<bool> write(Bytes message);    // False: the stream is over.
  void writes_done();                  // No more writes. Not beside a write.
  // Waits for the server's status. What was not read is dropped.
  Async<Ending> ended();
  void cancel();

 private:
  std::shared_ptr<client_detail::Exchange> exchange_;
};

class Client {
 public:
  // Does not connect. kInvalidArgument for an address that is none.
  static Result<std::unique_ptr<Client>> create(RealLoop& loop, ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `method` is "/package.Service/Method".
  Async<Result<Bytes>> unary(std::string method, Bytes request, CallOptions options = {});
  Async<UnaryReply> unary_with_trailers(std::string method, Bytes request, CallOptions options = {});
  std::unique_ptr<Stream> stream(std::string method, CallOptions options = {});

 private:
  explicit Client(std::shared_ptr<client_detail::ChannelState> state) : state_(std::move(state)) {}
  std::shared_ptr<client_detail::ChannelState> state_;
};

}  // namespace proa::rpc
