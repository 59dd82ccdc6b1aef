// SPDX-License-Identifier: Apache-2.0
#include "rpc/forward.h"

namespace proa::rpc {
namespace {

Async<> pump_requests(ServerCall& call, Stream& stream) {
  while (true) {
    auto message = co_await call.read();
    if (!message.ok() || !*message) break;
    if (!co_await stream.write(*std::move(*message))) co_return;
  }
  stream.writes_done();
}

}  // namespace

Metadata forwardable_metadata(const ServerCall& call) {
  Metadata metadata;
  for (auto& [name, value] : call.all_metadata()) {
    if (name.starts_with("grpc-") || name.starts_with(':') || name == "te" || name == "content-type" ||
        name == "user-agent" || name == "host") {
      continue;
    }
    metadata.emplace_back(std::move(name), std::move(value));
  }
  return metadata;
}

Async<Result<void>> forward(Loop&, ServerCall& call, Client& client, std::string method, Metadata metadata) {
  CallOptions options;
  options.metadata = std::move(metadata);
  options.deadline = call.deadline();
  const std::unique_ptr<Stream> stream = client.stream(std::move(method), std::move(options));
  Scope requests;  // Goes before the stream it writes to.
  requests.spawn(pump_requests(call, *stream));
  while (auto message = co_await stream->read()) {
    if (!co_await call.write(*std::move(message))) co_return Error{Code::kCancelled, "the caller has gone"};
  }
  Ending ending = co_await stream->ended();
  for (const auto& [name, value] : ending.trailers) call.add_trailer(name, value);
  if (!ending.status_details.empty()) call.set_status_details(std::move(ending.status_details));
  co_return std::move(ending.status);
}

}  // namespace proa::rpc
