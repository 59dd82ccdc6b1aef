// SPDX-License-Identifier: Apache-2.0
#include "sim/world.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "control/calls.h"
#include "control/ledger.h"
#include "rt/sim/sim_loop.h"
#include "sched/scheduler.h"
#include "sim/fake_worker.h"
#include "store/memory/memory_store.h"

namespace proa::sim {
namespace {

using control::InputState;
using control::Status;
using std::chrono::milliseconds;
using std::chrono::seconds;
using store::Table;

// An error line in a simulation fails it.
class StrictLogger final : public Logger {
 public:
  explicit StrictLogger(bool verbose) : verbose_(verbose) {}
  void write(Severity severity, std::string_view event, std::initializer_list<LogField> fields) override {
    if (severity == Severity::kError) error = std::string(event);
    if (!verbose_) return;
    std::printf("    %.*s", static_cast<int>(event.size()), event.data());
    for (const LogField& field : fields) std::printf(" %.*s=%s", static_cast<int>(field.name.size()), field.name.data(), field.value.c_str());
    std::printf("\n");
  }
  std::string error;

 private:
  bool verbose_;
};

// Two apps that are always there, as far as the rules under test can see.
class Book final : public control::FunctionBook {
 public:
  explicit Book(Random& random) {
    for (std::size_t i = 0; i < 3; ++i) {
      control::FunctionView view;
      view.id = FunctionId::make(random, Time());
      view.app = AppId::make(random, Time());
      view.definition = DefinitionId::make(random, Time());
      view.deployed = i == 0;  // Failing starts of the others fail their inputs.
      specs_[i].name = "f" + std::to_string(i);
      specs_[i].retries = {.retries = static_cast<std::uint32_t>(i), .initial_delay = milliseconds(700), .backoff = 2.0};
      specs_[i].concurrent_inputs_max = 1;
      specs_[i].request.cpu_milli = 500;  // Four to a worker, so that room is short.
      view.spec = &specs_[i];
      views.push_back(view);
    }
  }
  std::optional<control::FunctionView> view(FunctionId function) const override {
    for (const control::FunctionView& view : views) {
      if (view.id == function && !stopped.contains(view.app)) return view;
    }
    return std::nullopt;
  }
  std::vector<control::FunctionView> views;
  std::set<AppId> stopped;

 private:
  std::array<control::FunctionSpec, 3> specs_;
};

class NoPlanner final : public sched::TaskPlanner {
 public:
  Async<Result<sched::TaskOrder>> plan(TaskId task, FunctionId function) override {
    sched::TaskOrder order;
    order.task = task;
    order.function = function;
    co_return order;
  }
};

class Simulation;

// One life of the server.
struct Server {
  Server(SimLoop& loop, Random& random, store::Disk& disk, Book& book, Logger& log, Duration latency)
      : store(loop, disk, latency),
        ledger(loop, store, [](const Error&) {}),
        calls(loop, random, ledger, store, book, log, {}),
        scheduler(loop, random, ledger, book, calls, planner, log, config()) {
    calls.set_dispatch(scheduler);
  }
  static sched::SchedulerConfig config() {
    sched::SchedulerConfig config;
    config.scaledown_window = seconds(3);
    config.worker_lost_after = seconds(4);
    config.recovery_grace = seconds(2);
    return config;
  }
  store::MemoryStore store;
  control::Ledger ledger;
  NoPlanner planner;
  control::Calls calls;
  sched::Scheduler scheduler;
  Scope requests;  // Handlers under way; they die with the server.
};

// The connection of one worker: everything takes its time, in order; breaking loses what is under way.
class Connection final : public Wire, public sched::WorkerLink {
 public:
  Connection(Simulation& simulation, std::size_t worker, WorkerId id) : simulation_(simulation), worker_(worker), id_(id) {}
  ~Connection() override { *alive_ = false; }

  void open();
  // Both ends notice. It is opened anew after `again_after`, unless that is kNotAgain.
  void cut(Duration again_after);
  std::uint64_t generation() const { return generation_; }
  bool connected() const override { return open_; }
  void report(sched::Report report) override;
  void put_outputs(std::vector<sched::Output> outputs, std::function<void(bool)> done) override;
  void send(std::vector<sched::Command> commands) override;
  void close(std::string) override;

 private:
  Time arrival(Time& last);
  Async<> serve_outputs(std::vector<sched::Output> outputs, std::function<void(bool)> done);

  Simulation& simulation_;
  std::size_t worker_;
  WorkerId id_;
  bool open_ = false;
  std::uint64_t generation_ = 0;  // What an older connection carried does not arrive.
  Time last_up_;
  Time last_down_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

constexpr Duration kNotAgain = Duration::max();

// What a client knows of one of its inputs.
struct Known {
  bool acknowledged = false;
  std::optional<std::pair<Status, Bytes>> result;
};

struct Client {
  std::size_t function = 0;
  control::Invocation invocation = control::Invocation::kSync;
  Bytes idempotency_key;
  std::uint32_t inputs = 0;
  CallId call;  // Empty until the server has acknowledged it.
  std::uint64_t position = 0;
  bool cancelled = false;
  bool done = false;
  std::map<std::uint32_t, Known> known;
};

class Simulation final : public Witness {
 public:
  explicit Simulation(const Options& options)
      : random_(options.seed * 7919 + 13), log_(options.verbose), book_(random_), verbose_(options.verbose) {}

  Outcome run();

  void ran(InputId) override {}
  void output_acknowledged(InputId input, Status status) override;
  void leased_twice(InputId input) override { fail(input.text() + " was leased to a worker that holds it already"); }

 private:
  friend class Connection;

  void fault(Fault kind) { ++outcome_.faults[static_cast<std::size_t>(kind)]; }
  void fail(const std::string& what) {
    if (failure_.empty()) failure_ = what + " (at " + std::to_string((loop_.now() - start_).count() / 1000) + " ms)";
  }
  Duration delay();
  void boot();
  void crash();
  bool on_disk(InputId input, Table table) const;
  // After the end, when everything has had its time to settle.
  Async<> read_again(Client* client);
  void check_at_rest();
  // Sees that what was cancelled stops on workers that can hear of it.
  Async<> watch_cancelled(CallId call);
  std::string first_unfinished() const;
  // Sends a request and waits for its answer: false if the server died meanwhile or the answer was lost.
  template <class T>
  Async<std::optional<T>> ask(std::function<Async<Result<T>>(Server&)> handler);
  template <class T>
  static Async<> handle(Simulation* self, Server* server, std::function<Async<Result<T>>(Server&)> handler, std::shared_ptr<std::optional<Result<T>>> out);
  static Async<Result<CallId>> create_call(Simulation* self, Server& server, Client* client);
  static Async<Result<bool>> put_inputs(Server& server, Client* client, std::uint32_t first, std::uint32_t last);
  static Async<Result<bool>> cancel_call(Server& server, Client* client);
  static Async<Result<control::OutputAnswer>> get_outputs(Server& server, control::OutputQuery query);
  Async<> client(Client* self);
  void check_output(const Client& client, const control::FinishedInput& output);
  void take(Client& client, const control::OutputAnswer& answer);
  Async<> break_things();

  SimLoop loop_;
  const Time start_ = loop_.now();
  SeededRandom random_;
  StrictLogger log_;
  store::Disk disk_;
  Book book_;
  bool verbose_;
  std::unique_ptr<Server> server_;
  std::set<WorkerId> known_workers_;
  std::vector<std::unique_ptr<FakeWorker>> workers_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::set<InputId> safe_;  // A success of it was acknowledged to the worker that ran it.
  bool calm_ = false;
  std::string failure_;
  Outcome outcome_;
  std::size_t read_again_ = 0;
  Scope clients_scope_;
  Scope watches_scope_;
  Scope faults_scope_;
};

Bytes input_key(InputId id) {
  Bytes key;
  const IdBits bits = id.call.bits();
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(bits.high >> shift);
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>(bits.low >> shift);
  for (int shift = 24; shift >= 0; shift -= 8) key += static_cast<char>(id.index >> shift);
  return key;
}

// --- Connection -------------------------------------------------------------------------------------------

Time Connection::arrival(Time& last) {
  // Like a stream: in order.
  last = std::max(last, simulation_.loop_.now() + simulation_.delay());
  return last;
}

void Connection::open() {
  if (open_ || !simulation_.server_) return;
  open_ = true;
  ++generation_;
  last_up_ = last_down_ = simulation_.loop_.now();
  simulation_.workers_[worker_]->connected(*this);
}

void Connection::cut(Duration again_after) {
  if (open_) {
    open_ = false;
    ++generation_;
    simulation_.workers_[worker_]->disconnected();
    if (simulation_.server_) simulation_.server_->scheduler.disconnected(*this);
  }
  if (again_after == kNotAgain) return;
  simulation_.loop_.at(simulation_.loop_.now() + again_after, [this, alive = alive_] {
    if (!*alive) return;
    if (simulation_.server_) {
      open();
    } else {
      cut(milliseconds(50));  // Knocks again.
    }
  });
}

void Connection::close(std::string) {
  simulation_.loop_.post([this, alive = alive_] {
    if (*alive) cut(milliseconds(50));
  });
}

void Connection::report(sched::Report report) {
  auto shared = std::make_shared<sched::Report>(std::move(report));
  simulation_.loop_.at(arrival(last_up_), [this, alive = alive_, generation = generation_, shared] {
    if (!*alive || generation != generation_ || !simulation_.server_) return;
    if (shared->hello) simulation_.known_workers_.insert(shared->hello->worker);
    simulation_.server_->scheduler.report(*this, std::move(*shared));
  });
}

void Connection::send(std::vector<sched::Command> commands) {
  for (const sched::Command& command : commands) {
    for (const sched::Lease& lease : command.lease) {
      if (!simulation_.on_disk(lease.id.input, Table::kInput)) simulation_.fail(lease.id.input.text() + " was leased before it was durable");
      if (simulation_.safe_.contains(lease.id.input)) {
        simulation_.fail(lease.id.input.text() + " was leased again after its result had been acknowledged to its worker");
      }
    }
  }
  auto shared = std::make_shared<std::vector<sched::Command>>(std::move(commands));
  simulation_.loop_.at(arrival(last_down_), [this, alive = alive_, generation = generation_, shared] {
    if (!*alive || generation != generation_) return;
    for (sched::Command& command : *shared) simulation_.workers_[worker_]->command(std::move(command));
  });
}

Async<> Connection::serve_outputs(std::vector<sched::Output> outputs, std::function<void(bool)> done) {
  const Result<void> stored = co_await simulation_.server_->scheduler.put_outputs(id_, std::move(outputs));
  // The way back; a lost acknowledgement makes the worker say it all again.
  const bool lost = !simulation_.calm_ && simulation_.random_.below(10) == 0;
  if (lost) simulation_.fault(Fault::kOutputRepeated);
  const bool acknowledged = stored.ok() && !lost;
  SimLoop& loop = simulation_.loop_;
  loop.at(loop.now() + simulation_.delay(), [done, acknowledged] { done(acknowledged); });
}

void Connection::put_outputs(std::vector<sched::Output> outputs, std::function<void(bool)> done) {
  auto shared = std::make_shared<std::vector<sched::Output>>(std::move(outputs));
  simulation_.loop_.at(simulation_.loop_.now() + simulation_.delay(), [this, alive = alive_, generation = generation_, shared, done] {
    if (!*alive || generation != generation_ || !simulation_.server_) return;
    // If the server dies meanwhile, the call is never answered; the worker connects anew and repeats it.
    simulation_.server_->requests.spawn(serve_outputs(std::move(*shared), [this, generation, alive, done](bool acknowledged) {
      if (*alive && generation == generation_) done(acknowledged);
    }));
  });
}

// --- Simulation -------------------------------------------------------------------------------------------

Duration Simulation::delay() {
  if (!calm_ && random_.below(20) == 0) {
    fault(Fault::kMessageDelayed);
    return milliseconds(random_.below(1500));
  }
  return Duration(static_cast<std::int64_t>(random_.below(3000)));
}

void Simulation::output_acknowledged(InputId input, Status status) {
  if (status != Status::kSuccess) return;
  safe_.insert(input);
  if (!on_disk(input, Table::kOutput)) fail(input.text() + ": its output was acknowledged to its worker before it was durable");
}

bool Simulation::on_disk(InputId input, Table table) const {
  return disk_.tables[static_cast<std::size_t>(table)].contains(input_key(input));
}

void Simulation::boot() {
  server_ = std::make_unique<Server>(loop_, random_, disk_, book_, log_, Duration(static_cast<std::int64_t>(200 + random_.below(4000))));
  if (const auto loaded = server_->calls.load(); !loaded.ok()) fail("the server cannot read what it wrote: " + loaded.error().message);
  server_->scheduler.expect_workers({known_workers_.begin(), known_workers_.end()});
  server_->calls.resume();
  for (const AppId app : book_.stopped) server_->scheduler.app_stopping(app);
}

void Simulation::crash() {
  if (verbose_) std::printf("  --- the server dies\n");
  if (random_.below(3) == 0 && server_->store.finish_first_under_way()) fault(Fault::kTornWrite);
  for (auto& connection : connections_) connection->cut(milliseconds(20 + random_.below(300)));
  server_.reset();
  loop_.at(loop_.now() + milliseconds(10 + random_.below(200)), [this] { boot(); });
}

template <class T>
Async<> Simulation::handle(Simulation* self, Server* server, std::function<Async<Result<T>>(Server&)> handler, std::shared_ptr<std::optional<Result<T>>> out) {
  Result<T> result = co_await handler(*server);
  co_await server->ledger.durable();  // The router's output gate.
  co_await sleep_for(self->loop_, self->delay());
  out->emplace(std::move(result));
}

template <class T>
Async<std::optional<T>> Simulation::ask(std::function<Async<Result<T>>(Server&)> handler) {
  while (true) {
    co_await sleep_for(loop_, delay());
    if (!server_) {
      co_await sleep_for(loop_, milliseconds(100));
      continue;
    }
    Server* const server = server_.get();
    auto out = std::make_shared<std::optional<Result<T>>>();
    server->requests.spawn(handle<T>(this, server, handler, out));
    while (!out->has_value() && server_.get() == server) co_await sleep_for(loop_, milliseconds(1));
    if (!out->has_value()) continue;
    if (!calm_ && random_.below(15) == 0) {
      fault(Fault::kRequestRepeated);
      continue;
    }
    if (!(*out)->ok()) co_return std::nullopt;
    co_return std::move(**out).value();
  }
}

Async<Result<CallId>> Simulation::create_call(Simulation* self, Server& server, Client* client) {
  // The router's memory of idempotency keys, kept in the batch of the effect.
  const auto& remembered = self->disk_.tables[static_cast<std::size_t>(Table::kIdempotency)];
  co_await server.ledger.durable();
  if (const auto found = remembered.find(client->idempotency_key); found != remembered.end()) co_return CallId::parse(found->second);
  Result<CallId> call = server.calls.create({.function = self->book_.views[client->function].id, .app = {}, .kind = control::CallKind::kMap, .invocation = client->invocation});
  if (call.ok()) server.ledger.put_bytes(Table::kIdempotency, client->idempotency_key, call->text());
  co_return call;
}

Async<Result<bool>> Simulation::put_inputs(Server& server, Client* client, std::uint32_t first, std::uint32_t last) {
  std::vector<control::NewInput> inputs;
  for (std::uint32_t index = first; index < last; ++index) {
    control::NewInput input;
    input.index = index;
    input.arguments.payload.bytes = "argument " + std::to_string(index);
    inputs.push_back(std::move(input));
  }
  auto put = server.calls.put_inputs(client->call, std::move(inputs));
  if (!put.ok()) co_return put.error();
  co_return true;
}

Async<Result<bool>> Simulation::cancel_call(Server& server, Client* client) {
  auto cancelled = server.calls.cancel(client->call, "cancelled by its client");
  if (!cancelled.ok()) co_return cancelled.error();
  co_return true;
}

Async<Result<control::OutputAnswer>> Simulation::get_outputs(Server& server, control::OutputQuery query) { return server.calls.outputs(query); }

void Simulation::check_output(const Client& client, const control::FinishedInput& output) {
  const Status status = output.outcome.status;
  if (!on_disk(output.input, Table::kOutput)) fail(output.input.text() + ": its result was shown before it was durable");
  if (status == Status::kSuccess && output.outcome.value.bytes != output.input.text()) fail(output.input.text() + " has the result of another input");
  const control::FunctionView& function = book_.views[client.function];
  const std::uint32_t retries = function.spec->retries.retries;
  if (output.retry_count > retries) fail(output.input.text() + " was retried more often than its function allows");
  if (client.cancelled || book_.stopped.contains(function.app)) return;
  if (status == Status::kTerminated) fail(output.input.text() + " was terminated though nobody asked for it");
  if (status == Status::kFailure && output.retry_count < retries) fail(output.input.text() + " failed with retries left");
}

void Simulation::take(Client& client, const control::OutputAnswer& answer) {
  for (const control::FinishedInput& output : answer.outputs) {
    const std::pair<Status, Bytes> result(output.outcome.status, output.outcome.value.bytes);
    Known& known = client.known[output.input.index];
    if (known.result && *known.result != result) fail(output.input.text() + " has two results");
    known.result = result;
    check_output(client, output);
  }
  client.position = answer.position;
}

Async<> Simulation::watch_cancelled(CallId call) {
  std::vector<std::uint64_t> generations;
  for (const auto& connection : connections_) generations.push_back(connection->generation());
  // A hello under way, the order to stop, and what each may be delayed.
  co_await sleep_for(loop_, milliseconds(3500));
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    const bool heard = connections_[i]->connected() && connections_[i]->generation() == generations[i];
    if (heard && workers_[i]->runs(call)) fail("an input of " + call.text() + " still runs though the call was cancelled");
  }
}

Async<> Simulation::client(Client* self) {
  co_await sleep_for(loop_, milliseconds(random_.below(4000)));
  const std::optional<CallId> call = co_await ask<CallId>([this, self](Server& server) { return create_call(this, server, self); });
  if (!call) {  // The app was stopped before.
    self->done = true;
    co_return;
  }
  self->call = *call;
  const bool cancels = random_.below(8) == 0;
  for (std::uint32_t first = 0; first < self->inputs; first += 5) {
    const std::uint32_t last = std::min(first + 5, self->inputs);
    const auto put = co_await ask<bool>([self, first, last](Server& server) { return put_inputs(server, self, first, last); });
    if (!put) break;
    for (std::uint32_t index = first; index < last; ++index) {
      self->known[index].acknowledged = true;
      ++outcome_.inputs;
      if (!on_disk({self->call, index}, Table::kInput)) fail("an input was acknowledged before it was durable");
    }
  }
  if (cancels) {
    co_await sleep_for(loop_, milliseconds(random_.below(random_.below(2) == 0 ? 1500 : 16'000)));
    fault(Fault::kCallCancelled);
    self->cancelled = true;
    (void)co_await ask<bool>([self](Server& server) { return cancel_call(server, self); });
    watches_scope_.spawn(watch_cancelled(self->call));
  }
  while (true) {
    control::OutputQuery query;
    query.call = self->call;
    query.after = self->position;
    query.timeout = seconds(2);
    const auto answer = co_await ask<control::OutputAnswer>([query](Server& server) { return get_outputs(server, query); });
    if (!answer) {
      fail("the call " + self->call.text() + " was forgotten");
      co_return;
    }
    take(*self, *answer);
    const bool all = std::all_of(self->known.begin(), self->known.end(), [](const auto& entry) { return !entry.second.acknowledged || entry.second.result; });
    if (all) break;
  }
  self->done = true;
}

// The whole call is read once more from its beginning: what was seen must still be so.
Async<> Simulation::read_again(Client* client) {
  if (!client->call.empty()) {
    client->position = 0;
    while (failure_.empty()) {
      control::OutputQuery query;
      query.call = client->call;
      query.after = client->position;
      const auto answer = co_await ask<control::OutputAnswer>([query](Server& server) { return get_outputs(server, query); });
      if (!answer) fail("the call " + client->call.text() + " was forgotten");
      if (!answer || answer->outputs.empty()) break;
      take(*client, *answer);
    }
  }
  ++read_again_;
}

void Simulation::check_at_rest() {
  for (const auto& each : clients_) {
    if (each->call.empty()) continue;
    for (const auto& [index, known] : each->known) {
      const InputId input{each->call, index};
      if (known.acknowledged && server_->calls.state(input) != InputState::kDone) fail(input.text() + " was acknowledged and has no result");
    }
    const auto view = server_->calls.view(each->call);
    if (!view.ok()) {
      fail("the call " + each->call.text() + " was forgotten");
      continue;
    }
    if (view->unfinished != 0) fail(each->call.text() + " counts unfinished inputs and has none");
    if (view->succeeded + view->failed + view->timed_out + view->terminated != view->inputs) fail(each->call.text() + " counts its inputs wrongly");
  }
  for (const control::FunctionView& function : book_.views) {
    const std::string name = "function " + function.id.text();
    if (server_->calls.unfinished_of(function.app) != 0) fail(name + " counts unfinished inputs and has none");
    const sched::FunctionStats stats = server_->scheduler.stats(function.id);
    if (stats.backlog != 0 || stats.running != 0) fail(name + " counts queued, leased or running inputs and has none");
    if (!server_->scheduler.tasks(function.app).empty()) fail(name + " has nothing to do and did not scale to zero");
  }
  // A function without a container may share CPU, so that what stays reserved would not be noticed by who waits.
  if (server_->scheduler.reserved() != control::Resources()) fail("workers have no tasks and not all of their room");
}

std::string Simulation::first_unfinished() const {
  for (const auto& each : clients_) {
    if (each->done) continue;
    for (const auto& [index, known] : each->known) {
      const InputId input{each->call, index};
      if (known.acknowledged && !known.result) {
        const auto state = server_ ? static_cast<int>(server_->calls.state(input)) : -1;
        const std::string why = server_ ? server_->scheduler.why_waiting(book_.views[each->function].id) : "no server";
        return ": " + input.text() + " is in state " + std::to_string(state) + "; " + why;
      }
    }
    return ": a client waits for " + each->call.text();
  }
  return "";
}

Async<> Simulation::break_things() {
  while (!calm_) {
    co_await sleep_for(loop_, milliseconds(50 + random_.below(900)));
    if (calm_) co_return;
    const std::size_t worker = random_.below(workers_.size());
    switch (random_.below(8)) {
      case 0:
      case 1:
        // Half of the time in the middle of a commit.
        if (random_.below(2) == 0) {
          for (int i = 0; i < 300 && server_ && server_->store.under_way() == 0; ++i) co_await sleep_for(loop_, milliseconds(1));
        }
        if (server_ && !calm_) {
          fault(Fault::kServerCrash);
          crash();
        }
        break;
      case 2:
        fault(Fault::kWorkerCrash);
        if (verbose_) std::printf("  --- worker %zu dies\n", worker);
        connections_[worker]->cut(milliseconds(random_.below(1000)));
        workers_[worker]->restart();
        break;
      case 3:
        fault(Fault::kWorkerLost);
        if (verbose_) std::printf("  --- worker %zu is lost for long\n", worker);
        connections_[worker]->cut(milliseconds(4000 + random_.below(6000)));
        if (random_.below(2) == 0) workers_[worker]->restart();
        break;
      case 4:
      case 5:
        fault(Fault::kStreamBroken);
        connections_[worker]->cut(milliseconds(random_.below(700)));
        break;
      case 6:
        if (random_.below(12) == 0 && book_.stopped.size() < 1) {
          const control::FunctionView& view = book_.views[1 + random_.below(2)];
          fault(Fault::kAppStopped);
          book_.stopped.insert(view.app);
          if (server_) server_->scheduler.app_stopping(view.app);
        }
        break;
      default: {
        control::FunctionView& view = book_.views[random_.below(book_.views.size())];
        fault(Fault::kRedeployed);
        view.definition = DefinitionId::make(random_, loop_.now());
        if (server_) server_->scheduler.function_changed(view.id);
        break;
      }
    }
  }
}

Outcome Simulation::run() {
  boot();
  for (std::size_t i = 0; i < 2; ++i) {
    const WorkerId id = WorkerId::make(random_, loop_.now());
    workers_.push_back(std::make_unique<FakeWorker>(loop_, random_, *this, id, FakeWorkerConfig{}));
    connections_.push_back(std::make_unique<Connection>(*this, i, id));
    connections_.back()->open();
  }
  for (std::size_t i = 0; i < 5; ++i) {
    auto client_state = std::make_unique<Client>();
    client_state->function = random_.below(3);
    client_state->invocation = random_.below(2) == 0 ? control::Invocation::kSync : control::Invocation::kAsync;
    client_state->idempotency_key = "key " + std::to_string(i);
    client_state->inputs = 1 + static_cast<std::uint32_t>(random_.below(25));
    clients_.push_back(std::move(client_state));
    clients_scope_.spawn(client(clients_.back().get()));
  }
  faults_scope_.spawn(break_things());

  const Time calm_at = start_ + seconds(12);
  const Time end = start_ + seconds(240);
  const auto all_done = [&] {
    return std::all_of(clients_.begin(), clients_.end(), [](const auto& each) { return each->done; });
  };
  const auto step_until = [&](Time until, const auto& finished) {
    while (failure_.empty() && log_.error.empty() && loop_.now() < until && !finished()) {
      if (!calm_ && loop_.now() >= calm_at) {
        calm_ = true;
        for (auto& worker : workers_) worker->calm();
      }
      if (!loop_.step()) break;
      ++outcome_.steps;
    }
  };
  step_until(end, [&] { return calm_ && server_ && all_done(); });
  if (failure_.empty() && log_.error.empty() && !all_done()) fail("not all clients came to an end" + first_unfinished());
  // Long enough for a worker that is away to come back or be given up, and for containers to leave.
  step_until(loop_.now() + seconds(30), [] { return false; });
  for (const auto& each : clients_) watches_scope_.spawn(read_again(each.get()));
  step_until(loop_.now() + seconds(30), [&] { return read_again_ == clients_.size(); });
  if (failure_.empty() && log_.error.empty() && read_again_ != clients_.size()) fail("results could not be read again");
  if (failure_.empty() && log_.error.empty()) check_at_rest();
  if (!log_.error.empty()) fail("an error was logged: " + log_.error);
  for (const auto& worker : workers_) {
    outcome_.faults[static_cast<std::size_t>(Fault::kContainerCrash)] += worker->crashes();
    outcome_.faults[static_cast<std::size_t>(Fault::kStartFailed)] += worker->failed_starts();
  }
  outcome_.failure = failure_;
  clients_scope_.cancel_all();
  watches_scope_.cancel_all();
  faults_scope_.cancel_all();
  connections_.clear();
  server_.reset();
  return outcome_;
}

}  // namespace

Outcome run(const Options& options) { return Simulation(options).run(); }

}  // namespace proa::sim
