// SPDX-License-Identifier: Apache-2.0
#include "api/modal/task.h"

namespace proa::api::modal {
namespace {

pb::GenericResult write_end(const sched::TaskView& task) {
  pb::GenericResult result;
  switch (task.reason) {
    case sched::EndReason::kNone:
    case sched::EndReason::kFinished: result.set_status(pb::GenericResult::GENERIC_STATUS_SUCCESS); break;
    case sched::EndReason::kInitFailure:
    case sched::EndReason::kStartFailed:
    case sched::EndReason::kStartTimeout: result.set_status(pb::GenericResult::GENERIC_STATUS_INIT_FAILURE); break;
    case sched::EndReason::kInputTimeout: result.set_status(pb::GenericResult::GENERIC_STATUS_TIMEOUT); break;
    case sched::EndReason::kLost: result.set_status(pb::GenericResult::GENERIC_STATUS_INTERNAL_FAILURE); break;
    case sched::EndReason::kCrashed: result.set_status(pb::GenericResult::GENERIC_STATUS_FAILURE); break;
  }
  result.set_exception(task.message);
  return result;
}

}  // namespace

void TaskApi::bind(Router& router) {
  router.unary("TaskList", this, &TaskApi::list);
  router.unary("TaskGetInfo", this, &TaskApi::info);
  router.unary("ContainerStop", this, &TaskApi::stop);
}

Async<Result<pb::TaskListResponse>> TaskApi::list(Caller, pb::TaskListRequest request) {
  PROA_CO_TRY(const AppId only, read_optional_id<AppId>("App", request.app_id()));
  PROA_CO_TRY(const EnvironmentId environment, environments_.resolve(request.environment_name()));
  pb::TaskListResponse response;
  for (const sched::TaskView& task : scheduler_.tasks(only)) {
    const control::App* const app = apps_.find(task.app);
    if (app == nullptr || (only.empty() && app->environment != environment)) continue;
    pb::TaskStats& item = *response.add_tasks();
    item.set_task_id(task.id.text());
    item.set_app_id(task.app.text());
    item.set_app_description(app->name.empty() ? app->description : app->name);
    item.set_started_at(write_time(task.started));
    item.set_enqueued_at(write_time(task.created));
  }
  co_return response;
}

Async<Result<pb::TaskGetInfoResponse>> TaskApi::info(Caller, pb::TaskGetInfoRequest request) {
  PROA_CO_TRY(const TaskId id, read_id<TaskId>("Container", request.task_id()));
  const auto task = scheduler_.task(id);
  if (!task)
    co_return not_found("Container '" + id.text() +
                        "' not found: it is not running, and ended long ago if it ever was");
  pb::TaskGetInfoResponse response;
  response.set_app_id(task->app.text());
  pb::TaskInfo& info = *response.mutable_info();
  info.set_id(id.text());
  info.set_enqueued_at(write_time(task->created));
  info.set_started_at(write_time(task->started));
  if (task->state == sched::TaskState::kEnded) {
    info.set_finished_at(write_time(task->ended));
    *info.mutable_result() = write_end(*task);
  }
  co_return response;
}

Async<Result<pb::ContainerStopResponse>> TaskApi::stop(Caller caller, pb::ContainerStopRequest request) {
  PROA_CO_TRY(const TaskId id, read_id<TaskId>("Container", request.task_id()));
  if (caller.kind == Caller::Kind::kContainer) {
    const auto own = scheduler_.task(caller.task);
    const auto other = scheduler_.task(id);
    if (!own || !other || own->app != other->app)
      co_return permission_denied("A container may stop containers of its own app only");
  }
  PROA_CO_TRY_VOID(scheduler_.stop_task(id, request.graceful() ? sched::StopHow::kDrain : sched::StopHow::kInterrupt));
  co_return pb::ContainerStopResponse();
}

}  // namespace proa::api::modal
