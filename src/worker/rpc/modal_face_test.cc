// SPDX-License-Identifier: Apache-2.0
//
// The worker from wire to wire: a server over a unix socket on one side, a container's socket on the other,
// everything in between real but the walls. The last tests run the official client's own entry point.
#include "worker/rpc/modal_face.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/codec.h"
#include "rpc/client.h"
#include "worker/agent.h"
#include "worker/load_probe.h"
#include "worker/real_pipes.h"
#include "worker/rpc/host_runtime.h"
#include "worker/rpc/modal_messages.h"

namespace proa::worker {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::string_view kModal = "/modal.client.ModalClient/";

// A server of the workers' protocol that keeps what it is told.
class FakeServer final : public rpc::Handler {
 public:
  FakeServer(RealLoop& loop, std::string path) : loop_(loop), path_(std::move(path)), changed_(loop) { up(); }
  ~FakeServer() override { down(); }

  void up() {
    auto made = rpc::Server::create(loop_, *this);
    ASSERT_TRUE(made.ok());
    server_ = std::move(made).value();
    std::filesystem::remove(path_);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strncpy(name.sun_path, path_.c_str(), sizeof name.sun_path - 1);
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    ASSERT_EQ(::listen(fd, 64), 0);
    scope_.spawn(accept(fd));
  }
  void down() {
    scope_.cancel_all();
    server_.reset();
  }

  void command(sched::Command command) {
    sched::Commands message;
    message.commands.push_back(std::move(command));
    waiting_.push_back(encode(message));
    changed_.notify();
  }

  std::map<TaskId, sched::TaskOrder> orders;
  std::vector<sched::Report> reports;
  std::vector<sched::Output> outputs;
  std::string log;
  std::vector<std::pair<std::string, std::string>> forwarded;  // The metadata of the last forwarded call.
  int forwarded_calls = 0;
  int sessions = 0;

  std::optional<sched::TaskReport> last_report() const {
    std::optional<sched::TaskReport> last;
    for (const sched::Report& report : reports) {
      if (report.task) last = report.task;
    }
    return last;
  }

  Async<Result<void>> handle(rpc::ServerCall& call) override {
    const std::string method = call.method();
    if (method == "/proa.worker.v1.Worker/Session") co_return co_await session(call);
    PROA_CO_TRY(std::optional<Bytes> request, co_await call.read(seconds(10)));
    if (method == "/proa.worker.v1.Worker/FetchTask") {
      PROA_CO_TRY(const auto fetch, decode<sched::FetchTask>(*request));
      if (!orders.contains(fetch.task)) co_return not_found("no such task");
      call.write_last(encode(orders.at(fetch.task)));
    } else if (method == "/proa.worker.v1.Worker/PutOutputs") {
      PROA_CO_TRY(auto put, decode<sched::PutOutputs>(*request));
      for (sched::Output& output : put.outputs) outputs.push_back(std::move(output));
      call.write_last("");
    } else if (method == "/proa.worker.v1.Worker/PutLogs") {
      PROA_CO_TRY(auto put, decode<sched::PutLogs>(*request));
      for (const sched::LogLine& line : put.lines) log += line.text;
      call.write_last("");
    } else if (method == "/modal.client.ModalClient/DictContents") {
      forwarded = call.all_metadata();
      for (int i = 0; i < 3; ++i) (void)co_await call.write("chunk " + std::to_string(i));
    } else {
      forwarded = call.all_metadata();
      ++forwarded_calls;
      call.add_trailer("x-modal-warning", "mind the gap");
      call.write_last("echo " + *request);
    }
    co_return Result<void>();
  }

 private:
  Async<> accept(int fd) {
    WatchedFd listener(loop_, fd);
    while (true) {
      const int accepted = ::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC);
      if (accepted < 0) {
        co_await listener.readable();
        continue;
      }
      (void)server_->add_connection(accepted, {.kind = rpc::ConnectionInfo::Kind::kLocal});
    }
  }
  Async<Result<void>> session(rpc::ServerCall& call) {
    ++sessions;
    Scope writing;
    writing.spawn(write(call));
    while (true) {
      PROA_CO_TRY(std::optional<Bytes> message, co_await call.read());
      if (!message) co_return Result<void>();
      PROA_CO_TRY(auto batch, decode<sched::Reports>(*message));
      for (sched::Report& report : batch.reports) reports.push_back(std::move(report));
    }
  }
  Async<> write(rpc::ServerCall& call) {
    while (true) {
      while (waiting_.empty()) co_await changed_.wait();
      Bytes message = std::move(waiting_.front());
      waiting_.pop_front();
      if (!co_await call.write(std::move(message))) co_return;
    }
  }

  RealLoop& loop_;
  std::string path_;
  std::deque<Bytes> waiting_;
  Signal changed_;
  std::unique_ptr<rpc::Server> server_;
  Scope scope_;
};

class ModalFaceTest : public testing::Test {
 protected:
  ModalFaceTest() {
    char name[] = "/tmp/proa-worker-XXXXXX";
    directory = ::mkdtemp(name);
    runtime.emplace(loop, directory / "slots");
    server.emplace(loop, directory / "server.sock");
    const ServerAddress address{.address = "unix:" + (directory / "server.sock").string(), .blobs = "unix:" + (directory / "server.sock").string(), .token = "worker-token"};
    auto connection = ServerConnection::create(loop, random, log, address);
    link = std::move(connection).value();
    auto made = ContainerFace::create(loop, log, address, {.calls_max = 4});
    face = std::move(made).value();
    face->add_wire(make_modal_face(log));
    pipes.emplace(loop);
    AgentOptions options;
    options.worker = WorkerId::make(random, loop.now());
    options.prepared_slots = 0;
    agent.emplace(Agent::Seams{.loop = loop,
                               .random = random,
                               .log = log,
                               .runtime = *runtime,
                               .link = *link,
                               .face = *face,
                               .pipes = *pipes,
                               .load = load},
                  options);
    agent->start();
    wait_for([&] { return !server->reports.empty(); });
  }
  ~ModalFaceTest() override {
    client.reset();
    face->close();
    agent.reset();
    link.reset();
    server.reset();
    std::filesystem::remove_all(directory);
  }

  void wait_for(const std::function<bool()>& condition, Duration limit = seconds(120)) {
    const Time deadline = loop.now() + limit;
    const auto tick = loop.at(deadline, [] {});
    while (!condition() && loop.now() < deadline) loop.run_one();
    loop.cancel(tick);
    EXPECT_TRUE(condition());
  }

  void pass(Duration duration) {
    bool passed = false;
    loop.at(loop.now() + duration, [&] { passed = true; });
    wait_for([&] { return passed; });
  }

  // A container that only sleeps, and a client on its socket in its place.
  void start_sleeper(bool untrusted = false) {
    order.task = TaskId::make(random, loop.now());
    order.function = function;
    order.argv = {"/bin/sleep", "1000"};
    order.untrusted = untrusted;
    start();
    wait_for([&] { return server->last_report() && server->last_report()->state == sched::TaskState::kStarting; });
    auto made = rpc::Client::create(
        loop, {.address = "unix:" + (runtime->directory_of(1) / "api.sock").string(), .tls = std::nullopt});
    client = std::move(made).value();
  }
  void start() {
    server->orders[order.task] = order;
    server->command({.start = sched::StartTask{.task = order.task, .function = order.function}});
  }
  void lease(std::uint32_t index, Bytes arguments) {
    sched::Lease made;
    made.id = {.input = {.call = call, .index = index}, .epoch = 1};
    made.function = function;
    made.arguments =
        control::Arguments{.payload = {.bytes = std::move(arguments), .format = control::DataFormat::kPickle}};
    server->command({.lease = {made}});
  }

  Async<> do_call(std::string method, Bytes request, rpc::Metadata metadata, std::optional<rpc::UnaryReply>* out) {
    *out =
        co_await client->unary_with_trailers(std::string(kModal) + method, std::move(request),
                                             {.metadata = std::move(metadata), .deadline = loop.now() + seconds(120)});
  }
  rpc::UnaryReply ask(const std::string& method, Bytes request, rpc::Metadata metadata = {}) {
    std::optional<rpc::UnaryReply> reply;
    scope.spawn(do_call(method, std::move(request), std::move(metadata), &reply));
    wait_for([&] { return reply.has_value(); });
    return std::move(*reply);
  }
  static Code code_of(const rpc::UnaryReply& reply) {
    return reply.ending.status.ok() ? Code::kOk : reply.ending.status.error().code;
  }

  RealLoop loop;
  SystemRandom random;
  NullLogger log;
  std::filesystem::path directory;
  std::optional<HostRuntime> runtime;
  std::optional<FakeServer> server;
  std::unique_ptr<ServerConnection> link;
  std::unique_ptr<ContainerFace> face;
  std::optional<RealPipes> pipes;
  ProcLoadProbe load;
  std::optional<Agent> agent;
  std::unique_ptr<rpc::Client> client;
  FunctionId function = FunctionId::make(random, loop.now());
  CallId call = CallId::make(random, loop.now());
  sched::TaskOrder order;
  Scope scope;
};

TEST_F(ModalFaceTest, CarriesAnInputInAndItsOutputOut) {
  start_sleeper();
  EXPECT_EQ(code_of(ask("ContainerHello", "")), Code::kOk);
  lease(3, "arguments");
  pb::FunctionGetInputsRequest request;
  const rpc::UnaryReply reply = ask("FunctionGetInputs", request.SerializeAsString());
  pb::FunctionGetInputsResponse inputs;
  ASSERT_TRUE(inputs.ParseFromString(reply.message));
  ASSERT_EQ(inputs.inputs_size(), 1);
  const auto& item = inputs.inputs(0);
  EXPECT_EQ(item.input_id(), (InputId{.call = call, .index = 3}.text()));
  EXPECT_EQ(item.function_call_id(), call.text());
  EXPECT_EQ(item.input().args(), "arguments");
  EXPECT_EQ(item.input().data_format(), pb::DATA_FORMAT_PICKLE);
  EXPECT_FALSE(item.input().has_method_name());

  pb::FunctionPutOutputsRequest put;
  auto& output = *put.add_outputs();
  output.set_input_id(item.input_id());
  output.set_data_format(pb::DATA_FORMAT_PICKLE);
  output.mutable_result()->set_status(pb::GenericResult::GENERIC_STATUS_FAILURE);
  output.mutable_result()->set_exception("ValueError('no')");
  output.mutable_result()->set_serialized_tb("tb");
  output.mutable_result()->set_data("exception");
  EXPECT_EQ(code_of(ask("FunctionPutOutputs", put.SerializeAsString())), Code::kOk);
  ASSERT_EQ(server->outputs.size(), 1U);
  const control::Outcome& outcome = server->outputs[0].outcome;
  EXPECT_EQ(outcome.status, control::Status::kFailure);
  EXPECT_EQ(outcome.error, "ValueError('no')");
  EXPECT_EQ(outcome.value.bytes, "exception");
  EXPECT_EQ(outcome.value.format, control::DataFormat::kPickle);
  EXPECT_EQ(outcome.attachments.at("serialized_tb"), "tb");
}

TEST_F(ModalFaceTest, ARepeatedCallForInputsGetsTheSameAnswer) {
  start_sleeper();
  lease(0, "a");
  lease(1, "b");
  const rpc::Metadata key{{"x-idempotency-key", "one"}};
  const Bytes first = ask("FunctionGetInputs", "", key).message;
  EXPECT_FALSE(first.empty());
  EXPECT_EQ(ask("FunctionGetInputs", "", key).message, first);
}

TEST_F(ModalFaceTest, HeartbeatAnswersAtOnceWithCancellations) {
  start_sleeper();
  lease(0, "a");
  (void)ask("FunctionGetInputs", "");
  std::optional<rpc::UnaryReply> beat;
  scope.spawn(do_call("ContainerHeartbeat", "", {}, &beat));
  server->command({.cancel = {{.input = {.call = call, .index = 0}, .epoch = 1}}});
  wait_for([&] { return beat.has_value(); }, seconds(13));
  pb::ContainerHeartbeatResponse response;
  ASSERT_TRUE(response.ParseFromString(beat->message));
  ASSERT_EQ(response.cancel_input_event().input_ids_size(), 1);
}

TEST_F(ModalFaceTest, GracefulStopOfItselfEndsInAKillSwitch) {
  start_sleeper();
  pb::ContainerStopRequest stop;
  stop.set_task_id(order.task.text());
  stop.set_graceful(true);
  EXPECT_EQ(code_of(ask("ContainerStop", stop.SerializeAsString())), Code::kOk);
  pb::FunctionGetInputsResponse inputs;
  ASSERT_TRUE(inputs.ParseFromString(ask("FunctionGetInputs", "").message));
  ASSERT_EQ(inputs.inputs_size(), 1);
  EXPECT_TRUE(inputs.inputs(0).kill_switch());
  stop.set_task_id(TaskId::make(random, loop.now()).text());
  EXPECT_EQ(code_of(ask("ContainerStop", stop.SerializeAsString())), Code::kPermissionDenied);
}

TEST_F(ModalFaceTest, ForwardsTheRestWithTheTasksIdentityAndWithoutCredentials) {
  start_sleeper();
  const rpc::UnaryReply reply = ask("FunctionGet", "bytes",
                                    {{"x-modal-token-id", "ak-stolen"},
                                     {"x-modal-token-secret", "as-stolen"},
                                     {"x-proa-task", "ta-another"},
                                     {"x-proa-worker-token", "guess"},
                                     {"x-idempotency-key", "k"}});
  EXPECT_EQ(reply.message, "echo bytes");
  EXPECT_EQ(reply.ending.trailers, (rpc::Metadata{{"x-modal-warning", "mind the gap"}}));
  std::multimap<std::string, std::string> seen(server->forwarded.begin(), server->forwarded.end());
  EXPECT_EQ(seen.count("x-modal-token-id"), 0U);
  EXPECT_EQ(seen.count("x-modal-token-secret"), 0U);
  ASSERT_EQ(seen.count("x-proa-task"), 1U);
  EXPECT_EQ(seen.find("x-proa-task")->second, order.task.text());
  ASSERT_EQ(seen.count("x-proa-worker-token"), 1U);
  EXPECT_EQ(seen.find("x-proa-worker-token")->second, "worker-token");
  EXPECT_EQ(seen.find("x-idempotency-key")->second, "k");
}

Async<> read_all_of(rpc::Stream* stream, std::vector<Bytes>* messages, bool* done) {
  (void)co_await stream->write("request");
  stream->writes_done();
  while (auto message = co_await stream->read()) messages->push_back(std::move(*message));
  *done = true;
}

TEST_F(ModalFaceTest, ForwardsStreams) {
  start_sleeper();
  const auto stream = client->stream(std::string(kModal) + "DictContents");
  std::vector<Bytes> messages;
  bool done = false;
  scope.spawn(read_all_of(stream.get(), &messages, &done));
  wait_for([&] { return done; });
  EXPECT_EQ(messages, (std::vector<Bytes>{"chunk 0", "chunk 1", "chunk 2"}));
}

TEST_F(ModalFaceTest, AnUntrustedContainerHasItsOwnCallsOnly) {
  start_sleeper(true);
  EXPECT_EQ(code_of(ask("ContainerHello", "")), Code::kOk);
  EXPECT_EQ(code_of(ask("SecretGetOrCreate", "")), Code::kPermissionDenied);
  EXPECT_EQ(server->forwarded_calls, 0);
  EXPECT_EQ(code_of(ask("BlobCreate", "")), Code::kOk);
}

TEST_F(ModalFaceTest, TheWorkersOwnProtocolIsClosedToContainers) {
  start_sleeper();
  std::optional<Result<Bytes>> reply;
  struct Local {
    static Async<> go(rpc::Client* client, std::optional<Result<Bytes>>* out) {
      *out = co_await client->unary("/proa.worker.v1.Worker/PutOutputs", "");
    }
  };
  scope.spawn(Local::go(client.get(), &reply));
  wait_for([&] { return reply.has_value(); });
  EXPECT_EQ(reply->error().code, Code::kUnimplemented);
}

TEST_F(ModalFaceTest, BoundsTheCallsOfAContainer) {
  start_sleeper();
  std::vector<std::optional<rpc::UnaryReply>> parked(5);
  for (auto& one : parked) scope.spawn(do_call("FunctionGetInputs", "", {}, &one));
  const auto refused = [&] {
    return std::count_if(parked.begin(), parked.end(), [](const auto& one) { return one.has_value(); });
  };
  wait_for([&] { return refused() > 0; });
  ASSERT_EQ(refused(), 1);
  for (const auto& one : parked) {
    if (one) EXPECT_EQ(code_of(*one), Code::kResourceExhausted);
  }
}

TEST_F(ModalFaceTest, HidesARestartOfTheServer) {
  start_sleeper();
  server->down();
  std::optional<rpc::UnaryReply> reply;
  scope.spawn(do_call("FunctionGet", "bytes", {}, &reply));
  pass(milliseconds(700));
  EXPECT_FALSE(reply.has_value());
  const int sessions = server->sessions;
  server->reports.clear();
  server->up();
  wait_for([&] { return reply.has_value() && server->sessions > sessions && !server->reports.empty(); });
  EXPECT_EQ(reply->message, "echo bytes");
  ASSERT_TRUE(server->reports[0].hello.has_value());
  EXPECT_EQ(server->reports[0].hello->tasks.size(), 1U);
}

TEST_F(ModalFaceTest, BoundsTheConnectionsOfAContainer) {
  start_sleeper();
  const std::string path = runtime->directory_of(1) / "api.sock";
  std::vector<OwnedFd> connections;
  for (int i = 0; i < 70; ++i) {
    connections.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strncpy(name.sun_path, path.c_str(), sizeof name.sun_path - 1);
    ASSERT_EQ(::connect(connections.back().get(), reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    pass(milliseconds(5));
  }
  // The last was closed without a word; the first waits for the peer to begin.
  char byte = 0;
  EXPECT_EQ(::recv(connections.back().get(), &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_NE(::recv(connections.front().get(), &byte, 1, MSG_DONTWAIT), 0);
}

TEST_F(ModalFaceTest, CarriesTheBlobPortToTheServer) {
  start_sleeper();
  // The fake server speaks gRPC on its socket, which is as good as any other bytes.
  auto made = rpc::Client::create(
      loop, {.address = "unix:" + (runtime->directory_of(1) / "blob.sock").string(), .tls = std::nullopt});
  client = std::move(made).value();
  EXPECT_EQ(ask("BlobGet", std::string(300'000, 'x')).message, "echo " + std::string(300'000, 'x'));
}

// --- With the official client ---

class EntryPointTest : public ModalFaceTest {
 protected:
  void SetUp() override {
    const char* venv = std::getenv("PROA_VENV");
    python = std::string(venv == nullptr ? PROA_VENV : venv) + "/bin/python";
    if (!std::filesystem::exists(python)) GTEST_SKIP() << "no official client at " << python;
  }

  void start_program(const std::string& source) {
    std::ofstream(directory / "hello.py") << source;
    order.task = TaskId::make(random, loop.now());
    order.function = function;
    order.argv = {python, "-u", "-m", "modal._container_entrypoint"};
    order.timeout = seconds(100);
    order.env = {"MODAL_SERVER_URL=unix://@/api.sock",
                 "MODAL_IS_REMOTE=1",
                 "MODAL_CONTAINER_ARGUMENTS_PATH=@/arguments.bin",
                 "MODAL_TASK_ID=" + order.task.text(),
                 "PYTHONPATH=" + directory.string(),
                 "PATH=/usr/bin:/bin"};
    const AppId app = AppId::make(random, loop.now());
    pb::ContainerArguments arguments;
    arguments.set_task_id(order.task.text());
    arguments.set_function_id(function.text());
    arguments.set_app_id(app.text());
    arguments.set_environment_name("main");
    auto& definition = *arguments.mutable_function_def();
    definition.set_module_name("hello");
    definition.set_function_name("f");
    definition.set_implementation_name("f");
    definition.set_definition_type(pb::Function::DEFINITION_TYPE_FILE);
    definition.set_function_type(pb::Function::FUNCTION_TYPE_FUNCTION);
    definition.set_app_name("hello");
    auto& layout = *arguments.mutable_app_layout();
    (*layout.mutable_function_ids())["f"] = function.text();
    auto& object = *layout.add_objects();
    object.set_object_id(function.text());
    object.mutable_function_handle_metadata()->set_function_name("f");
    object.mutable_function_handle_metadata()->set_function_type(pb::Function::FUNCTION_TYPE_FUNCTION);
    order.files["arguments.bin"] = arguments.SerializeAsString();
    start();
  }

  // ((n,), {}) in the oldest protocol of pickle.
  static Bytes pickled(int number) { return "((I" + std::to_string(number) + "\nt(dt."; }

  std::string python;
};

TEST_F(EntryPointTest, RunsAFunctionAndLeavesWhenDrained) {
  start_program("def f(x):\n    print('hello from', x)\n    return x + 1\n");
  wait_for([&] { return server->last_report() && server->last_report()->state >= sched::TaskState::kReady; });
  lease(0, pickled(41));
  wait_for([&] { return server->outputs.size() == 1; });
  ASSERT_EQ(server->outputs.size(), 1U) << server->log;
  EXPECT_EQ(server->outputs[0].outcome.status, control::Status::kSuccess) << server->outputs[0].outcome.error;
  EXPECT_TRUE(server->outputs[0].outcome.value.bytes.ends_with("K*.")) << "42 pickled";
  EXPECT_EQ(server->outputs[0].lease.epoch, 1U);
  lease(1, pickled(1));
  wait_for([&] { return server->outputs.size() == 2; });
  server->command({.stop = sched::StopTask{.task = order.task, .how = sched::StopHow::kDrain}});
  wait_for([&] { return server->last_report()->state == sched::TaskState::kEnded; });
  EXPECT_EQ(server->last_report()->reason, sched::EndReason::kFinished);
  EXPECT_EQ(server->last_report()->exit_code, 0);
  EXPECT_NE(server->log.find("hello from 41\n"), std::string::npos);
}

TEST_F(EntryPointTest, ReportsAnImportErrorAsAnInitFailure) {
  start_program("import nothing_of_this_name\n");
  wait_for([&] { return server->last_report() && server->last_report()->state == sched::TaskState::kEnded; });
  EXPECT_EQ(server->last_report()->reason, sched::EndReason::kInitFailure);
  EXPECT_NE(server->last_report()->message.find("nothing_of_this_name"), std::string::npos);
  EXPECT_FALSE(server->last_report()->outcome->value.bytes.empty());
}

TEST_F(EntryPointTest, AnInputThatRunsTooLongTimesOut) {
  start_program("import time\ndef f(x):\n    time.sleep(100)\n");
  server->orders[order.task].timeout = seconds(1);
  wait_for([&] { return server->last_report() && server->last_report()->state >= sched::TaskState::kReady; });
  lease(0, pickled(1));
  wait_for([&] { return server->last_report()->state == sched::TaskState::kEnded; });
  EXPECT_EQ(server->last_report()->reason, sched::EndReason::kInputTimeout);
  ASSERT_EQ(server->outputs.size(), 1U);
  EXPECT_EQ(server->outputs[0].outcome.status, control::Status::kTimeout);
}

TEST_F(EntryPointTest, CancelsAnInputSoonAndGoesOnWithTheNext) {
  start_program("import time\ndef f(x):\n    time.sleep(x)\n    return x\n");
  wait_for([&] { return server->last_report() && server->last_report()->state >= sched::TaskState::kReady; });
  lease(0, pickled(100));
  wait_for([&] { return agent->find(order.task)->holds({.input = {.call = call, .index = 0}, .epoch = 1}); });
  const Time begun = loop.now();
  server->command({.cancel = {{.input = {.call = call, .index = 0}, .epoch = 1}}});
  wait_for([&] { return server->outputs.size() == 1; });
  ASSERT_EQ(server->outputs.size(), 1U) << server->log;
  EXPECT_LT(loop.now() - begun, seconds(14)) << "sooner than the next heartbeat would have come";
  EXPECT_EQ(server->outputs[0].outcome.status, control::Status::kTerminated);
  lease(1, pickled(0));
  wait_for([&] { return server->outputs.size() == 2; });
  ASSERT_EQ(server->outputs.size(), 2U);
  EXPECT_EQ(server->outputs[1].outcome.status, control::Status::kSuccess);
}

TEST_F(EntryPointTest, DoesNotNoticeThatTheServerIsAway) {
  start_program("def f(x):\n    return x\n");
  wait_for([&] { return server->last_report() && server->last_report()->state >= sched::TaskState::kReady; });
  lease(0, pickled(1));
  lease(1, pickled(2));
  wait_for([&] { return agent->find(order.task)->holds({.input = {.call = call, .index = 0}, .epoch = 1}); });
  server->down();
  pass(seconds(3));
  server->up();
  wait_for([&] { return server->outputs.size() >= 2; });
  EXPECT_EQ(agent->find(order.task)->report().state, sched::TaskState::kReady);
}

}  // namespace
}  // namespace proa::worker
