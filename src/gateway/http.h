// SPDX-License-Identifier: Apache-2.0
//
// HttpServer: HTTP/1.1 on connections that others accepted. It owns framing, limits and timeouts; what a path means
// is a handler's business, registered by prefix.
//
// Bodies stream both ways and are never whole in memory unless a handler asks for that with a bound. A peer that
// sends or takes less than about a kilobyte a second is cut off.
//
// All of it is on its loop; add_connection() may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/result.h"
#include "rpc/connection.h"
#include "rt/real_loop.h"

namespace proa::gateway {

using HttpFields = std::vector<std::pair<std::string, std::string>>;

struct HttpHead {
  std::string method;                           // "GET"
  std::string target;                           // As sent: "/blob/x?a=b".
  std::string path;                             // The target up to "?", as sent.
  std::string query;                            // The rest, without the "?".
  HttpFields fields;                            // Names in lower case.
  std::optional<std::uint64_t> content_length;  // None: chunked, or no body.
  bool has_body = false;

  std::optional<std::string_view> field(std::string_view lower_case_name) const;  // The first of that name.
  std::optional<std::string> parameter(std::string_view name) const;              // Of the query, decoded.
  std::optional<std::string> cookie(std::string_view name) const;
};

// The parameters of a query or a form, decoded. Malformed escapes are kept as they are.
std::vector<std::pair<std::string, std::string>> parse_form(std::string_view text);

struct HttpResponse {
  int status = 200;
  HttpFields fields;
  Bytes body;
};

HttpResponse text_response(int status, std::string text);
HttpResponse html_response(int status, std::string html);
// The status that fits, with the message as text.
HttpResponse error_response(const Error& error);

// One request and its answer, as a handler sees them. Valid until the handler has returned.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpHead& head() const = 0;
  virtual const rpc::ConnectionInfo& connection() const = 0;

  // The next piece of the body, at most 256 KiB; nothing at its end.
  //   kInvalidArgument  it is not what HTTP allows;  kUnavailable  the peer has gone or is too slow.
  virtual Async<Result<std::optional<Bytes>>> read() = 0;
  // All of the body. kOutOfRange if it is longer.
  virtual Async<Result<Bytes>> read_all(std::size_t bytes_max) = 0;

  // Either a whole answer, or start(), write() as often as wanted and finish(). Without a length the body is
  // chunked. kUnavailable when the peer has gone.
  virtual Async<Result<void>> respond(HttpResponse response) = 0;
  virtual Async<Result<void>> start(int status, HttpFields fields, std::optional<std::uint64_t> length) = 0;
  virtual Async<Result<void>> write(Bytes bytes) = 0;
  virtual Async<Result<void>> finish() = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Answers. What is left unanswered becomes a 500; a body that was not read ends the connection.
  virtual Async<> handle(HttpExchange& exchange) = 0;
};

// A handler for pages and small forms: gets the whole body (1 MiB at most) and gives a whole answer.
struct HttpRequest {
  HttpHead head;
  rpc::ConnectionInfo connection;
  Bytes body;
};
class PageHandler final : public HttpHandler {
 public:
  using Page = std::function<Async<Result<HttpResponse>>(HttpRequest)>;
  explicit PageHandler(Page page) : page_(std::move(page)) {}
  Async<> handle(HttpExchange& exchange) override;

 private:
  Page page_;
};

struct HttpLimits {
  std::size_t connections_max = 4096;
  std::uint32_t head_bytes_max = 64 << 10;
  Duration head_time = std::chrono::seconds(15);   // From its first byte to its last.
  Duration idle_time = std::chrono::seconds(75);   // Between requests.
  Duration stall_time = std::chrono::seconds(60);  // For each 64 KiB of a body, either way.
};

class HttpServer {
 public:
  HttpServer(RealLoop& loop, Logger& log, HttpLimits limits = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Paths that begin with `prefix` go to `handler`, which outlives the server; the longest prefix wins. "/healthz"
  // is there from the start.
  void route(std::string prefix, HttpHandler& handler);
  void add_connection(OwnedFd connection, rpc::ConnectionInfo info);
  std::size_t connections() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace proa::gateway
