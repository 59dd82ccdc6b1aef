// SPDX-License-Identifier: Apache-2.0
//
// Forwarding: a call that came in goes out again over a client, byte for byte, whatever its shape: messages both
// ways, trailers and status back, cancellation and deadline along. Nothing is buffered but one message each way.
#pragma once

#include "rpc/client.h"
#include "rpc/server.h"

namespace proa::rpc {

// Metadata of `call` that may travel on: all but what belongs to its own connection ("te", "content-type",
// "user-agent", "grpc-…", ":…").
Metadata forwardable_metadata(const ServerCall& call);

// Ends as the other side ended it. `metadata` is all that is sent; the caller adds whose call it is.
Async<Result<void>> forward(Loop& loop, ServerCall& call, Client& client, std::string method, Metadata metadata);

}  // namespace proa::rpc
