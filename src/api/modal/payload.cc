// SPDX-License-Identifier: Apache-2.0
#include "api/modal/payload.h"

#include <utility>

namespace proa::api::modal {
namespace {

constexpr const char* kSerializedTraceback = "serialized_tb";
constexpr const char* kTracebackLineCache = "tb_line_cache";

pb::GenericResult::GenericStatus write_status(control::Status status) {
  using Wire = pb::GenericResult;
  switch (status) {
    case control::Status::kSuccess: return Wire::GENERIC_STATUS_SUCCESS;
    case control::Status::kFailure: return Wire::GENERIC_STATUS_FAILURE;
    case control::Status::kTerminated: return Wire::GENERIC_STATUS_TERMINATED;
    case control::Status::kTimeout: return Wire::GENERIC_STATUS_TIMEOUT;
    case control::Status::kInitFailure: return Wire::GENERIC_STATUS_INIT_FAILURE;
    case control::Status::kInternalFailure: return Wire::GENERIC_STATUS_INTERNAL_FAILURE;
    case control::Status::kNone: break;
  }
  return Wire::GENERIC_STATUS_UNSPECIFIED;
}

}  // namespace

// The numbers are the wire's (DATA_FORMAT_…): the core took them over, since payloads keep theirs for life.
control::DataFormat read_format(pb::DataFormat format) { return static_cast<control::DataFormat>(format); }
pb::DataFormat write_format(control::DataFormat format) { return static_cast<pb::DataFormat>(format); }

Result<control::Arguments> read_input(pb::FunctionInput input) {
  control::Arguments arguments;
  arguments.payload.format = read_format(input.data_format());
  arguments.method = input.method_name();
  if (input.has_args_blob_id()) {
    PROA_TRY(arguments.payload.blob, BlobId::parse(input.args_blob_id()));
  } else {
    arguments.payload.bytes = std::move(*input.mutable_args());
  }
  // Whether it is the last input of its container; the container wants it back.
  if (input.final_input()) arguments.face_extra = "final";
  return arguments;
}

pb::FunctionInput write_input(const control::Arguments& arguments) {
  pb::FunctionInput input;
  if (arguments.payload.blob.empty()) {
    input.set_args(arguments.payload.bytes);
  } else {
    input.set_args_blob_id(arguments.payload.blob.text());
  }
  input.set_data_format(write_format(arguments.payload.format));
  if (!arguments.method.empty()) input.set_method_name(arguments.method);
  input.set_final_input(!arguments.face_extra.empty());
  return input;
}

pb::GenericResult write_result(const control::Outcome& outcome) {
  pb::GenericResult result;
  result.set_status(write_status(outcome.status));
  result.set_exception(outcome.error);
  result.set_traceback(outcome.traceback);
  if (!outcome.value.blob.empty()) {
    result.set_data_blob_id(outcome.value.blob.text());
  } else if (!outcome.value.bytes.empty()) {
    result.set_data(outcome.value.bytes);
  }
  if (const auto found = outcome.attachments.find(kSerializedTraceback); found != outcome.attachments.end()) result.set_serialized_tb(found->second);
  if (const auto found = outcome.attachments.find(kTracebackLineCache); found != outcome.attachments.end()) result.set_tb_line_cache(found->second);
  return result;
}

pb::FunctionGetOutputsItem write_output(const control::FinishedInput& finished) {
  pb::FunctionGetOutputsItem item;
  *item.mutable_result() = write_result(finished.outcome);
  item.set_idx(static_cast<std::int32_t>(finished.input.index));
  item.set_input_id(finished.input.text());
  item.set_data_format(write_format(finished.outcome.value.format));
  item.set_task_id(finished.task.text());
  if (finished.started != Time()) item.set_input_started_at(to_unix_seconds(finished.started));
  item.set_output_created_at(to_unix_seconds(finished.finished));
  // The retries that the client itself asked for: it drops outputs with another count. Ours are our own.
  item.set_retry_count(0);
  return item;
}

Result<control::Calls::Chunk> read_chunk(pb::DataChunk chunk) {
  control::Calls::Chunk out;
  out.index = chunk.index();
  out.payload.format = read_format(chunk.data_format());
  if (chunk.has_data_blob_id()) {
    PROA_TRY(out.payload.blob, BlobId::parse(chunk.data_blob_id()));
  } else {
    out.payload.bytes = std::move(*chunk.mutable_data());
  }
  return out;
}

pb::DataChunk write_chunk(const control::Calls::Chunk& chunk) {
  pb::DataChunk out;
  out.set_index(chunk.index);
  out.set_data_format(write_format(chunk.payload.format));
  if (chunk.payload.blob.empty()) {
    out.set_data(chunk.payload.bytes);
  } else {
    out.set_data_blob_id(chunk.payload.blob.text());
  }
  return out;
}

}  // namespace proa::api::modal
