// SPDX-License-Identifier: Apache-2.0
//
// Payloads, inputs and outcomes between the Modal wire and the core's types. Pure translation.
#pragma once

#include <optional>

#include "api/modal/pb.h"
#include "base/result.h"
#include "control/calls.h"
#include "control/types.h"

namespace proa::api::modal {

control::DataFormat read_format(pb::DataFormat format);
pb::DataFormat write_format(control::DataFormat format);

// kInvalidArgument if it names a blob by something that is no blob id.
Result<control::Arguments> read_input(pb::FunctionInput input);
pb::FunctionInput write_input(const control::Arguments& arguments);

pb::GenericResult write_result(const control::Outcome& outcome);
pb::FunctionGetOutputsItem write_output(const control::FinishedInput& finished);

Result<control::Calls::Chunk> read_chunk(pb::DataChunk chunk);
pb::DataChunk write_chunk(const control::Calls::Chunk& chunk);

}  // namespace proa::api::modal
