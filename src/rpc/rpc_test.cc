// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <thread>

#include "rpc/client.h"
#include "rpc/forward.h"
#include "rpc/server.h"
#include "rt/real_loop.h"

namespace proa::rpc {
namespace {

using std::chrono::seconds;

int threads_of_this_process() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) return std::stoi(line.substr(8));
  }
  return 0;
}

// The methods of the tests, by name.
class TestHandler final : public Handler {
 public:
  explicit TestHandler(Loop& loop) : loop_(loop), budget_(std::make_shared<ByteBudget>(loop, 1 << 20)) {}

  Async<Result<void>> handle(ServerCall& call) override {
    ++started;
    struct Ended {
      TestHandler& handler;
      ~Ended() { ++handler.ended; }
    } const at_end{*this};
    const std::string& method = call.method();
    last_connection = call.connection();
    if (method == "/t/Refused") co_return unauthenticated("no credentials in the request");
    if (method == "/t/Echo") co_return co_await echo(call);
    if (method == "/t/Park") {
      ++parked;
      co_await sleep_for(loop_, seconds(1000));
    }
    if (method == "/t/Count") co_return co_await count(call);
    if (method == "/t/Endless") {
      while (co_await call.write(Bytes(100'000, 'x'))) ++written;
      co_return Result<void>();
    }
    if (method == "/t/Sum") co_return co_await sum(call);
    if (method == "/t/Fail") {
      call.add_trailer("x-note", "one");
      call.add_trailer("x-note", "two");
      call.set_status_details("details\x01");
      co_return failed_precondition("the app \"ä\" is stopped");
    }
    if (method == "/t/Impatient") {
      auto message = co_await call.read(std::chrono::milliseconds(30));
      co_return message.ok() ? Result<void>() : message.error();
    }
    if (method == "/t/Budgeted") {
      call.set_budget(budget_);
      auto message = co_await call.read();
      ++budgeted;
      co_await sleep_for(loop_, seconds(1000));
    }
    co_return unimplemented("there is no method " + method);
  }

  static Async<Result<void>> echo(ServerCall& call) {
    PROA_CO_TRY(auto message, co_await call.read());
    if (!message) co_return invalid_argument("the request is missing");
    Bytes answer = *std::move(message);
    if (const auto prefix = call.metadata("x-prefix")) answer = std::string(*prefix) + answer;
    call.write_last(std::move(answer));
    co_return Result<void>();
  }
  static Async<Result<void>> count(ServerCall& call) {
    for (int i = 0; i < 1000; ++i) {
      if (!co_await call.write(std::to_string(i))) co_return Error{Code::kCancelled, "gone"};
    }
    co_return Result<void>();
  }
  static Async<Result<void>> sum(ServerCall& call) {
    std::size_t total = 0;
    while (true) {
      PROA_CO_TRY(auto message, co_await call.read());
      if (!message) break;
      total += message->size();
    }
    call.write_last(std::to_string(total));
    co_return Result<void>();
  }

  int started = 0;
  int ended = 0;
  int parked = 0;
  int written = 0;
  int budgeted = 0;
  ConnectionInfo last_connection;

 private:
  Loop& loop_;
  std::shared_ptr<ByteBudget> budget_;
};

// A server and a client in one process. The client connects to a unix socket whose connections are accepted by a
// thread and handed over by descriptor.
class RpcTest : public testing::Test {
 protected:
  RpcTest() {
    tick();
    start_server({});
  }
  ~RpcTest() override {
    loop_.cancel(ticker_);
    scope_.cancel_all();
    client_.reset();
    server_.reset();
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    for (int i = 0; i < 100; ++i) loop_.post([] {});
    for (int i = 0; i < 100; ++i) loop_.run_one();
  }

  void start_server(ServerOptions options) {
    server_ = std::move(Server::create(loop_, handler_, options)).value();
    const std::string name = "proa-rpc-test-" + std::to_string(::getpid()) + "-" + std::to_string(++instance);
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(name.begin(), name.end(), address.sun_path + 1);
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(listener_, 100), 0);
    acceptor_ = std::thread([this] {
      for (int fd = 0; (fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
        const std::lock_guard lock(info_mutex_);
        (void)server_->add_connection(fd, info_).ok();
      }
    });
    client_ = connect("unix-abstract:" + name);
    address_ = "unix-abstract:" + name;
  }
  // Wakes the loop now and then, so that those who wait for a condition look again.
  void tick() {
    ticker_ = loop_.at(loop_.now() + std::chrono::milliseconds(5), [this] { tick(); });
  }
  std::unique_ptr<Client> connect(const std::string& address) {
    return std::move(Client::create(loop_, {.address = address})).value();
  }

  void run_until(const std::function<bool()>& done) {
    const Time end = loop_.now() + seconds(20);
    while (!done() && loop_.now() < end) loop_.run_one();
    EXPECT_TRUE(done());
  }
  template <class T>
  T run(Async<T> work) {
    std::optional<T> result;
    scope_.spawn(keep(std::move(work), result));
    run_until([&] { return result.has_value(); });
    return std::move(*result);
  }
  template <class T>
  static Async<> keep(Async<T> work, std::optional<T>& into) {
    into.emplace(co_await std::move(work));
  }

  static inline int instance = 0;
  RealLoop loop_;
  TestHandler handler_{loop_};
  std::unique_ptr<Server> server_;
  std::mutex info_mutex_;
  ConnectionInfo info_{.kind = ConnectionInfo::Kind::kLocal};
  int listener_ = -1;
  std::thread acceptor_;
  std::string address_;
  std::unique_ptr<Client> client_;
  Loop::TimerId ticker_ = 0;
  Scope scope_;
};

TEST_F(RpcTest, AUnaryCallCarriesBytesAndMetadata) {
  CallOptions options;
  options.metadata.emplace_back("x-prefix", ">");
  auto reply = run(client_->unary("/t/Echo", "hello", options));
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(*reply, ">hello");
}

TEST_F(RpcTest, MessagesOfManyMegabytesPass) {
  for (const std::size_t size : {std::size_t{5} << 20, std::size_t{60} << 20}) {
    Bytes big(size, 'b');
    big[size / 2] = '!';
    auto reply = run(client_->unary("/t/Echo", big));
    ASSERT_TRUE(reply.ok()) << reply.error().message;
    EXPECT_TRUE(*reply == big);
  }
}

TEST_F(RpcTest, AMessageOverTheLimitIsResourceExhausted) {
  auto reply = run(client_->unary("/t/Echo", Bytes((std::size_t{128} << 20) + 1, 'b')));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, Code::kResourceExhausted);
}

TEST_F(RpcTest, AnUnknownMethodIsUnimplemented) {
  auto reply = run(client_->unary("/t/Nothing", "x"));
  EXPECT_EQ(reply.error().code, Code::kUnimplemented);
}

TEST_F(RpcTest, ARefusedCallEndsBeforeItsBodyIsRead) {
  auto reply = run(client_->unary("/t/Refused", Bytes(50 << 20, 'x')));
  EXPECT_EQ(reply.error().code, Code::kUnauthenticated);
  EXPECT_EQ(reply.error().message, "no credentials in the request");
  EXPECT_EQ(server_->probe().bytes_read.load(), 0U);
}

TEST_F(RpcTest, AnErrorCarriesItsTextDetailsAndTrailers) {
  const UnaryReply reply = run(client_->unary_with_trailers("/t/Fail", "x"));
  ASSERT_FALSE(reply.ending.status.ok());
  const Result<void> status = reply.ending.status;
  EXPECT_EQ(Error(Result<void>(status).error()), failed_precondition("the app \"ä\" is stopped"));
  EXPECT_EQ(reply.ending.status_details, "details\x01");
  const Metadata wanted{{"x-note", "one"}, {"x-note", "two"}};
  EXPECT_EQ(reply.ending.trailers, wanted);
}

Async<int> read_all(Stream& stream, Result<void>& status) {
  int next = 0;
  while (const auto message = co_await stream.read()) {
    EXPECT_EQ(*message, std::to_string(next));
    ++next;
  }
  status = (co_await stream.ended()).status;
  co_return next;
}

TEST_F(RpcTest, AServerStreamArrivesInOrderAndWhole) {
  const auto stream = client_->stream("/t/Count");
  stream->writes_done();
  Result<void> status = internal_error("not yet");
  EXPECT_EQ(run(read_all(*stream, status)), 1000);
  EXPECT_TRUE(status.ok());
}

Async<Bytes> send_many(Stream& stream) {
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(co_await stream.write(Bytes(50'000, 'y')));
  stream.writes_done();
  auto answer = co_await stream.read();
  co_return answer.value_or("nothing");
}

TEST_F(RpcTest, AClientStreamIsReadToItsEnd) {
  const auto stream = client_->stream("/t/Sum");
  EXPECT_EQ(run(send_many(*stream)), "5000000");
}

TEST_F(RpcTest, AWriterWaitsForItsReaderAndStopsWhenItGoes) {
  auto stream = client_->stream("/t/Endless");
  stream->writes_done();
  run_until([&] { return handler_.written > 0; });
  for (int i = 0; i < 200; ++i) {
    loop_.post([] {});
    loop_.run_one();
  }
  EXPECT_LT(handler_.written, 2000) << "nobody reads, so the writer must wait";
  stream.reset();
  run_until([&] { return handler_.ended == 1; });
}

TEST_F(RpcTest, DroppingACallDestroysItsHandlerWhereItWaits) {
  {
    Scope scope;
    std::optional<Result<Bytes>> result;
    scope.spawn(keep(client_->unary("/t/Park", "x"), result));
    run_until([&] { return handler_.parked == 1; });
  }
  run_until([&] { return handler_.ended == 1; });
  EXPECT_EQ(server_->probe().calls_cancelled.load(), 1U);
}

TEST_F(RpcTest, ADeadlineEndsCallAndHandler) {
  CallOptions options;
  options.deadline = loop_.now() + std::chrono::milliseconds(100);
  auto reply = run(client_->unary("/t/Park", "x", options));
  EXPECT_EQ(reply.error().code, Code::kDeadlineExceeded);
  run_until([&] { return handler_.ended == 1; });
}

TEST_F(RpcTest, AReadGivesUpOnAPeerThatSendsNothing) {
  const auto stream = client_->stream("/t/Impatient");
  const Ending ending = run(stream->ended());
  EXPECT_EQ(Result<void>(ending.status).error().code, Code::kDeadlineExceeded);
}

TEST_F(RpcTest, WhatIsInFlightIsBoundedByNotReading) {
  Scope scope;
  std::vector<std::optional<Result<Bytes>>> results(6);
  for (auto& result : results) scope.spawn(keep(client_->unary("/t/Budgeted", Bytes(600 << 10, 'x')), result));
  run_until([&] { return handler_.started == 6 && handler_.budgeted >= 2; });
  for (int i = 0; i < 20; ++i) loop_.run_one();
  // All six may have begun to read at once; from then on nobody is read before something is given back.
  const int first = handler_.budgeted;
  std::optional<Result<Bytes>> late;
  scope.spawn(keep(client_->unary("/t/Budgeted", Bytes(600 << 10, 'x')), late));
  run_until([&] { return handler_.started == 7; });
  EXPECT_EQ(handler_.budgeted, first);
}

TEST_F(RpcTest, TwoThousandParkedCallsNeedNoThreads) {
  Scope scope;
  std::vector<std::optional<Result<Bytes>>> results(2000);
  for (auto& result : results) scope.spawn(keep(client_->unary("/t/Park", "x"), result));
  run_until([&] { return handler_.parked == 2000; });
  EXPECT_LT(threads_of_this_process(), 40);
  EXPECT_EQ(server_->probe().calls_active.load(), 2000);
}

TEST_F(RpcTest, AServerThatStopsEndsItsCallsWithUnavailable) {
  std::optional<Result<Bytes>> result;
  scope_.spawn(keep(client_->unary("/t/Park", "x"), result));
  run_until([&] { return handler_.parked == 1; });
  server_.reset();
  run_until([&] { return result.has_value(); });
  EXPECT_EQ(result->error().code, Code::kUnavailable);
  EXPECT_EQ(handler_.ended, 1);
  server_ = std::move(Server::create(loop_, handler_)).value();
}

TEST_F(RpcTest, AConnectionKeepsItsIdentityWhenDescriptorsAreReused) {
  for (int i = 0; i < 20; ++i) {
    {
      const std::lock_guard lock(info_mutex_);
      info_ = {.kind = ConnectionInfo::Kind::kContainer, .address = "", .task = "ta-" + std::to_string(i)};
    }
    client_ = connect(address_);
    ASSERT_TRUE(run(client_->unary("/t/Echo", "x")).ok());
    EXPECT_EQ(handler_.last_connection.task, "ta-" + std::to_string(i));
  }
}

// Forwards all it gets to another server.
class Relay final : public Handler {
 public:
  Relay(Loop& loop, Client& client) : loop_(loop), client_(client) {}
  Async<Result<void>> handle(ServerCall& call) override {
    Metadata metadata = forwardable_metadata(call);
    metadata.emplace_back("x-prefix", "relayed:");
    return forward(loop_, call, client_, call.method(), std::move(metadata));
  }

 private:
  Loop& loop_;
  Client& client_;
};

TEST_F(RpcTest, AForwardedCallEndsAsTheFarSideEndedIt) {
  Relay relay(loop_, *client_);
  const auto server = std::move(Server::create(loop_, relay)).value();
  const std::string name = "proa-rpc-test-" + std::to_string(::getpid()) + "-relay";
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy(name.begin(), name.end(), address.sun_path + 1);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())),
            0);
  ASSERT_EQ(::listen(listener, 1), 0);
  std::thread accept_one([&] {
    (void)server->add_connection(::accept(listener, nullptr, nullptr), {.kind = ConnectionInfo::Kind::kLocal}).ok();
  });
  const auto client = connect("unix-abstract:" + name);

  auto reply = run(client->unary("/t/Echo", "hello"));
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(*reply, "relayed:hello");
  const UnaryReply failed = run(client->unary_with_trailers("/t/Fail", "x"));
  EXPECT_EQ(Result<void>(failed.ending.status).error().message, "the app \"ä\" is stopped");
  EXPECT_EQ(failed.ending.status_details, "details\x01");
  EXPECT_EQ(failed.ending.trailers.size(), 2U);
  {
    const auto stream = client->stream("/t/Sum");
    EXPECT_EQ(run(send_many(*stream)), "5000000");
  }
  {
    const auto stream = client->stream("/t/Count");
    stream->writes_done();
    Result<void> status = internal_error("not yet");
    EXPECT_EQ(run(read_all(*stream, status)), 1000);
  }
  {
    Scope scope;
    std::optional<Result<Bytes>> result;
    scope.spawn(keep(client->unary("/t/Park", "x"), result));
    run_until([&] { return handler_.parked == 1; });
  }
  run_until([&] { return handler_.ended == handler_.started; });
  accept_one.join();
  ::close(listener);
}

TEST_F(RpcTest, AClientWithoutAServerFailsAtOnceOrWaitsIfAskedTo) {
  const auto client = connect("unix:/nonexistent/proa.sock");
  EXPECT_EQ(run(client->unary("/t/Echo", "x")).error().code, Code::kUnavailable);
  CallOptions options;
  options.unreachable = CallOptions::Unreachable::kWait;
  options.deadline = loop_.now() + std::chrono::milliseconds(200);
  EXPECT_EQ(run(client->unary("/t/Echo", "x", options)).error().code, Code::kDeadlineExceeded);
}

}  // namespace
}  // namespace proa::rpc
