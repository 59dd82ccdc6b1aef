// SPDX-License-Identifier: Apache-2.0
//
// Logs: what the containers of an app print, for those who follow it live and those who look back.
//
// Each line gets a position that grows, also over restarts, and is close to the time at which it came: so
// that a position can be found by time. A line is shown once it is durable. The last lines of each app are in
// memory, all are in the LogStore, within bounds.
//
// Changes of a task's state travel with the lines to those who follow, and are not kept.
//
// On the server's loop.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/log.h"
#include "control/apps.h"
#include "control/ledger.h"
#include "control/types.h"
#include "rt/loop.h"
#include "store/log_store.h"

namespace proa::control {

// Where a task is on its way, for people. Faces have their own names for these.
enum class TaskPhase : std::uint8_t { kNone = 0, kAssigned = 1, kLoading = 2, kStarting = 3, kReady = 4, kEnded = 5 };

struct LogEntry {
  std::uint64_t position = 0;  // Not stored with the entry: it is the record's id.
  TaskId task;
  FunctionId function;
  InputId input;  // Of the input that ran, when only one did.
  LogStream stream = LogStream::kStdout;
  Time time;
  std::string text;                    // With its newline, if it had one.
  TaskPhase phase = TaskPhase::kNone;  // Of an entry that is a change of state and has no text.

  static void fields(auto& visit, auto& self) {
    visit(1, self.task), visit(2, self.function), visit(3, self.input), visit(4, self.stream), visit(5, self.time);
    visit(6, self.text);
  }
  friend bool operator==(const LogEntry&, const LogEntry&) = default;
};

// All that is set must match.
struct LogFilter {
  std::function<bool(FunctionId)> function;
  CallId call;
  InputId input;
  TaskId task;
  std::optional<LogStream> stream;
  std::string text;  // Occurs in the line.

  bool matches(const LogEntry& entry) const;
};

struct LogPage {
  std::vector<LogEntry> entries;
  std::uint64_t position = 0;  // To go on from.
  bool done = false;           // The app has stopped, and this is all.
};

struct LogCount {
  Time start;
  std::uint64_t out = 0;
  std::uint64_t err = 0;
  std::uint64_t info = 0;
};

class Logs final : public AppListener {
 public:
  struct Config {
    std::size_t tail_bytes_per_app = 2 << 20;
    std::size_t tail_bytes = 64 << 20;      // Of all apps; those that were silent longest give theirs up.
    std::size_t waiting_bytes = 64 << 20;   // On their way to the disk.
    std::size_t text_bytes_max = 64 << 10;  // Of one entry; the rest is cut off.
    std::size_t page_entries_max = 1000;
    std::size_t page_bytes_max = 1 << 20;
    std::size_t fetch_entries_max = 20'000;
    std::size_t fetch_bytes_max = 32 << 20;  // Of one answer.
    std::size_t buckets_max = 20'000;
  };

  Logs(Loop& loop, Ledger& ledger, store::LogStore& store, const Apps& apps, Logger& log, Config config);
  ~Logs() override;
  Logs(const Logs&) = delete;
  Logs& operator=(const Logs&) = delete;

  // Once, before anything else.
  Result<void> load(store::Store& store);

  // Finishes when the lines are durable; until then nobody sees them.
  //   kNotFound      no such app: drop the lines.
  //   kUnavailable   the disk is behind; again, later.
  //   whatever the disk says.
  Async<Result<void>> append(AppId app, std::vector<LogEntry> lines);
  // Tells those who follow that a task is in another state.
  void note(AppId app, TaskId task, FunctionId function, TaskPhase phase);

  // Entries after `after` that match, as soon as there are any; none at `deadline`, with a position to go on
  // from. `done` only with no entries. kNotFound: no such app.
  Async<Result<LogPage>> follow(AppId app, LogFilter filter, std::uint64_t after, Time deadline);
  // The position after all that there is.
  std::uint64_t latest(AppId app) const;

  // The last lines printed in [since, until) that match, at most `lines_max` of them, oldest first.
  Async<Result<std::vector<LogEntry>>> fetch(AppId app, LogFilter filter, Time since, Time until,
                                             std::size_t lines_max);
  // How many lines match, in buckets of `width` whose starts are its multiples; empty ones are left out.
  // kInvalidArgument if that would be too many buckets.
  Async<Result<std::vector<LogCount>>> count(AppId app, LogFilter filter, Time since, Time until, Duration width);

  void function_changed(FunctionId) override {}
  void app_stopping(AppId) override {}
  void app_stopped(AppId app) override;
  void app_erased(AppId app) override;

 private:
  // Entries on their way to the disk, and those who wait for them.
  struct Batch {
    std::vector<std::pair<AppId, LogEntry>> entries;
    std::optional<Result<void>> result;
    std::unique_ptr<Signal> done;
  };
  struct Tail {
    std::deque<LogEntry> entries;
    std::size_t bytes = 0;
    std::uint64_t before = 0;  // Entries up to here are only in the store.
    std::uint64_t last = 0;    // The last that came, shown or on its way.
    std::size_t waiting = 0;   // On their way.
    std::uint64_t used = 0;    // Counts uses of all tails, to find the one not used longest.
    std::unique_ptr<Signal> changed;
  };

  std::uint64_t next_position();
  Tail& tail(AppId app);
  void push(AppId app, LogEntry entry);
  void trim(Tail& tail, std::size_t bytes_max);
  void add(AppId app, LogEntry entry);
  Async<> flush();
  Async<> drop(AppId app);

  Loop& loop_;
  Ledger& ledger_;
  store::LogStore& store_;
  const Apps& apps_;
  Logger& log_;
  Config config_;
  std::unordered_map<AppId, Tail> tails_;
  std::size_t tail_bytes_ = 0;
  std::size_t waiting_bytes_ = 0;
  std::uint64_t uses_ = 0;
  std::uint64_t last_position_ = 0;
  std::uint64_t reserved_ = 0;  // Positions up to here may have been given out.
  std::uint64_t start_ = 0;     // The last position of earlier processes.
  std::shared_ptr<Batch> open_;
  bool flushing_ = false;
  Scope scope_;
};

}  // namespace proa::control
