// SPDX-License-Identifier: Apache-2.0
//
// The Modal wire's logs of apps: followed live, and looked back at. Translation only; the rules are
// control::Logs's.
#pragma once

#include "api/modal/convert.h"
#include "control/logs.h"

namespace proa::api::modal {

class LogApi {
 public:
  LogApi(Loop& loop, control::Logs& logs, const control::Apps& apps, const sched::Scheduler& scheduler)
      : loop_(loop), logs_(logs), apps_(apps), scheduler_(scheduler) {}
  void bind(Router& router);

 private:
  Async<Result<void>> follow(Caller caller, pb::AppGetLogsRequest request, StreamWriter<pb::TaskLogsBatch> writer);
  Async<Result<pb::AppFetchLogsResponse>> fetch(Caller caller, pb::AppFetchLogsRequest request);
  Async<Result<pb::AppCountLogsResponse>> count(Caller caller, pb::AppCountLogsRequest request);

  // What the three requests have in common.
  template <class Request>
  Result<control::LogFilter> read_filter(const Request& request) const;
  // Neighbours of one task and function share a batch.
  std::vector<pb::TaskLogsBatch> write_batches(std::vector<control::LogEntry> entries) const;

  Loop& loop_;
  control::Logs& logs_;
  const control::Apps& apps_;
  const sched::Scheduler& scheduler_;
};

}  // namespace proa::api::modal
