// SPDX-License-Identifier: Apache-2.0
#include "worker/rpc/modal_messages.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <utility>

namespace proa::worker {
namespace {

control::Status read_status(pb::GenericResult::GenericStatus status) {
  using Wire = pb::GenericResult;
  switch (status) {
    case Wire::GENERIC_STATUS_SUCCESS: return control::Status::kSuccess;
    case Wire::GENERIC_STATUS_TERMINATED: return control::Status::kTerminated;
    case Wire::GENERIC_STATUS_TIMEOUT: return control::Status::kTimeout;
    case Wire::GENERIC_STATUS_INIT_FAILURE: return control::Status::kInitFailure;
    case Wire::GENERIC_STATUS_INTERNAL_FAILURE: return control::Status::kInternalFailure;
    default: return control::Status::kFailure;  // And all that says how it was killed.
  }
}

Time read_time(double unix_seconds) {
  // From hostile hands: beyond the year 9999 or not a number means nothing.
  if (!std::isfinite(unix_seconds) || unix_seconds < 0 || unix_seconds > 253'402'300'799.0) return Time();
  return from_micros(static_cast<std::int64_t>(unix_seconds * 1e6));
}

}  // namespace

bool is_server_stream(std::string_view method) {
  const auto* service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName("modal.client.ModalClient");
  const auto* found = service == nullptr ? nullptr : service->FindMethodByName(std::string(method));
  return found != nullptr && found->server_streaming();
}

control::Outcome read_result(pb::GenericResult result, control::DataFormat format) {
  control::Outcome outcome;
  outcome.status = read_status(result.status());
  outcome.error = std::move(*result.mutable_exception());
  outcome.traceback = std::move(*result.mutable_traceback());
  if (!result.serialized_tb().empty()) {
    outcome.attachments["serialized_tb"] = std::move(*result.mutable_serialized_tb());
  }
  if (!result.tb_line_cache().empty()) {
    outcome.attachments["tb_line_cache"] = std::move(*result.mutable_tb_line_cache());
  }
  outcome.value.format = format;
  if (result.has_data_blob_id()) {
    const Result<BlobId> blob = BlobId::parse(result.data_blob_id());
    if (!blob.ok()) {
      return {.status = control::Status::kInternalFailure,
              .error = "The container put its result into a blob that is none: " + blob.error().message};
    }
    outcome.value.blob = *blob;
  } else {
    outcome.value.bytes = std::move(*result.mutable_data());
  }
  return outcome;
}

Result<TaskOutput> read_output(pb::FunctionPutOutputsItem item) {
  TaskOutput output;
  PROA_TRY(output.input, InputId::parse(item.input_id()));
  output.retry_count = item.retry_count();
  output.outcome = read_result(std::move(*item.mutable_result()), static_cast<control::DataFormat>(item.data_format()));
  output.started = read_time(item.input_started_at());
  output.finished = read_time(item.output_created_at());
  return output;
}

void write_delivery(Delivery delivery, pb::FunctionGetInputsItem& item) {
  const sched::LeaseId lease = delivery.lease.id;
  item.set_input_id(lease.input.text());
  item.set_function_call_id(lease.input.call.text());
  item.set_function_call_invocation_type(delivery.lease.invocation == control::Invocation::kAsync
                                             ? pb::FUNCTION_CALL_INVOCATION_TYPE_ASYNC
                                             : pb::FUNCTION_CALL_INVOCATION_TYPE_SYNC);
  item.set_retry_count(delivery.lease.retry_count);
  pb::FunctionInput& input = *item.mutable_input();
  const control::Arguments& arguments = delivery.arguments;
  if (arguments.payload.blob.empty()) {
    input.set_args(std::move(delivery.arguments.payload.bytes));
  } else {
    input.set_args_blob_id(arguments.payload.blob.text());
  }
  input.set_data_format(static_cast<pb::DataFormat>(arguments.payload.format));
  if (!arguments.method.empty()) input.set_method_name(arguments.method);
  // All that the face keeps of an input: whether its container ends with it.
  input.set_final_input(!arguments.face_extra.empty());
}

}  // namespace proa::worker
