// SPDX-License-Identifier: Apache-2.0
//
// The world around an Agent, for its tests: a runtime whose containers end when told, a link to a server
// that is a list of reports, pipes that a test writes to.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rt/loop.h"
#include "worker/seams.h"
#include "worker/server_link.h"

namespace proa::worker {

class FakeRuntime final : public container::Runtime {
 public:
  struct Container {
    container::SlotSpec kind;
    std::optional<container::TaskSpec> task;
    std::optional<container::Exit> exit;
    std::vector<std::chrono::milliseconds> stops;
    std::unique_ptr<Signal> ended;
    bool removed = false;
  };

  explicit FakeRuntime(Loop& loop) : loop_(loop) {}

  bool obedient = true;  // Whether containers end at SIGINT.
  std::optional<Error> prepare_error;
  std::deque<Error> start_errors;  // One for each start to come.
  std::map<container::SlotId, Container> slots;

  // The slot of the newest task.
  container::SlotId running() const {
    container::SlotId newest = 0;
    for (const auto& [id, slot] : slots) {
      if (slot.task && !slot.exit) newest = id;
    }
    return newest;
  }
  void exit(container::SlotId id, container::Exit how) {
    Container& slot = slots.at(id);
    if (slot.exit) return;
    slot.exit = how;
    slot.ended->notify();
  }

  Async<Result<container::Slot>> prepare(container::SlotSpec spec) override {
    if (prepare_error) co_return *prepare_error;
    const container::SlotId id = next_++;
    Container& slot = slots[id];
    slot.kind = spec;
    slot.ended = std::make_unique<Signal>(loop_);
    container::Slot made;
    made.id = id;
    co_return made;
  }
  Async<Result<void>> start(container::SlotId id, container::TaskSpec task) override {
    if (!start_errors.empty()) {
      const Error error = start_errors.front();
      start_errors.pop_front();
      co_return error;
    }
    slots.at(id).task = std::move(task);
    co_return Result<void>();
  }
  Async<Result<void>> signal(container::SlotId, int) override { co_return Result<void>(); }
  Async<Result<container::Exit>> wait(container::SlotId id) override {
    while (!slots.at(id).exit) co_await slots.at(id).ended->wait();
    co_return *slots.at(id).exit;
  }
  Async<Result<void>> stop(container::SlotId id, std::chrono::milliseconds grace) override {
    slots.at(id).stops.push_back(grace);
    if (obedient && grace.count() > 0) {
      exit(id, {.code = 0});
      co_return Result<void>();
    }
    co_await sleep_for(loop_, grace);
    exit(id, {.code = 137});
    co_return Result<void>();
  }
  Async<Result<container::Usage>> usage(container::SlotId) override { co_return container::Usage(); }
  Async<Result<container::OwnedFd>> export_upper(container::SlotId) override { co_return unimplemented("a fake"); }
  Async<Result<void>> remove(container::SlotId id) override {
    slots.at(id).removed = true;
    co_return Result<void>();
  }

 private:
  Loop& loop_;
  container::SlotId next_ = 1;
};

class FakeLink final : public ServerLink, public sched::WorkerCalls {
 public:
  explicit FakeLink(Loop& loop) : delay_(loop) {}

  std::map<TaskId, sched::TaskOrder> orders;
  std::map<sched::LeaseId, control::Arguments> arguments;
  std::vector<sched::Report> reports;
  std::vector<std::vector<sched::Output>> output_groups;
  std::vector<std::vector<sched::LogLine>> log_batches;
  std::optional<Error> calls_fail;  // While set, every call fails so.
  std::optional<InputId> poison;    // put_outputs with this input is refused.
  bool hold_outputs = false;        // put_outputs hangs until release().

  void connect() {
    up_ = true;
    listener_->on_connected();
  }
  void disconnect() {
    up_ = false;
    listener_->on_disconnected();
  }
  void command(sched::Command command) { listener_->on_command(std::move(command)); }
  void release() {
    hold_outputs = false;
    delay_.notify();
  }

  std::vector<sched::TaskReport> task_reports(TaskId task) const {
    std::vector<sched::TaskReport> found;
    for (const sched::Report& report : reports) {
      if (report.task && report.task->task == task) found.push_back(*report.task);
    }
    return found;
  }
  std::optional<sched::TaskReport> end_of(TaskId task) const {
    for (const sched::TaskReport& report : task_reports(task)) {
      if (report.state == sched::TaskState::kEnded) return report;
    }
    return std::nullopt;
  }
  std::vector<sched::Output> outputs() const {
    std::vector<sched::Output> all;
    for (const auto& group : output_groups) all.insert(all.end(), group.begin(), group.end());
    return all;
  }
  std::vector<sched::LogLine> lines() const {
    std::vector<sched::LogLine> all;
    for (const auto& batch : log_batches) all.insert(all.end(), batch.begin(), batch.end());
    return all;
  }
  std::vector<sched::Binding> bindings() const {
    std::vector<sched::Binding> all;
    for (const sched::Report& report : reports) all.insert(all.end(), report.bound.begin(), report.bound.end());
    return all;
  }
  std::vector<sched::LeaseId> revoked() const {
    std::vector<sched::LeaseId> all;
    for (const sched::Report& report : reports) all.insert(all.end(), report.revoked.begin(), report.revoked.end());
    return all;
  }

  void start(Listener& listener) override { listener_ = &listener; }
  void send(sched::Report report) override {
    if (up_) reports.push_back(std::move(report));
  }
  sched::WorkerCalls& calls() override { return *this; }

  Async<Result<sched::TaskOrder>> fetch_task(TaskId task) override {
    if (calls_fail) co_return *calls_fail;
    if (!orders.contains(task)) co_return not_found("no such task");
    co_return orders.at(task);
  }
  Async<Result<control::Arguments>> fetch_arguments(sched::LeaseId lease) override {
    if (calls_fail) co_return *calls_fail;
    if (!arguments.contains(lease)) co_return not_found("no such input");
    co_return arguments.at(lease);
  }
  Async<Result<void>> put_outputs(WorkerId, std::vector<sched::Output> outputs) override {
    while (hold_outputs) co_await delay_.wait();
    if (calls_fail) co_return *calls_fail;
    for (const sched::Output& output : outputs) {
      if (poison == output.lease.input && output.outcome.status != control::Status::kInternalFailure) {
        co_return invalid_argument("this output is not liked");
      }
    }
    output_groups.push_back(std::move(outputs));
    co_return Result<void>();
  }
  Async<Result<void>> put_logs(WorkerId, std::vector<sched::LogLine> lines) override {
    if (calls_fail) co_return *calls_fail;
    log_batches.push_back(std::move(lines));
    co_return Result<void>();
  }

 private:
  Signal delay_;
  Listener* listener_ = nullptr;
  bool up_ = false;
};

// Pipes in the order in which they were opened: stdout and stderr of the first task, then of the next.
class FakePipes final : public Pipes {
 public:
  explicit FakePipes(Loop& loop) : loop_(loop) {}

  void write(std::size_t pipe, std::string bytes) {
    states_.at(pipe)->bytes += bytes;
    states_.at(pipe)->changed.notify();
  }
  void close(std::size_t pipe) {
    states_.at(pipe)->closed = true;
    states_.at(pipe)->changed.notify();
  }
  std::size_t unread(std::size_t pipe) const { return states_.at(pipe)->bytes.size(); }

  std::unique_ptr<Pipe> open(container::OwnedFd) override {
    states_.push_back(std::make_shared<State>(loop_));
    return std::make_unique<End>(states_.back());
  }

 private:
  struct State {
    explicit State(Loop& loop) : changed(loop) {}
    std::string bytes;
    bool closed = false;
    Signal changed;
  };
  struct End final : Pipe {
    explicit End(std::shared_ptr<State> of) : state(std::move(of)) {}
    Async<Result<std::string>> read_some(std::size_t bytes_max) override {
      while (state->bytes.empty() && !state->closed) co_await state->changed.wait();
      std::string read = state->bytes.substr(0, bytes_max);
      state->bytes.erase(0, read.size());
      co_return read;
    }
    std::shared_ptr<State> state;
  };

  Loop& loop_;
  std::vector<std::shared_ptr<State>> states_;
};

class FakeFace final : public Face {
 public:
  std::unique_ptr<Door> open(std::shared_ptr<Task>, container::OwnedFd, container::OwnedFd) override {
    ++opened;
    return std::make_unique<Door>();
  }
  int opened = 0;
};

class FakeLoad final : public LoadProbe {
 public:
  sched::Load sample() override { return {.cpu_busy = 0.5, .memory_bytes_available = 1 << 30}; }
};

}  // namespace proa::worker
