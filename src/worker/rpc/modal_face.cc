// SPDX-License-Identifier: Apache-2.0
#include "worker/rpc/modal_face.h"

#include <algorithm>
#include <array>
#include <utility>

#include "worker/rpc/modal_messages.h"

namespace proa::worker {
namespace {

constexpr std::string_view kPrefix = "/modal.client.ModalClient/";
// The client gives a heartbeat 15.1 s and sends one every 15 s, less what the last one took.
constexpr Duration kHeartbeatHold = std::chrono::seconds(14);
constexpr int kOutputsMax = 1000;

constexpr std::array kLocal = std::to_array<std::string_view>({
    "ContainerCheckpoint",
    "ContainerHeartbeat",
    "ContainerHello",
    "ContainerStop",
    "FunctionGetDynamicConcurrency",
    "FunctionGetInputs",
    "FunctionPutOutputs",
    "TaskResult",
    "VolumeCommit",
    "VolumeReload",
});

// What an untrusted container needs of the server to run its inputs at all.
constexpr std::array kOpenToUntrusted = std::to_array<std::string_view>({
    "BlobCreate",
    "BlobGet",
    "FunctionCallGetDataIn",
    "FunctionCallPutDataOut",
});

bool is_one_of(std::string_view name, const auto& list) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

class ModalFace final : public WireFace {
 public:
  explicit ModalFace(Logger& log) : log_(log) {}

  std::string_view prefix() const override { return kPrefix; }

  Route route(const Task& task, std::string_view method) const override {
    if (is_one_of(method, kLocal)) return Route::kLocal;
    if (task.order().untrusted && !is_one_of(method, kOpenToUntrusted)) return Route::kRefuse;
    return is_server_stream(method) ? Route::kForwardStream : Route::kForward;
  }

  Async<Result<Bytes>> serve(std::shared_ptr<ContainerState> container, std::string method, Bytes request,
                             std::string key) override {
    if (method == "ContainerHello") return done();
    if (method == "ContainerHeartbeat") return heartbeat(std::move(container));
    if (method == "FunctionGetInputs") return get_inputs(std::move(container), std::move(request), std::move(key));
    if (method == "FunctionPutOutputs") return put_outputs(std::move(container), std::move(request));
    if (method == "TaskResult") return task_result(std::move(container), std::move(request));
    if (method == "FunctionGetDynamicConcurrency") return concurrency(std::move(container));
    if (method == "ContainerStop") return stop(std::move(container), std::move(request));
    if (method == "VolumeCommit" || method == "VolumeReload") return no_volume(std::move(method));
    return no_snapshots();
  }

 private:
  static Async<Result<Bytes>> done() { co_return Bytes(); }

  static Async<Result<Bytes>> heartbeat(std::shared_ptr<ContainerState> container) {
    const std::vector<InputId> cancelled = co_await Task::heartbeat(container->task, kHeartbeatHold);
    pb::ContainerHeartbeatResponse response;
    if (!cancelled.empty()) {
      auto& event = *response.mutable_cancel_input_event();
      for (const InputId input : cancelled) event.add_input_ids(input.text());
    }
    co_return response.SerializeAsString();
  }

  static Async<Result<Bytes>> get_inputs(std::shared_ptr<ContainerState> container, Bytes bytes, std::string key) {
    pb::FunctionGetInputsRequest request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("this is no FunctionGetInputsRequest");
    if (!key.empty() && key == container->inputs_key) co_return container->inputs_answer;
    Result<NextInputs> next =
        co_await Task::next_inputs(container->task, std::max<std::uint32_t>(1, request.batch_max_size()));
    if (!next.ok()) co_return std::move(next).error();
    pb::FunctionGetInputsResponse response;
    if (next->leave) response.add_inputs()->set_kill_switch(true);
    for (Delivery& delivery : next->inputs) write_delivery(std::move(delivery), *response.add_inputs());
    Bytes answer = response.SerializeAsString();
    // Nothing waits between the binding of the inputs and here, so a repetition finds them.
    container->inputs_key = std::move(key);
    container->inputs_answer = answer;
    co_return answer;
  }

  Async<Result<Bytes>> put_outputs(std::shared_ptr<ContainerState> container, Bytes bytes) {
    pb::FunctionPutOutputsRequest request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("this is no FunctionPutOutputsRequest");
    bytes = Bytes();
    if (request.outputs_size() > kOutputsMax) co_return invalid_argument("too many outputs in one request");
    std::vector<TaskOutput> outputs;
    for (pb::FunctionPutOutputsItem& item : *request.mutable_outputs()) {
      Result<TaskOutput> output = read_output(std::move(item));
      if (output.ok()) {
        outputs.push_back(std::move(output).value());
      } else {
        // An error would be repeated for ever; an output for no input is nobody's loss.
        log_.warning("output.unreadable", {{"task", container->task->id().text()}, {"error", output.error().message}});
      }
    }
    co_await Task::put_outputs(container->task, std::move(outputs));
    co_return Bytes();
  }

  static Async<Result<Bytes>> task_result(std::shared_ptr<ContainerState> container, Bytes bytes) {
    pb::TaskResultRequest request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("this is no TaskResultRequest");
    control::Outcome outcome = read_result(std::move(*request.mutable_result()), control::DataFormat::kUnspecified);
    if (outcome.status != control::Status::kSuccess) container->task->set_result(std::move(outcome));
    co_return Bytes();
  }

  static Async<Result<Bytes>> concurrency(std::shared_ptr<ContainerState> container) {
    pb::FunctionGetDynamicConcurrencyResponse response;
    response.set_concurrency(container->task->concurrency());
    co_return response.SerializeAsString();
  }

  static Async<Result<Bytes>> stop(std::shared_ptr<ContainerState> container, Bytes bytes) {
    pb::ContainerStopRequest request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("this is no ContainerStopRequest");
    if (!request.task_id().empty() && request.task_id() != container->task->id().text()) {
      co_return permission_denied("a container can stop itself only, not " + request.task_id());
    }
    if (request.graceful()) {
      container->task->retire();
    } else {
      container->task->stop(sched::StopHow::kInterrupt, Duration(0));
    }
    co_return Bytes();
  }

  static Async<Result<Bytes>> no_volume(std::string method) {
    co_return failed_precondition(method + ": this container has no such volume");
  }

  static Async<Result<Bytes>> no_snapshots() {
    co_return unimplemented("memory snapshots are not served; the container runs without");
  }

  Logger& log_;
};

}  // namespace

std::unique_ptr<WireFace> make_modal_face(Logger& log) { return std::make_unique<ModalFace>(log); }

}  // namespace proa::worker
