// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's calls: FunctionMap and what follows from it. Translation only; the rules are
// control::Calls's.
#pragma once

#include "api/modal/pb.h"
#include "api/router.h"
#include "control/access.h"
#include "control/calls.h"
#include "sched/scheduler.h"

namespace proa::api::modal {

class CallApi {
 public:
  CallApi(Loop& loop, control::Calls& calls, control::FunctionBook& functions, control::Access& access, sched::Scheduler& scheduler)
      : loop_(loop), calls_(calls), functions_(functions), access_(access), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  Async<Result<pb::FunctionMapResponse>> map(Caller caller, pb::FunctionMapRequest request);
  Async<Result<pb::FunctionPutInputsResponse>> put_inputs(Caller caller, pb::FunctionPutInputsRequest request);
  Async<Result<pb::FunctionGetOutputsResponse>> get_outputs(Caller caller, pb::FunctionGetOutputsRequest request);
  Async<Result<pb::FunctionRetryInputsResponse>> retry_inputs(Caller caller, pb::FunctionRetryInputsRequest request);
  Async<Result<google::protobuf::Empty>> finish_inputs(Caller caller, pb::FunctionFinishInputsRequest request);
  Async<Result<pb::FunctionCallFromIdResponse>> from_id(Caller caller, pb::FunctionCallFromIdRequest request);
  Async<Result<google::protobuf::Empty>> cancel(Caller caller, pb::FunctionCallCancelRequest request);
  Async<Result<pb::FunctionCallGetInfoResponse>> info(Caller caller, pb::FunctionCallGetInfoRequest request);
  Async<Result<pb::FunctionStats>> stats(Caller caller, pb::FunctionGetCurrentStatsRequest request);
  Async<Result<google::protobuf::Empty>> put_data_out(Caller caller, pb::FunctionCallPutDataRequest request);
  Async<Result<void>> get_data_out(Caller caller, pb::FunctionCallGetDataRequest request, StreamWriter<pb::DataChunk> writer);
  Async<Result<void>> get_data_in(Caller caller, pb::FunctionCallGetDataRequest request, StreamWriter<pb::DataChunk> writer);
  Async<Result<void>> stream_chunks(CallId id, std::uint64_t after, control::Calls::Channel channel, StreamWriter<pb::DataChunk> writer);
  // A container may see and fill the channels of its own function's calls only.
  Result<CallId> own_call(const Caller& caller, const std::string& text) const;
  std::string input_jwt(InputId input) const;

  Loop& loop_;
  control::Calls& calls_;
  control::FunctionBook& functions_;
  control::Access& access_;
  sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
