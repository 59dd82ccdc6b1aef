// SPDX-License-Identifier: Apache-2.0
#include "api/modal/log.h"

namespace proa::api::modal {
namespace {

// Clients open the stream anew after it; they give up a little later.
constexpr Duration kStreamLife = std::chrono::seconds(55);

pb::FileDescriptor write_stream(control::LogStream stream) {
  switch (stream) {
    case control::LogStream::kStdout: return pb::FILE_DESCRIPTOR_STDOUT;
    case control::LogStream::kStderr: return pb::FILE_DESCRIPTOR_STDERR;
    case control::LogStream::kInfo: return pb::FILE_DESCRIPTOR_INFO;
  }
  return pb::FILE_DESCRIPTOR_UNSPECIFIED;
}

std::optional<control::LogStream> read_stream(pb::FileDescriptor descriptor) {
  switch (descriptor) {
    case pb::FILE_DESCRIPTOR_STDOUT: return control::LogStream::kStdout;
    case pb::FILE_DESCRIPTOR_STDERR: return control::LogStream::kStderr;
    case pb::FILE_DESCRIPTOR_INFO: return control::LogStream::kInfo;
    default: return std::nullopt;
  }
}

pb::TaskState write_phase(control::TaskPhase phase) {
  switch (phase) {
    case control::TaskPhase::kNone: return pb::TASK_STATE_UNSPECIFIED;
    case control::TaskPhase::kAssigned: return pb::TASK_STATE_WORKER_ASSIGNED;
    case control::TaskPhase::kLoading: return pb::TASK_STATE_LOADING_IMAGE;
    case control::TaskPhase::kStarting: return pb::TASK_STATE_CREATING_CONTAINER;
    case control::TaskPhase::kReady: return pb::TASK_STATE_ACTIVE;
    case control::TaskPhase::kEnded: return pb::TASK_STATE_COMPLETED;
  }
  return pb::TASK_STATE_UNSPECIFIED;
}

std::string write_position(std::uint64_t position) { return std::to_string(position) + "-0"; }

Result<std::uint64_t> read_position(const std::string& text) {
  std::uint64_t position = 0;
  for (const char c : text) {
    if (c == '-') break;
    if (c < '0' || c > '9' || position > UINT64_MAX / 20)
      return invalid_argument("'" + text.substr(0, 40) + "' is not an entry id of this server");
    position = position * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return position;
}

}  // namespace

void LogApi::bind(Router& router) {
  router.stream("AppGetLogs", this, &LogApi::follow);
  router.unary("AppFetchLogs", this, &LogApi::fetch);
  router.unary("AppCountLogs", this, &LogApi::count);
}

template <class Request>
Result<control::LogFilter> LogApi::read_filter(const Request& request) const {
  if (!request.sandbox_id().empty()) return unimplemented("Logs of sandboxes are not there yet");
  control::LogFilter filter;
  PROA_TRY(const FunctionId base, read_optional_id<FunctionId>("Function", request.function_id()));
  PROA_TRY(const FunctionId exact, read_optional_id<FunctionId>("Function", request.parametrized_function_id()));
  PROA_TRY(filter.call, read_optional_id<CallId>("Function call", request.function_call_id()));
  PROA_TRY(filter.task, read_optional_id<TaskId>("Task", request.task_id()));
  if (!base.empty() || !exact.empty()) {
    // The base's id stands for all of its variants.
    filter.function = [&apps = apps_, base, exact](FunctionId function) {
      if (!exact.empty() && function != exact) return false;
      if (base.empty() || function == base) return true;
      const control::Function* const known = apps.function(function);
      return known != nullptr && known->base == base;
    };
  }
  return filter;
}

std::vector<pb::TaskLogsBatch> LogApi::write_batches(std::vector<control::LogEntry> entries) const {
  std::vector<pb::TaskLogsBatch> batches;
  const control::LogEntry* previous = nullptr;
  for (control::LogEntry& entry : entries) {
    if (previous == nullptr || previous->task != entry.task || previous->function != entry.function) {
      pb::TaskLogsBatch& batch = batches.emplace_back();
      batch.set_task_id(entry.task.text());
      batch.set_function_id(entry.function.text());
      const control::Function* const function = apps_.function(entry.function);
      if (function != nullptr)
        batch.set_root_function_id((function->base.empty() ? function->id : function->base).text());
    }
    pb::TaskLogsBatch& batch = batches.back();
    batch.set_entry_id(write_position(entry.position));
    pb::TaskLogs& item = *batch.add_items();
    item.set_timestamp(to_unix_seconds(entry.time));
    item.set_timestamp_ns(static_cast<std::uint64_t>(std::max<std::int64_t>(0, to_micros(entry.time))) * 1000);
    if (entry.phase != control::TaskPhase::kNone) {
      item.set_task_state(write_phase(entry.phase));
    } else {
      item.set_data(std::move(entry.text));
      item.set_file_descriptor(write_stream(entry.stream));
      if (!entry.input.call.empty()) {
        item.set_function_call_id(entry.input.call.text());
        item.set_input_id(entry.input.text());
      }
    }
    previous = &entry;
  }
  return batches;
}

Async<Result<void>> LogApi::follow(Caller, pb::AppGetLogsRequest request, StreamWriter<pb::TaskLogsBatch> writer) {
  PROA_CO_TRY(AppId app, read_optional_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(control::LogFilter filter, read_filter(request));
  filter.stream = read_stream(request.file_descriptor());
  if (!request.input_id().empty()) {
    PROA_CO_TRY(filter.input, InputId::parse(request.input_id()));
  }
  if (app.empty()) {
    const auto task = scheduler_.task(filter.task);
    if (!task) co_return not_found("Which app's logs? Neither an app nor a task that is known was named");
    app = task->app;
  }
  PROA_CO_TRY(const control::App* known, apps_.require(app));
  const Duration timeout = read_poll(static_cast<double>(request.timeout()), kStreamLife);
  PROA_CO_TRY(std::uint64_t position, read_position(request.last_entry_id()));
  // Who begins to follow a deployed app wants what it prints from now on: what it has printed since it was
  // deployed is there to be fetched.
  const bool from_now =
      request.last_entry_id().empty() && timeout > Duration(0) && known->state == control::AppState::kDeployed;
  if (from_now) position = logs_.latest(app);
  const Time deadline = loop_.now() + timeout;
  while (true) {
    PROA_CO_TRY(control::LogPage page, co_await logs_.follow(app, filter, position, deadline));
    const bool nothing = page.entries.empty();
    if (!nothing || page.done) {
      for (pb::TaskLogsBatch& batch : write_batches(std::move(page.entries))) {
        if (!co_await writer.write(std::move(batch))) co_return Result<void>();
      }
    }
    if (page.done) {
      pb::TaskLogsBatch last;
      last.set_app_done(true);
      last.set_entry_id(write_position(page.position));
      (void)co_await writer.write(std::move(last));
      co_return Result<void>();
    }
    if (nothing) {
      // So that the next stream goes on after what did not match, too.
      if (page.position != position) {
        pb::TaskLogsBatch mark;
        mark.set_entry_id(write_position(page.position));
        (void)co_await writer.write(std::move(mark));
      }
      co_return Result<void>();
    }
    position = page.position;
  }
}

Async<Result<pb::AppFetchLogsResponse>> LogApi::fetch(Caller, pb::AppFetchLogsRequest request) {
  PROA_CO_TRY(const AppId app, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(control::LogFilter filter, read_filter(request));
  filter.stream = read_stream(request.source());
  filter.text = request.search_text();
  const Time since = request.has_since() ? read_timestamp(request.since()) : Time();
  const Time until = request.has_until() ? read_timestamp(request.until()) : kNever;
  PROA_CO_TRY(auto entries, co_await logs_.fetch(app, std::move(filter), since, until, request.limit()));
  pb::AppFetchLogsResponse response;
  for (pb::TaskLogsBatch& batch : write_batches(std::move(entries))) *response.add_batches() = std::move(batch);
  co_return response;
}

Async<Result<pb::AppCountLogsResponse>> LogApi::count(Caller, pb::AppCountLogsRequest request) {
  PROA_CO_TRY(const AppId app, read_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(control::LogFilter filter, read_filter(request));
  filter.stream = read_stream(request.source());
  filter.text = request.search_text();
  const Time since = request.has_since() ? read_timestamp(request.since()) : Time();
  const Time until = request.has_until() ? read_timestamp(request.until()) : loop_.now();
  PROA_CO_TRY(const auto counts,
              co_await logs_.count(app, std::move(filter), since, until, std::chrono::seconds(request.bucket_secs())));
  pb::AppCountLogsResponse response;
  response.set_app_id(app.text());
  for (const control::LogCount& count : counts) {
    auto& bucket = *response.add_buckets();
    write_timestamp(count.start, *bucket.mutable_bucket_start_at());
    bucket.set_stdout_logs(count.out);
    bucket.set_stderr_logs(count.err);
    bucket.set_system_logs(count.info);
  }
  co_return response;
}

}  // namespace proa::api::modal
