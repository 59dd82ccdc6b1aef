// SPDX-License-Identifier: Apache-2.0
//
// Router: from a call's bytes to a typed handler and back.
//
// It owns what all methods share: who calls (credentials are checked on metadata, before anything is read),
// whether the method is open to them, sizes, parsing, idempotency, waiting for what the core wrote to be
// durable, and the mapping of an Error to a status. A handler is a translation and one call of the core.
//
// Methods are data: a table entry (rpc_table.h) for each says what it is; the router ends the process at the
// start if a handler's types are not what the wire's descriptors say, or if table and handlers disagree.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "api/rpc_table.h"
#include "base/id.h"
#include "base/log.h"
#include "base/result.h"
#include "rpc/server.h"
#include "rt/loop.h"

namespace proa::api {

// Who makes a call, as far as was checked.
struct Caller {
  enum class Kind : std::uint8_t { kNobody, kClient, kContainer };
  Kind kind = Kind::kNobody;
  std::string user;     // Of a client's token.
  TokenId token;
  TaskId task;          // Of a container.
  std::string client_version;
  std::string client_type;  // The wire's number, as text.
  std::string base_url;     // How the caller reaches this server by HTTP: "http://host:port".
  std::string idempotency_key;
  // Said to the user, once for each text.
  std::shared_ptr<std::set<std::string>> warnings = std::make_shared<std::set<std::string>>();

  void warn(std::string text) const { warnings->insert(std::move(text)); }
  // Keys what is remembered for this caller.
  std::string identity() const { return kind == Kind::kContainer ? task.text() : kind == Kind::kClient ? token.text() : ""; }
};

// Says who calls, from the connection and the metadata alone.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // kUnauthenticated if credentials are there and wrong, or missing where they are needed.
  virtual Result<Caller> authenticate(const rpc::ServerCall& call, bool needed) = 0;
};

// A reply leaves only when everything that the core wrote before it is durable.
class OutputGate {
 public:
  virtual ~OutputGate() = default;
  virtual Async<> durable() = 0;
};

// Whether there is space for what a call would add.
class Space {
 public:
  virtual ~Space() = default;
  virtual Result<void> check() const = 0;  // kResourceExhausted, with what to do.
};

// What was answered to a key before. remember() is called in the same piece of loop work as the effect.
class IdempotencyStore {
 public:
  virtual ~IdempotencyStore() = default;
  virtual const Bytes* find(const std::string& identity, const std::string& method, const std::string& key) = 0;
  virtual void remember(const std::string& identity, const std::string& method, const std::string& key, Bytes response) = 0;
};

template <class Message>
class StreamWriter {
 public:
  StreamWriter(rpc::ServerCall& call, OutputGate& gate) : call_(&call), gate_(&gate) {}
  // False when the peer has gone. Like a reply, it waits until what it may show is durable.
  Async<bool> write(Message message) { return write(call_, gate_, message.SerializeAsString()); }

 private:
  static Async<bool> write(rpc::ServerCall* call, OutputGate* gate, Bytes bytes) {
    co_await gate->durable();
    co_return co_await call->write(std::move(bytes));
  }

  rpc::ServerCall* call_;  // Both outlive the handler.
  OutputGate* gate_;
};

struct MethodStats {
  std::uint64_t calls = 0;
  std::uint64_t failures = 0;
};

class Router final : public rpc::Handler {
 public:
  struct Parts {
    Loop& loop;
    Authenticator& authenticator;
    OutputGate& gate;
    IdempotencyStore& idempotency;
    const Space& space;
    Logger& log;
  };
  explicit Router(Parts parts) : parts_(parts) {}

  // How many bytes of requests one caller may have in flight; all who show no credentials share theirs.
  static constexpr std::size_t kCallerBytesMax = 256 << 20;
  static constexpr std::size_t kNobodyBytesMax = 1 << 20;

  template <class Api, class Request, class Response>
  void unary(const std::string& name, Api* api, Async<Result<Response>> (Api::*method)(Caller, Request)) {
    check(name, Request::descriptor(), Response::descriptor(), Shape::kUnary);
    Method bound;
    bound.unary = [api, method](Caller caller, Bytes bytes) -> Async<Result<Bytes>> { return call_unary<Api, Request, Response>(api, method, std::move(caller), std::move(bytes)); };
    bind(name, std::move(bound));
  }
  template <class Api, class Request, class Response>
  void stream(const std::string& name, Api* api, Async<Result<void>> (Api::*method)(Caller, Request, StreamWriter<Response>)) {
    check(name, Request::descriptor(), Response::descriptor(), Shape::kServerStream);
    Method bound;
    bound.stream = [api, method, &gate = parts_.gate](Caller caller, Bytes bytes, rpc::ServerCall& call) -> Async<Result<void>> {
      return call_stream<Api, Request, Response>(api, method, std::move(caller), std::move(bytes), StreamWriter<Response>(call, gate));
    };
    bind(name, std::move(bound));
  }
  // A service of our own, outside of the tables: gets its calls whole.
  void service(const std::string& prefix, rpc::Handler& handler) { services_[prefix] = &handler; }

  // Ends the process if a method that the table calls served has no handler.
  void check_complete() const;

  Async<Result<void>> handle(rpc::ServerCall& call) override;

  // By method; also those that are not implemented, as far as there is room.
  const std::map<std::string, MethodStats>& stats() const { return stats_; }

 private:
  enum class Shape { kUnary, kServerStream };
  struct Method {
    std::function<Async<Result<Bytes>>(Caller, Bytes)> unary;
    std::function<Async<Result<void>>(Caller, Bytes, rpc::ServerCall&)> stream;
    const RpcEntry* entry = nullptr;
  };

  template <class Api, class Request, class Response>
  static Async<Result<Bytes>> call_unary(Api* api, Async<Result<Response>> (Api::*method)(Caller, Request), Caller caller, Bytes bytes) {
    Request request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("the request is not a " + Request::descriptor()->full_name());
    bytes.clear();
    bytes.shrink_to_fit();
    Result<Response> response = co_await (api->*method)(std::move(caller), std::move(request));
    if (!response.ok()) co_return response.error();
    co_return response->SerializeAsString();
  }
  template <class Api, class Request, class Response>
  static Async<Result<void>> call_stream(Api* api, Async<Result<void>> (Api::*method)(Caller, Request, StreamWriter<Response>), Caller caller, Bytes bytes,
                                         StreamWriter<Response> writer) {
    Request request;
    if (!request.ParseFromString(bytes)) co_return invalid_argument("the request is not a " + Request::descriptor()->full_name());
    co_return co_await (api->*method)(std::move(caller), std::move(request), writer);
  }

  void check(const std::string& name, const google::protobuf::Descriptor* request, const google::protobuf::Descriptor* response, Shape shape) const;
  void bind(const std::string& name, Method method);
  Async<Result<void>> serve_unary(rpc::ServerCall& call, const Method& method, Caller caller, Bytes request);
  std::shared_ptr<rpc::ByteBudget> budget_of(const std::string& identity);
  Async<Result<Bytes>> once(const Method& method, Caller caller, Bytes request);

  Parts parts_;
  std::map<std::string, Method> methods_;  // By full name.
  std::map<std::string, rpc::Handler*> services_;
  std::map<std::string, MethodStats> stats_;
  std::map<std::string, std::weak_ptr<rpc::ByteBudget>> budgets_;  // By identity; of those with calls under way.
  // Calls with a key that are under way: a repeat waits for the first.
  std::map<std::string, std::shared_ptr<Signal>> under_way_;
};

}  // namespace proa::api
