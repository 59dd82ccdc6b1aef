// SPDX-License-Identifier: Apache-2.0
#include "control/logs.h"

#include <algorithm>
#include <map>

namespace proa::control {
namespace {

using store::LogOrder;

const Bytes kPositionsKey = "logs.positions";
constexpr std::uint64_t kReserve = 60'000'000;  // Positions: a minute's.
constexpr std::size_t kReadBytes = 1 << 20;
// A line comes to us after it was printed: at once if all is well, later if its worker was cut off.
constexpr Duration kClocksApart = std::chrono::minutes(1);
constexpr Duration kLateMax = std::chrono::hours(1);

std::size_t bytes_of(const LogEntry& entry) { return sizeof entry + entry.text.size(); }

std::uint64_t position_at(Time time) {
  const std::int64_t micros = to_micros(time);
  return micros <= 0 ? 0 : static_cast<std::uint64_t>(micros);
}

Time plus(Time time, Duration more) { return time > kNever - more ? kNever : time + more; }

Result<LogEntry> read_entry(const store::LogRecord& record) {
  PROA_TRY(LogEntry entry, decode<LogEntry>(record.bytes));
  entry.position = record.id;
  return entry;
}

}  // namespace

bool LogFilter::matches(const LogEntry& entry) const {
  if (function && !function(entry.function)) return false;
  if (!task.empty() && entry.task != task) return false;
  if (entry.phase != TaskPhase::kNone) return call.empty() && input == InputId() && !stream && text.empty();
  if (!call.empty() && entry.input.call != call) return false;
  if (input != InputId() && entry.input != input) return false;
  if (stream && entry.stream != *stream) return false;
  return text.empty() || entry.text.find(text) != std::string::npos;
}

Logs::Logs(Loop& loop, Ledger& ledger, store::LogStore& store, const Apps& apps, Logger& log, Config config)
    : loop_(loop), ledger_(ledger), store_(store), apps_(apps), log_(log), config_(config) {}

Logs::~Logs() = default;

Result<void> Logs::load(store::Store& store) {
  PROA_TRY_VOID(store.load(store::Table::kMeta, [&](BytesView key, BytesView value) {
    if (key != kPositionsKey) return;
    for (const char c : value) reserved_ = reserved_ * 10 + static_cast<std::uint64_t>(c - '0');
  }));
  last_position_ = std::max(reserved_, position_at(loop_.now()));
  start_ = last_position_;
  return {};
}

// Close to the time in microseconds, and above all that were given out before, by earlier processes too.
std::uint64_t Logs::next_position() {
  last_position_ = std::max(last_position_ + 1, position_at(loop_.now()));
  if (last_position_ > reserved_) {
    reserved_ = last_position_ + kReserve;
    ledger_.put_bytes(store::Table::kMeta, kPositionsKey, std::to_string(reserved_));
  }
  return last_position_;
}

Logs::Tail& Logs::tail(AppId app) {
  Tail& found = tails_[app];
  if (!found.changed) {
    found.changed = std::make_unique<Signal>(loop_);
    found.before = start_;
    found.last = start_;
  }
  found.used = ++uses_;
  return found;
}

// --- In ---------------------------------------------------------------------------------------------------------

void Logs::add(AppId app, LogEntry entry) {
  entry.position = next_position();
  Tail& of_app = tail(app);
  of_app.last = entry.position;
  ++of_app.waiting;
  waiting_bytes_ += bytes_of(entry);
  if (!open_) {
    open_ = std::make_shared<Batch>();
    open_->done = std::make_unique<Signal>(loop_);
  }
  open_->entries.emplace_back(app, std::move(entry));
  if (flushing_) return;
  flushing_ = true;
  scope_.spawn(flush());
}

Async<Result<void>> Logs::append(AppId app, std::vector<LogEntry> lines) {
  if (apps_.find(app) == nullptr) co_return not_found("App '" + app.text() + "' not found: its log lines were dropped");
  if (lines.empty()) co_return Result<void>();
  if (waiting_bytes_ > config_.waiting_bytes) co_return unavailable("log lines come faster than the disk takes them");
  for (LogEntry& line : lines) {
    line.phase = TaskPhase::kNone;
    if (line.text.size() > config_.text_bytes_max) {
      line.text.resize(config_.text_bytes_max);
      line.text += " … (cut off)\n";
    }
    add(app, std::move(line));
  }
  const std::shared_ptr<Batch> batch = open_;
  while (!batch->result) co_await batch->done->wait();
  co_return *batch->result;
}

void Logs::note(AppId app, TaskId task, FunctionId function, TaskPhase phase) {
  if (apps_.find(app) == nullptr || phase == TaskPhase::kNone) return;
  add(app, {.task = task, .function = function, .time = loop_.now(), .phase = phase});
}

// One batch at a time; what comes meanwhile is the next.
Async<> Logs::flush() {
  // Everything that is added in one go belongs to one batch.
  co_await sleep_until(loop_, loop_.now());
  while (open_) {
    const std::shared_ptr<Batch> batch = std::exchange(open_, nullptr);
    std::map<AppId, store::LogAppend> appends;
    for (const auto& [app, entry] : batch->entries) {
      if (entry.phase != TaskPhase::kNone) continue;
      store::LogAppend& append = appends[app];
      append.app = app;
      append.records.push_back({entry.position, encode(entry)});
    }
    std::vector<store::LogAppend> all;
    for (auto& [app, append] : appends) all.push_back(std::move(append));
    Result<void> result;
    if (!all.empty()) result = co_await store_.append(std::move(all));
    if (!result.ok())
      log_.error("logs.not_kept", {{"entries", batch->entries.size()}, {"why", result.error().message}});
    for (auto& [app, entry] : batch->entries) {
      waiting_bytes_ -= bytes_of(entry);
      const auto of_app = tails_.find(app);
      if (of_app == tails_.end()) continue;  // Erased meanwhile.
      --of_app->second.waiting;
      if (result.ok()) push(app, std::move(entry));
    }
    batch->result = std::move(result);
    batch->done->notify();
  }
  flushing_ = false;
}

void Logs::push(AppId app, LogEntry entry) {
  Tail& of_app = tails_.at(app);
  of_app.used = ++uses_;
  of_app.bytes += bytes_of(entry);
  tail_bytes_ += bytes_of(entry);
  of_app.entries.push_back(std::move(entry));
  trim(of_app, config_.tail_bytes_per_app);
  while (tail_bytes_ > config_.tail_bytes) {
    const auto oldest = std::min_element(tails_.begin(), tails_.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.entries.empty(), a.second.used) < std::pair(b.second.entries.empty(), b.second.used);
    });
    trim(oldest->second, 0);
  }
  of_app.changed->notify();
}

void Logs::trim(Tail& tail, std::size_t bytes_max) {
  while (tail.bytes > bytes_max && !tail.entries.empty()) {
    const std::size_t bytes = bytes_of(tail.entries.front());
    tail.before = tail.entries.front().position;
    tail.bytes -= bytes;
    tail_bytes_ -= bytes;
    tail.entries.pop_front();
  }
}

// --- Out --------------------------------------------------------------------------------------------------------

std::uint64_t Logs::latest(AppId app) const {
  const auto found = tails_.find(app);
  return found == tails_.end() ? start_ : found->second.last;
}

Async<Result<LogPage>> Logs::follow(AppId app, LogFilter filter, std::uint64_t after, Time deadline) {
  LogPage page{.position = after};
  std::size_t bytes = 0;
  const auto take = [&](LogEntry entry) {
    page.position = entry.position;
    if (!filter.matches(entry)) return;
    bytes += bytes_of(entry);
    page.entries.push_back(std::move(entry));
  };
  const auto full = [&] { return page.entries.size() >= config_.page_entries_max || bytes >= config_.page_bytes_max; };
  while (true) {
    const App* const known = apps_.find(app);
    if (known == nullptr) co_return not_found("App '" + app.text() + "' not found");
    const bool stopped = known->state == AppState::kStopped;
    Tail& of_app = tail(app);
    if (page.position < of_app.before) {
      const std::uint64_t until = of_app.before + 1;
      PROA_CO_TRY(const auto records,
                  co_await store_.read(app, page.position + 1, until, LogOrder::kOldestFirst, kReadBytes));
      for (const store::LogRecord& record : records) {
        if (full()) break;
        PROA_CO_TRY(LogEntry entry, read_entry(record));
        take(std::move(entry));
      }
      if (records.empty()) page.position = until - 1;
      if (!page.entries.empty()) co_return page;
      continue;
    }
    const auto from =
        std::upper_bound(of_app.entries.begin(), of_app.entries.end(), page.position,
                         [](std::uint64_t position, const LogEntry& entry) { return position < entry.position; });
    for (auto entry = from; entry != of_app.entries.end() && !full(); ++entry) take(*entry);
    if (!page.entries.empty()) co_return page;
    if (stopped && of_app.waiting == 0) {
      page.done = true;
      co_return page;
    }
    if (loop_.now() >= deadline) co_return page;
    co_await of_app.changed->wait_until(deadline);
  }
}

Async<Result<std::vector<LogEntry>>> Logs::fetch(AppId app, LogFilter filter, Time since, Time until,
                                                 std::size_t lines_max) {
  if (apps_.find(app) == nullptr) co_return not_found("App '" + app.text() + "' not found");
  if (lines_max == 0 || lines_max > config_.fetch_entries_max) lines_max = config_.fetch_entries_max;
  std::vector<LogEntry> found;
  std::size_t bytes = 0;
  const std::uint64_t from = position_at(since - kClocksApart);
  std::uint64_t to = position_at(plus(until, kLateMax));
  while (from < to && found.size() < lines_max && bytes < config_.fetch_bytes_max) {
    PROA_CO_TRY(const auto records, co_await store_.read(app, from, to, LogOrder::kNewestFirst, kReadBytes));
    if (records.empty()) break;
    to = records.back().id;
    for (const store::LogRecord& record : records) {
      PROA_CO_TRY(LogEntry entry, read_entry(record));
      if (entry.time < since || entry.time >= until || !filter.matches(entry)) continue;
      if (found.size() >= lines_max || bytes >= config_.fetch_bytes_max) break;
      bytes += bytes_of(entry);
      found.push_back(std::move(entry));
    }
  }
  std::sort(found.begin(), found.end(), [](const LogEntry& a, const LogEntry& b) {
    return std::pair(a.time, a.position) < std::pair(b.time, b.position);
  });
  co_return found;
}

Async<Result<std::vector<LogCount>>> Logs::count(AppId app, LogFilter filter, Time since, Time until, Duration width) {
  if (apps_.find(app) == nullptr) co_return not_found("App '" + app.text() + "' not found");
  if (width <= Duration(0) || until < since ||
      static_cast<std::uint64_t>((until - since) / width) > config_.buckets_max) {
    co_return invalid_argument("Log lines are counted in at most " + std::to_string(config_.buckets_max) +
                               " buckets: ask for a shorter time or wider buckets");
  }
  std::map<std::int64_t, LogCount> counts;
  std::uint64_t from = position_at(since - kClocksApart);
  const std::uint64_t to = position_at(plus(until, kLateMax));
  while (from < to) {
    PROA_CO_TRY(const auto records, co_await store_.read(app, from, to, LogOrder::kOldestFirst, kReadBytes));
    if (records.empty()) break;
    from = records.back().id + 1;
    for (const store::LogRecord& record : records) {
      PROA_CO_TRY(const LogEntry entry, read_entry(record));
      if (entry.time < since || entry.time >= until || !filter.matches(entry)) continue;
      const std::int64_t bucket = entry.time.time_since_epoch() / width;
      LogCount& count = counts[bucket];
      count.start = Time(bucket * width);
      ++(entry.stream == LogStream::kStdout ? count.out : entry.stream == LogStream::kStderr ? count.err : count.info);
    }
  }
  std::vector<LogCount> all;
  for (auto& [bucket, count] : counts) all.push_back(count);
  co_return all;
}

// --- Apps ---------------------------------------------------------------------------------------------------------

void Logs::app_stopped(AppId app) {
  const auto found = tails_.find(app);
  if (found != tails_.end()) found->second.changed->notify();
}

void Logs::app_erased(AppId app) {
  const auto found = tails_.find(app);
  if (found != tails_.end()) {
    tail_bytes_ -= found->second.bytes;
    found->second.changed->notify();
    tails_.erase(found);
  }
  scope_.spawn(drop(app));
}

Async<> Logs::drop(AppId app) {
  const auto dropped = co_await store_.drop(app);
  if (!dropped.ok()) log_.warning("logs.not_dropped", {{"app", app.text()}, {"why", dropped.error().message}});
}

}  // namespace proa::control
