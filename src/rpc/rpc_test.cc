// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <map>
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
  explicit TestHandler(RealLoop& loop) : loop_(loop), budget_(std::make_shared<ByteBudget>(loop, 1 << 20)) {}

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
    if (method == "/t/Say") co_return not_found(std::string(call.metadata("x-say-bin").value_or("")));
    if (method == "/t/Binary") {
      last_binary = std::string(call.metadata("x-note-bin").value_or("none"));
      last_host = call.host();
      call.add_trailer("x-note-bin", last_binary);
      co_return Result<void>();
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
  std::string last_binary;
  std::string last_host;

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
  for (const std::size_t size : {std::size_t{70} << 10, std::size_t{5} << 20, std::size_t{100} << 20}) {
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

TEST_F(RpcTest, TenThousandParkedCallsNeedNoThreads) {
  Scope scope;
  std::vector<std::optional<Result<Bytes>>> results(10'000);
  for (auto& result : results) scope.spawn(keep(client_->unary("/t/Park", "x"), result));
  run_until([&] { return handler_.parked == 10'000; });
  EXPECT_LT(threads_of_this_process(), 5);
  EXPECT_EQ(server_->probe().calls_active.load(), 10'000);
  // And others still come through.
  EXPECT_TRUE(run(client_->unary("/t/Echo", "x")).ok());
  scope.cancel_all();
  run_until([&] { return server_->probe().calls_active.load() == 0; });
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

Async<> write_without_end(Stream& stream, int& written) {
  while (co_await stream.write(Bytes(10'000, 'z'))) ++written;
}

TEST_F(RpcTest, AHandlerThatDoesNotReadHoldsItsPeerAndNobodyElse) {
  const auto stream = client_->stream("/t/Park");
  int written = 0;
  Scope scope;
  scope.spawn(write_without_end(*stream, written));
  run_until([&] { return handler_.parked == 1; });
  for (int i = 0; i < 100; ++i) {
    loop_.post([] {});
    loop_.run_one();
  }
  // What a stream may send ahead, and what a writer may write ahead.
  EXPECT_LE(written, (65'535 + (64 << 10)) / 10'000 + 1);
  EXPECT_TRUE(run(client_->unary("/t/Echo", Bytes(3 << 20, 'x'))).ok());
  EXPECT_EQ(server_->probe().bytes_read.load(), 3U << 20);
}

TEST_F(RpcTest, MetadataOverTheLimitIsResourceExhausted) {
  CallOptions options;
  for (int i = 0; i < 8; ++i) options.metadata.emplace_back("x-big-" + std::to_string(i), std::string(10'000, 'm'));
  const auto reply = run(client_->unary("/t/Echo", "x", options));
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, Code::kResourceExhausted);
  EXPECT_EQ(handler_.started, 0);
  EXPECT_TRUE(run(client_->unary("/t/Echo", "x")).ok()) << "the connection goes on";
}

TEST_F(RpcTest, ACallWithCompressedMessagesIsUnimplementedBeforeItsHandlerRuns) {
  CallOptions options;
  options.metadata.emplace_back("grpc-encoding", "gzip");
  EXPECT_EQ(run(client_->unary("/t/Echo", "x", options)).error().code, Code::kUnimplemented);
  EXPECT_EQ(handler_.started, 0);
}

TEST_F(RpcTest, BinaryMetadataAndTrailersAreBytes) {
  CallOptions options;
  const std::string bytes("\x00\xff\n bytes", 9);
  options.metadata.emplace_back("x-note-bin", bytes);
  const auto stream = client_->stream("/t/Binary", options);
  const Ending ending = run(stream->ended());
  EXPECT_TRUE(ending.status.ok());
  EXPECT_EQ(handler_.last_binary, bytes);
  EXPECT_EQ(handler_.last_host, "localhost");
  const Metadata wanted{{"x-note-bin", bytes}};
  EXPECT_EQ(ending.trailers, wanted);
}

TEST_F(RpcTest, AStatusMessageOfAnyBytesArrivesAsItWas) {
  CallOptions options;
  options.metadata.emplace_back("x-say-bin", "50% of \n\xc3\xa4\x7f \"\xff");
  const auto reply = run(client_->unary("/t/Say", "x", options));
  EXPECT_EQ(reply.error().message, options.metadata.front().second);
}

TEST_F(RpcTest, AClientGoesOnWithTheServerThatComesAfter) {
  std::optional<Result<Bytes>> parked;
  scope_.spawn(keep(client_->unary("/t/Park", "x"), parked));
  run_until([&] { return handler_.parked == 1; });
  server_.reset();
  server_ = std::move(Server::create(loop_, handler_)).value();
  run_until([&] { return parked.has_value(); });
  EXPECT_EQ(parked->error().code, Code::kUnavailable);
  EXPECT_TRUE(run(client_->unary("/t/Echo", "again")).ok());
}

TEST_F(RpcTest, TheCallsOfAClientThatGoesEndAndSoDoTheirHandlers) {
  std::optional<Result<Bytes>> parked;
  scope_.spawn(keep(client_->unary("/t/Park", "x"), parked));
  run_until([&] { return handler_.parked == 1; });
  client_.reset();
  run_until([&] { return parked.has_value() && handler_.ended == 1; });
  EXPECT_EQ(parked->error().code, Code::kCancelled);
}

TEST_F(RpcTest, APeerThatResetsMoreCallsThanItMayHaveLosesItsConnection) {
  server_.reset();
  ServerOptions options;
  options.streams_max = 100;
  server_ = std::move(Server::create(loop_, handler_, options)).value();
  {
    const std::lock_guard lock(info_mutex_);
    info_ = {.kind = ConnectionInfo::Kind::kTcp, .address = "192.0.2.1:1"};
  }
  client_ = connect(address_);
  std::optional<Result<Bytes>> parked;
  scope_.spawn(keep(client_->unary("/t/Park", "x"), parked));
  run_until([&] { return handler_.parked == 1; });
  for (int i = 0; i < 5000 && !parked; ++i) {
    const int before = handler_.started;
    const auto stream = client_->stream("/t/Park");
    std::optional<Ending> ended;  // The last one ends with the connection.
    Scope scope;
    scope.spawn(keep(stream->ended(), ended));
    run_until([&] { return handler_.started > before || ended.has_value(); });
  }
  ASSERT_TRUE(parked.has_value());
  EXPECT_EQ(parked->error().code, Code::kUnavailable);
}

TEST_F(RpcTest, ConnectionsFromOneAddressAreBoundedAndCountedOff) {
  server_.reset();
  ServerOptions options;
  options.connections_per_address_max = 2;
  server_ = std::move(Server::create(loop_, handler_, options)).value();
  const ConnectionInfo info{.kind = ConnectionInfo::Kind::kTcp, .address = "192.0.2.1:1"};
  int first[2];
  int second[2];
  int third[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, first), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, second), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, third), 0);
  EXPECT_TRUE(server_->add_connection(first[0], info).ok());
  EXPECT_TRUE(server_->add_connection(second[0], info).ok());
  EXPECT_EQ(server_->add_connection(third[0], info).error().code, Code::kResourceExhausted);
  ::close(first[1]);
  bool added = false;
  run_until([&] {
    int again[2];
    if (added || ::socketpair(AF_UNIX, SOCK_STREAM, 0, again) != 0) return added;
    added = server_->add_connection(again[0], info).ok();
    ::close(again[1]);
    return added;
  });
  ::close(second[1]);
  ::close(third[1]);
}

// A peer that says on the wire whatever a test wants said.
class RawPeer {
 public:
  using Fields = std::map<std::string, std::string>;
  explicit RawPeer(Server& server, ConnectionInfo info) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    fd_ = ends[0];
    EXPECT_TRUE(server.add_connection(ends[1], std::move(info)).ok());
    nghttp2_hd_inflate_new(&inflater_);
    say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, ""));
  }
  ~RawPeer() {
    nghttp2_hd_inflate_del(inflater_);
    ::close(fd_);
  }
  RawPeer(const RawPeer&) = delete;
  RawPeer& operator=(const RawPeer&) = delete;

  static std::string frame(int type, int flags, int stream, const std::string& payload) {
    const std::size_t size = payload.size();
    const std::array<int, 9> head = {static_cast<int>(size >> 16),
                                     static_cast<int>(size >> 8),
                                     static_cast<int>(size),
                                     type,
                                     flags,
                                     stream >> 24,
                                     stream >> 16,
                                     stream >> 8,
                                     stream};
    std::string bytes;
    for (const int byte : head) bytes += static_cast<char>(byte);
    return bytes + payload;
  }
  static std::string field(const std::string& name, const std::string& value) {
    return std::string(1, '\0') + static_cast<char>(name.size()) + name + static_cast<char>(value.size()) + value;
  }
  static std::string request(const std::string& path) {
    return field(":method", "POST") + field(":scheme", "http") + field(":path", path) + field(":authority", "a") +
           field("content-type", "application/grpc") + field("te", "trailers");
  }

  // False: the connection takes nothing now.
  bool say(const std::string& bytes) {
    const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN) gone_ = true;
    return count == static_cast<ssize_t>(bytes.size());
  }
  // Reads what there is.
  void listen() {
    std::array<char, 65536> piece;
    for (ssize_t count = 0; (count = ::recv(fd_, piece.data(), piece.size(), 0)) != -1 || errno != EAGAIN;) {
      if (count <= 0) {
        gone_ = true;
        return;
      }
      in_.append(piece.data(), static_cast<std::size_t>(count));
    }
    while (in_.size() >= 9) {
      const auto byte = [&](std::size_t at) { return std::size_t{static_cast<unsigned char>(in_[at])}; };
      const std::size_t size = byte(0) << 16 | byte(1) << 8 | byte(2);
      if (in_.size() < 9 + size) break;
      take(static_cast<int>(byte(3)), static_cast<int>(byte(4)), static_cast<int>(byte(7) << 8 | byte(8)),
           in_.substr(9, size));
      in_.erase(0, 9 + size);
    }
  }
  bool is_gone() const { return gone_; }
  bool was_told_to_go() const { return told_to_go_; }
  bool has_ended(int stream) const { return ended_.contains(stream); }
  Fields& fields(int stream) { return fields_[stream]; }
  std::string& data(int stream) { return data_[stream]; }

 private:
  void take(int type, int flags, int stream, std::string payload) {
    if (type == 0) data_[stream] += payload;
    if (type == 7) told_to_go_ = true;
    if (type == 1) {
      const auto* at = reinterpret_cast<const std::uint8_t*>(payload.data());
      std::size_t left = payload.size();
      while (true) {
        nghttp2_nv nv{};
        int how = 0;
        const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &nv, &how, at, left, 1);
        ASSERT_GE(used, 0);
        at += used;
        left -= static_cast<std::size_t>(used);
        if ((how & NGHTTP2_HD_INFLATE_EMIT) != 0) {
          fields_[stream][std::string(reinterpret_cast<char*>(nv.name), nv.namelen)] =
              std::string(reinterpret_cast<char*>(nv.value), nv.valuelen);
        }
        if ((how & NGHTTP2_HD_INFLATE_FINAL) != 0) break;
      }
      nghttp2_hd_inflate_end_headers(inflater_);
    }
    if ((type == 0 || type == 1) && (flags & 1) != 0) ended_[stream] = true;
  }

  int fd_ = -1;
  nghttp2_hd_inflater* inflater_ = nullptr;
  std::string in_;
  bool gone_ = false;
  bool told_to_go_ = false;
  std::map<int, Fields> fields_;
  std::map<int, std::string> data_;
  std::map<int, bool> ended_;
};

const ConnectionInfo kStranger{.kind = ConnectionInfo::Kind::kTcp, .address = "192.0.2.7:1"};

TEST_F(RpcTest, WhoeverDoesNotSpeakGrpcIsToldSoInHttp) {
  RawPeer peer(*server_, kStranger);
  peer.say(RawPeer::frame(1, 5, 1,
                          RawPeer::field(":method", "GET") + RawPeer::field(":scheme", "http") +
                              RawPeer::field(":path", "/") + RawPeer::field(":authority", "a")));
  peer.say(RawPeer::frame(1, 4, 3,
                          RawPeer::field(":method", "POST") + RawPeer::field(":scheme", "http") +
                              RawPeer::field(":path", "/") + RawPeer::field(":authority", "a") +
                              RawPeer::field("content-type", "application/grpc-web")));
  run_until([&] {
    peer.listen();
    return peer.has_ended(1) && peer.has_ended(3);
  });
  EXPECT_EQ(peer.fields(1)[":status"], "405");
  EXPECT_EQ(peer.fields(3)[":status"], "415");
  EXPECT_EQ(handler_.started, 0);
}

TEST_F(RpcTest, MessagesMayComeInAnyPiecesAndTheirFaultsAreNamed) {
  RawPeer peer(*server_, kStranger);
  const std::string whole("\0\0\0\0\5hello", 10);
  peer.say(RawPeer::frame(1, 4, 1, RawPeer::request("/t/Echo")));
  for (const char byte : whole) {
    peer.say(RawPeer::frame(0, 0, 1, std::string(1, byte)));
    peer.say(RawPeer::frame(0, 0, 1, ""));
    loop_.post([] {});
    for (int i = 0; i < 3; ++i) loop_.run_one();
  }
  peer.say(RawPeer::frame(1, 4, 3, RawPeer::request("/t/Echo")) +
           RawPeer::frame(0, 1, 3, std::string("\1\0\0\0\1x", 6)));
  peer.say(RawPeer::frame(1, 4, 5, RawPeer::request("/t/Echo")) +
           RawPeer::frame(0, 1, 5, std::string("\0\0\0\0\5he", 7)));
  peer.say(RawPeer::frame(1, 5, 7, RawPeer::request("/t/Echo")));
  peer.say(RawPeer::frame(1, 4, 9, RawPeer::request("/t/Echo") + RawPeer::field("grpc-timeout", "soon")));
  run_until([&] {
    peer.listen();
    return peer.has_ended(1) && peer.has_ended(3) && peer.has_ended(5) && peer.has_ended(7) && peer.has_ended(9);
  });
  EXPECT_EQ(peer.fields(1)["grpc-status"], "0");
  EXPECT_EQ(peer.data(1), whole);
  EXPECT_EQ(peer.fields(3)["grpc-status"], "13");
  EXPECT_EQ(peer.fields(5)["grpc-message"], "the request ends within a message");
  EXPECT_EQ(peer.fields(7)["grpc-message"], "the request is missing");
  EXPECT_EQ(peer.fields(9)["grpc-status"], "3");
}

TEST_F(RpcTest, CallsThatAreResetInTheSameBreathNeverBegin) {
  RawPeer peer(*server_, kStranger);
  std::string bytes;
  for (int i = 0; i < 500; ++i) {
    bytes += RawPeer::frame(1, 4, 2 * i + 1, RawPeer::request("/t/Park")) +
             RawPeer::frame(3, 0, 2 * i + 1, std::string("\0\0\0\10", 4));
  }
  bytes += RawPeer::frame(1, 5, 2001, RawPeer::request("/t/Refused"));
  ASSERT_TRUE(peer.say(bytes));
  run_until([&] {
    peer.listen();
    return peer.has_ended(2001);
  });
  EXPECT_EQ(handler_.started, 1);
}

TEST_F(RpcTest, FloodsOfFramesEndTheConnection) {
  const std::string ping = RawPeer::frame(6, 0, 0, "12345678");
  std::string pings;
  for (int i = 0; i < 1000; ++i) pings += ping;
  {
    RawPeer peer(*server_, kStranger);
    for (int i = 0; i < 1000 && !peer.is_gone(); ++i) {
      (void)peer.say(pings);  // And its answers are not read.
      for (int j = 0; j < 5; ++j) {
        loop_.post([] {});
        loop_.run_one();
      }
    }
    EXPECT_TRUE(peer.is_gone());
  }
  {
    RawPeer peer(*server_, kStranger);
    std::string bytes = RawPeer::frame(1, 0, 1, RawPeer::request("/t/Park"));
    for (int i = 0; i < 100; ++i) bytes += RawPeer::frame(9, 0, 1, RawPeer::field("x-more", "more"));
    peer.say(bytes);
    run_until([&] {
      peer.listen();
      return peer.is_gone();
    });
  }
  {
    // Each breaks a rule, and makes the server reset a stream.
    RawPeer peer(*server_, kStranger);
    for (int i = 0; i < 5000 && !peer.is_gone(); ++i) {
      peer.say(RawPeer::frame(1, 4, 2 * i + 1, RawPeer::request("/t/Park")) +
               RawPeer::frame(8, 0, 2 * i + 1, std::string(4, '\0')));
      peer.listen();
      loop_.post([] {});
      loop_.run_one();
    }
    run_until([&] {
      peer.listen();
      return peer.is_gone();
    });
    EXPECT_LT(handler_.started, 2500);
  }
  EXPECT_TRUE(run(client_->unary("/t/Echo", "x")).ok()) << "the others notice nothing";
}

TEST_F(RpcTest, APeerThatDoesNotAnswerPingsIsGivenUp) {
  server_.reset();
  ServerOptions options;
  options.keepalive_time = std::chrono::milliseconds(40);
  options.keepalive_timeout = std::chrono::milliseconds(40);
  server_ = std::move(Server::create(loop_, handler_, options)).value();
  RawPeer peer(*server_, kStranger);
  peer.say(RawPeer::frame(1, 4, 1, RawPeer::request("/t/Park")));
  run_until([&] { return handler_.parked == 1; });
  run_until([&] {
    peer.listen();
    return peer.is_gone();
  });
  EXPECT_EQ(handler_.ended, 1);
  // Ours does answer.
  std::optional<Result<Bytes>> parked;
  scope_.spawn(keep(client_->unary("/t/Park", "x"), parked));
  const Time later = loop_.now() + std::chrono::milliseconds(300);
  run_until([&] { return loop_.now() > later; });
  EXPECT_FALSE(parked.has_value());
}

}  // namespace
}  // namespace proa::rpc
