// SPDX-License-Identifier: Apache-2.0
#include "api/modal/call.h"

#include <algorithm>
#include <cmath>

#include "api/modal/payload.h"

namespace proa::api::modal {
namespace {

using google::protobuf::Empty;

// How long a client's poll is held at most; it asks for 55 s and gives up 5 s later.
constexpr Duration kPollMax = std::chrono::seconds(55);
// How long a stream of chunks stays open before the client, as it must, opens it anew.
constexpr Duration kStreamLife = std::chrono::seconds(55);
// How long further outputs are waited for once there is one, for a caller that expects many.
constexpr Duration kOutputsLinger = std::chrono::milliseconds(50);
constexpr Duration kJwtLife = std::chrono::hours(24 * 7);
constexpr std::string_view kInputPurpose = "input";
constexpr std::string_view kCallPurpose = "call";
// How many inputs of a map the client keeps under way: the wire's own default.
constexpr std::uint32_t kInputsOutstandingMax = 1000;

// Positions on the wire look like a stream's entry ids; "" and "0-0" are the beginning.
std::string write_position(std::uint64_t position) { return std::to_string(position) + "-0"; }
Result<std::uint64_t> read_position(const std::string& text) {
  std::uint64_t position = 0;
  for (const char c : text) {
    if (c == '-') break;
    if (c < '0' || c > '9' || position > (1ULL << 40)) return invalid_argument("'" + text + "' is not an entry id of this server");
    position = position * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return position;
}

Duration read_timeout(double seconds) {
  if (!std::isfinite(seconds) || seconds <= 0) return Duration(0);
  return std::min(kPollMax, Duration(static_cast<std::int64_t>(seconds * 1e6)));
}

Result<std::vector<control::NewInput>> read_inputs(google::protobuf::RepeatedPtrField<pb::FunctionPutInputsItem>& items) {
  std::vector<control::NewInput> inputs;
  inputs.reserve(static_cast<std::size_t>(items.size()));
  for (pb::FunctionPutInputsItem& item : items) {
    if (item.idx() < 0) return invalid_argument("an input's index cannot be negative");
    control::NewInput input;
    input.index = static_cast<std::uint32_t>(item.idx());
    PROA_TRY(input.arguments, read_input(std::move(*item.mutable_input())));
    inputs.push_back(std::move(input));
  }
  return inputs;
}

control::Invocation read_invocation(pb::FunctionCallInvocationType type) {
  const bool async = type == pb::FUNCTION_CALL_INVOCATION_TYPE_ASYNC || type == pb::FUNCTION_CALL_INVOCATION_TYPE_ASYNC_LEGACY;
  return async ? control::Invocation::kAsync : control::Invocation::kSync;
}

}  // namespace

void CallApi::bind(Router& router) {
  router.unary("FunctionMap", this, &CallApi::map);
  router.unary("FunctionPutInputs", this, &CallApi::put_inputs);
  router.unary("FunctionGetOutputs", this, &CallApi::get_outputs);
  router.unary("FunctionRetryInputs", this, &CallApi::retry_inputs);
  router.unary("FunctionFinishInputs", this, &CallApi::finish_inputs);
  router.unary("FunctionCallFromId", this, &CallApi::from_id);
  router.unary("FunctionCallCancel", this, &CallApi::cancel);
  router.unary("FunctionCallGetInfo", this, &CallApi::info);
  router.unary("FunctionGetCurrentStats", this, &CallApi::stats);
  router.unary("FunctionCallPutDataOut", this, &CallApi::put_data_out);
  router.stream("FunctionCallGetDataOut", this, &CallApi::get_data_out);
  router.stream("FunctionCallGetDataIn", this, &CallApi::get_data_in);
}

std::string CallApi::input_jwt(InputId input) const {
  return access_.sign(kInputPurpose, input.text(), kJwtLife, static_cast<std::int64_t>(input.index));
}

Async<Result<pb::FunctionMapResponse>> CallApi::map(Caller, pb::FunctionMapRequest request) {
  control::NewCall call;
  PROA_CO_TRY(call.function, FunctionId::parse(request.function_id()));
  call.kind = request.function_call_type() == pb::FUNCTION_CALL_TYPE_MAP ? control::CallKind::kMap : control::CallKind::kUnary;
  call.invocation = read_invocation(request.function_call_invocation_type());
  if (!request.parent_input_id().empty()) {
    PROA_CO_TRY(call.parent, InputId::parse(request.parent_input_id()));
  }
  // Read before the call is made, so that a bad input leaves no call behind.
  PROA_CO_TRY(auto inputs, read_inputs(*request.mutable_pipelined_inputs()));
  PROA_CO_TRY(const CallId id, calls_.create(call));
  PROA_CO_TRY(const auto input_ids, calls_.put_inputs(id, std::move(inputs)));
  pb::FunctionMapResponse response;
  response.set_function_call_id(id.text());
  response.set_function_call_jwt(access_.sign(kCallPurpose, id.text(), kJwtLife));
  response.set_max_inputs_outstanding(kInputsOutstandingMax);
  for (const InputId input : input_ids) {
    auto* item = response.add_pipelined_inputs();
    item->set_idx(static_cast<std::int32_t>(input.index));
    item->set_input_id(input.text());
    item->set_input_jwt(input_jwt(input));
  }
  // Retries are the server's: sync_client_retries_enabled stays false. The policy is for those who show it.
  if (const auto function = functions_.view(call.function)) {
    const control::RetryPolicy& policy = function->spec->retries;
    response.mutable_retry_policy()->set_retries(policy.retries);
    response.mutable_retry_policy()->set_backoff_coefficient(static_cast<float>(policy.backoff));
    response.mutable_retry_policy()->set_initial_delay_ms(static_cast<std::uint32_t>(policy.initial_delay.count() / 1000));
    response.mutable_retry_policy()->set_max_delay_ms(static_cast<std::uint32_t>(policy.delay_max.count() / 1000));
  }
  co_return response;
}

Async<Result<pb::FunctionPutInputsResponse>> CallApi::put_inputs(Caller, pb::FunctionPutInputsRequest request) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  PROA_CO_TRY(auto inputs, read_inputs(*request.mutable_inputs()));
  PROA_CO_TRY(const auto input_ids, calls_.put_inputs(id, std::move(inputs)));
  pb::FunctionPutInputsResponse response;
  for (const InputId input : input_ids) {
    auto* item = response.add_inputs();
    item->set_idx(static_cast<std::int32_t>(input.index));
    item->set_input_id(input.text());
    item->set_input_jwt(input_jwt(input));
  }
  co_return response;
}

Async<Result<pb::FunctionGetOutputsResponse>> CallApi::get_outputs(Caller, pb::FunctionGetOutputsRequest request) {
  control::OutputQuery query;
  PROA_CO_TRY(query.call, CallId::parse(request.function_call_id()));
  PROA_CO_TRY(query.after, read_position(request.last_entry_id()));
  if (request.has_start_idx() || request.has_end_idx()) {
    if (request.start_idx() < 0 || request.end_idx() < request.start_idx()) {
      co_return invalid_argument("the range of indices " + std::to_string(request.start_idx()) + " to " + std::to_string(request.end_idx()) + " is empty");
    }
    query.range.emplace(static_cast<std::uint32_t>(request.start_idx()), static_cast<std::uint32_t>(request.end_idx()));
  }
  query.timeout = read_timeout(request.timeout());
  // A map names all the inputs that it waits for each time it asks: it should not have to ask for each of them.
  constexpr std::size_t kWaitingForOneOutput = 20;
  query.outputs_wanted = 1 + static_cast<std::size_t>(request.input_jwts_size()) / kWaitingForOneOutput;
  query.linger = kOutputsLinger;
  query.outputs_max = request.max_values() > 0 ? static_cast<std::size_t>(request.max_values()) : 0;
  PROA_CO_TRY(const auto answer, co_await calls_.outputs(query));
  pb::FunctionGetOutputsResponse response;
  response.set_last_entry_id(write_position(answer.position));
  response.set_num_unfinished_inputs(static_cast<std::int32_t>(answer.unfinished));
  for (const control::FinishedInput& finished : answer.outputs) *response.add_outputs() = write_output(finished);
  co_return response;
}

Async<Result<pb::FunctionRetryInputsResponse>> CallApi::retry_inputs(Caller, pb::FunctionRetryInputsRequest request) {
  PROA_CO_TRY(const JwtClaims call, access_.verify(request.function_call_jwt(), kCallPurpose));
  pb::FunctionRetryInputsResponse response;
  for (pb::FunctionRetryInputsItem& item : *request.mutable_inputs()) {
    PROA_CO_TRY(const JwtClaims claims, access_.verify(item.input_jwt(), kInputPurpose));
    PROA_CO_TRY(const InputId input, InputId::parse(claims.identity));
    if (input.call.text() != call.identity) co_return permission_denied("the input " + input.text() + " is not one of the call " + call.identity);
    std::optional<control::Arguments> arguments;
    if (item.has_input()) {
      PROA_CO_TRY(arguments, read_input(std::move(*item.mutable_input())));
    }
    PROA_CO_TRY_VOID(calls_.retry(input, std::move(arguments), item.retry_count()));
    response.add_input_jwts(input_jwt(input));
  }
  co_return response;
}

Async<Result<Empty>> CallApi::finish_inputs(Caller, pb::FunctionFinishInputsRequest request) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  PROA_CO_TRY_VOID(calls_.view(id));
  co_return Empty();
}

Async<Result<pb::FunctionCallFromIdResponse>> CallApi::from_id(Caller, pb::FunctionCallFromIdRequest request) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  PROA_CO_TRY(const control::CallView view, calls_.view(id));
  pb::FunctionCallFromIdResponse response;
  response.set_function_call_id(id.text());
  response.set_num_inputs(static_cast<std::int32_t>(view.inputs));
  response.mutable_metadata()->set_app_id(view.app.text());
  response.mutable_metadata()->set_function_id(view.function.text());
  co_return response;
}

Async<Result<Empty>> CallApi::cancel(Caller, pb::FunctionCallCancelRequest request) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  std::vector<TaskId> containers;
  if (request.terminate_containers()) containers = scheduler_.tasks_running(id);
  PROA_CO_TRY_VOID(calls_.cancel(id, "the call was cancelled"));
  for (const TaskId task : containers) (void)scheduler_.stop_task(task, sched::StopHow::kInterrupt).ok();
  co_return Empty();
}

Async<Result<pb::FunctionCallGetInfoResponse>> CallApi::info(Caller, pb::FunctionCallGetInfoRequest request) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  PROA_CO_TRY(const control::CallView view, calls_.view(id));
  pb::FunctionCallGetInfoResponse response;
  pb::FunctionCallInfo& info = *response.mutable_info();
  info.set_function_call_id(id.text());
  info.set_created_at(to_unix_seconds(view.created));
  info.set_total_inputs(static_cast<std::int32_t>(view.inputs));
  info.mutable_pending_inputs()->set_total(static_cast<std::int32_t>(view.unfinished));
  info.mutable_succeeded_inputs()->set_total(static_cast<std::int32_t>(view.succeeded));
  info.mutable_failed_inputs()->set_total(static_cast<std::int32_t>(view.failed));
  info.mutable_timeout_inputs()->set_total(static_cast<std::int32_t>(view.timed_out));
  info.mutable_cancelled_inputs()->set_total(static_cast<std::int32_t>(view.terminated));
  co_return response;
}

Async<Result<pb::FunctionStats>> CallApi::stats(Caller, pb::FunctionGetCurrentStatsRequest request) {
  PROA_CO_TRY(const FunctionId id, FunctionId::parse(request.function_id()));
  if (!functions_.view(id)) co_return not_found("the function " + id.text() + " is not part of a running app");
  const sched::FunctionStats stats = scheduler_.stats(id);
  pb::FunctionStats response;
  response.set_backlog(static_cast<std::uint32_t>(stats.backlog));
  response.set_num_total_tasks(static_cast<std::uint32_t>(stats.tasks));
  response.set_num_running_inputs(static_cast<std::uint32_t>(stats.running));
  co_return response;
}

Result<CallId> CallApi::own_call(const Caller& caller, const std::string& text) const {
  PROA_TRY(const CallId id, CallId::parse(text));
  PROA_TRY(const control::CallView call, calls_.view(id));
  const auto task = scheduler_.task(caller.task);
  if (!task || task->function != call.function) return permission_denied("the call " + id.text() + " is not one of this container's function");
  return id;
}

Async<Result<Empty>> CallApi::put_data_out(Caller caller, pb::FunctionCallPutDataRequest request) {
  PROA_CO_TRY(const CallId id, own_call(caller, request.function_call_id()));
  std::vector<control::Calls::Chunk> chunks;
  for (pb::DataChunk& chunk : *request.mutable_data_chunks()) {
    PROA_CO_TRY(auto read, read_chunk(std::move(chunk)));
    chunks.push_back(std::move(read));
  }
  PROA_CO_TRY_VOID(calls_.put_chunks(id, control::Calls::Channel::kOut, std::move(chunks)));
  co_return Empty();
}

Async<Result<void>> CallApi::stream_chunks(CallId id, std::uint64_t after, control::Calls::Channel channel, StreamWriter<pb::DataChunk> writer) {
  const Time end = loop_.now() + kStreamLife;
  while (loop_.now() < end) {
    PROA_CO_TRY(const auto chunks, co_await calls_.chunks(id, channel, after, end - loop_.now()));
    for (const control::Calls::Chunk& chunk : chunks) {
      after = chunk.index;
      if (!co_await writer.write(write_chunk(chunk))) co_return Result<void>();
    }
  }
  co_return Result<void>();
}

Async<Result<void>> CallApi::get_data_out(Caller, pb::FunctionCallGetDataRequest request, StreamWriter<pb::DataChunk> writer) {
  PROA_CO_TRY(const CallId id, CallId::parse(request.function_call_id()));
  co_return co_await stream_chunks(id, request.last_index(), control::Calls::Channel::kOut, writer);
}

Async<Result<void>> CallApi::get_data_in(Caller caller, pb::FunctionCallGetDataRequest request, StreamWriter<pb::DataChunk> writer) {
  PROA_CO_TRY(const CallId id, own_call(caller, request.function_call_id()));
  co_return co_await stream_chunks(id, request.last_index(), control::Calls::Channel::kIn, writer);
}

}  // namespace proa::api::modal
