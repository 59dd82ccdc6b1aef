// SPDX-License-Identifier: Apache-2.0
//
// What a container prints, from its pipes to the LogSender.
#include <fmt/format.h>

#include <utility>

#include "worker/task.h"

namespace proa::worker {
namespace {

// A line that is not complete is shown after so long: it may be a question, or a progress bar.
constexpr Duration kPartialDelay = std::chrono::milliseconds(100);
constexpr std::size_t kReadBytes = 64 * 1024;

}  // namespace

struct Task::PumpState {
  Task& task;
  control::LogStream stream;
  LineSplitter splitter;
  Loop::TimerId timer = 0;

  ~PumpState() {
    if (timer != 0) task.context_.loop.cancel(timer);
    if (--task.pumps_running_ == 0) task.pumps_done_.notify();
  }
};

Async<> Task::pump(std::shared_ptr<Task> self, control::LogStream stream, std::unique_ptr<Pipe> pipe) {
  PumpState state{.task = *self, .stream = stream, .splitter = {}};
  Loop& loop = self->context_.loop;
  while (true) {
    Result<std::string> bytes = co_await pipe->read_some(kReadBytes);
    if (!bytes.ok() || bytes->empty()) break;
    for (std::string& line : state.splitter.feed(*bytes)) self->add_line(stream, std::move(line));
    if (state.timer != 0) loop.cancel(std::exchange(state.timer, 0));
    if (state.splitter.has_partial()) {
      state.timer = loop.at(loop.now() + kPartialDelay, [pump = &state] {
        pump->timer = 0;
        pump->task.flush_partial(*pump);
      });
    }
    co_await self->context_.logs.room();
  }
  if (std::string rest = state.splitter.finish(); !rest.empty()) self->add_line(stream, std::move(rest));
}

void Task::flush_partial(PumpState& state) {
  if (std::string text = state.splitter.flush(); !text.empty()) add_line(state.stream, std::move(text));
}

void Task::add_line(control::LogStream stream, std::string text) {
  const Time now = context_.loop.now();
  if (!log_rate_.admit(text.size(), now)) return;
  note_dropped_lines();
  sched::LogLine line{
      .task = id_, .function = function_, .app = order_.app, .stream = stream, .time = now, .text = std::move(text)};
  // With several inputs at work nobody can tell whose line it is.
  if (bound_.size() == 1 && !bound_.begin()->second.claimed) line.input = bound_.begin()->first.input;
  last_line_ = context_.logs.add(std::move(line));
}

void Task::note_dropped_lines() {
  const std::uint64_t dropped = log_rate_.take_dropped();
  if (dropped == 0) return;
  last_line_ =
      context_.logs.add({.task = id_,
                         .function = function_,
                         .app = order_.app,
                         .stream = control::LogStream::kInfo,
                         .time = context_.loop.now(),
                         .text = fmt::format("… {} lines dropped: the container prints more than is kept\n", dropped)});
}

}  // namespace proa::worker
