// SPDX-License-Identifier: Apache-2.0
//
// Between the Modal wire's messages in a container's calls and the worker's values. Pure translation.
#pragma once

#include <string_view>

#include "modal_proto/api.pb.h"
#include "worker/task.h"

namespace proa::worker {

namespace pb = ::modal::client;

// Whether a method of ModalClient answers with many messages. Unknown ones do not.
bool is_server_stream(std::string_view method);

control::Outcome read_result(pb::GenericResult result, control::DataFormat format);
// kInvalidArgument: it names no input.
Result<TaskOutput> read_output(pb::FunctionPutOutputsItem item);
void write_delivery(Delivery delivery, pb::FunctionGetInputsItem& item);

}  // namespace proa::worker
