// SPDX-License-Identifier: Apache-2.0
#include "gateway/http.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>

#include "base/check.h"

namespace proa::gateway {
namespace {

namespace http = boost::beast::http;

constexpr std::size_t kPieceBytes = 256 << 10;
constexpr std::size_t kProgressBytes = 64 << 10;
constexpr std::size_t kPageBytesMax = 1 << 20;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

// What ends a line ends a field: a value with it would be two.
std::string clean_field(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != '\r' && c != '\n' && c != '\0') out += c;
  }
  return out;
}

std::string decode_form(std::string_view text) {
  std::string spaced(text);
  std::replace(spaced.begin(), spaced.end(), '+', ' ');
  auto decoded = percent_decode(spaced);
  return decoded.ok() ? std::move(decoded).value() : spaced;
}

int status_of(Code code) {
  switch (code) {
    case Code::kOk: return 200;
    case Code::kInvalidArgument:
    case Code::kOutOfRange: return 400;
    case Code::kUnauthenticated: return 401;
    case Code::kPermissionDenied: return 403;
    case Code::kNotFound: return 404;
    case Code::kAlreadyExists:
    case Code::kAborted:
    case Code::kFailedPrecondition: return 409;
    case Code::kResourceExhausted: return 429;
    case Code::kUnimplemented: return 501;
    case Code::kUnavailable: return 503;
    case Code::kDeadlineExceeded: return 504;
    default: return 500;
  }
}

HttpHead head_of(const http::request_parser<http::buffer_body>& parser) {
  const auto& message = parser.get();
  HttpHead head;
  head.method = std::string(message.method_string());
  head.target = std::string(message.target());
  const auto mark = head.target.find('?');
  head.path = head.target.substr(0, mark);
  if (mark != std::string::npos) head.query = head.target.substr(mark + 1);
  for (const auto& field : message) {
    head.fields.emplace_back(lower({field.name_string().data(), field.name_string().size()}),
                             std::string(field.value()));
  }
  if (parser.content_length()) head.content_length = *parser.content_length();
  head.has_body = parser.chunked() || (head.content_length && *head.content_length > 0);
  return head;
}

}  // namespace

std::optional<std::string_view> HttpHead::field(std::string_view name) const {
  for (const auto& [key, value] : fields) {
    if (key == name) return value;
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::string>> parse_form(std::string_view text) {
  std::vector<std::pair<std::string, std::string>> out;
  while (!text.empty()) {
    const auto end = std::min(text.find('&'), text.size());
    const std::string_view pair = text.substr(0, end);
    const auto equals = std::min(pair.find('='), pair.size());
    if (!pair.empty()) {
      out.emplace_back(decode_form(pair.substr(0, equals)),
                       decode_form(pair.substr(std::min(equals + 1, pair.size()))));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::optional<std::string> HttpHead::parameter(std::string_view name) const {
  for (auto& [key, value] : parse_form(query)) {
    if (key == name) return std::move(value);
  }
  return std::nullopt;
}

std::optional<std::string> HttpHead::cookie(std::string_view name) const {
  for (const auto& [key, value] : fields) {
    if (key != "cookie") continue;
    std::string_view rest = value;
    while (!rest.empty()) {
      while (rest.starts_with(' ')) rest.remove_prefix(1);
      const std::string_view one = rest.substr(0, rest.find(';'));
      if (one.starts_with(name) && one.substr(name.size()).starts_with('=')) {
        return std::string(one.substr(name.size() + 1));
      }
      rest.remove_prefix(std::min(one.size() + 1, rest.size()));
    }
  }
  return std::nullopt;
}

HttpResponse text_response(int status, std::string text) {
  return {status, {{"Content-Type", "text/plain; charset=utf-8"}}, std::move(text)};
}

HttpResponse html_response(int status, std::string html) {
  return {status,
          {{"Content-Type", "text/html; charset=utf-8"},
           {"X-Content-Type-Options", "nosniff"},
           {"X-Frame-Options", "DENY"},
           {"Referrer-Policy", "no-referrer"}},
          std::move(html)};
}

HttpResponse error_response(const Error& error) { return text_response(status_of(error.code), error.message + "\n"); }

struct HttpServer::State : std::enable_shared_from_this<HttpServer::State> {
  State(RealLoop& on, Logger& to, HttpLimits chosen) : loop(on), log(to), limits(chosen) {}

  HttpHandler* find(const std::string& path) const {
    HttpHandler* best = nullptr;
    std::size_t best_size = 0;
    for (const auto& [prefix, handler] : routes) {
      if (path.starts_with(prefix) && (best == nullptr || prefix.size() > best_size)) {
        best = handler;
        best_size = prefix.size();
      }
    }
    return best;
  }

  RealLoop& loop;
  Logger& log;
  const HttpLimits limits;
  std::map<std::string, HttpHandler*> routes;
  std::unique_ptr<HttpHandler> health;
  bool closed = false;
  std::size_t connections = 0;
  Scope scope;
};

namespace {

// Shuts the socket down when its deadline passes, which wakes whoever waits on it.
class Watchdog {
 public:
  Watchdog(RealLoop& loop, WatchedFd& fd) : loop_(loop), fd_(fd) {}
  ~Watchdog() { loop_.cancel(timer_); }
  void expect(Duration within) {
    deadline_ = loop_.now() + within;
    // A later deadline is left to the timer that is set; it looks again when it fires.
    if (timer_ != 0 && deadline_ >= set_for_) return;
    loop_.cancel(timer_);
    arm();
  }
  void rest() { deadline_ = kNever; }
  bool barked() const { return barked_; }

 private:
  void arm() {
    set_for_ = deadline_;
    timer_ = loop_.at(deadline_, [this] {
      timer_ = 0;
      if (deadline_ == kNever) return;
      if (loop_.now() < deadline_) {
        arm();
        return;
      }
      barked_ = true;
      ::shutdown(fd_.fd(), SHUT_RDWR);
    });
  }

  RealLoop& loop_;
  WatchedFd& fd_;
  Loop::TimerId timer_ = 0;
  Time deadline_ = kNever;
  Time set_for_ = kNever;
  bool barked_ = false;
};

class Exchange final : public HttpExchange {
 public:
  using Parser = http::request_parser<http::buffer_body>;

  Exchange(WatchedFd& fd, Watchdog& dog, const HttpLimits& limits, const rpc::ConnectionInfo& info, Bytes& input)
      : fd_(fd), dog_(dog), limits_(limits), info_(info), input_(input) {
    parser_.header_limit(limits.head_bytes_max);
    // Handlers bound what they take. Not "none", which this Beast takes for zero.
    parser_.body_limit(UINT64_MAX);
  }

  // False: the peer has gone, or what it sent was answered with an error. `input_` may hold what came before.
  Async<bool> read_head() {
    bool first = true;
    while (true) {
      if (!input_.empty()) {
        if (std::exchange(first, false)) dog_.expect(limits_.head_time);
        boost::system::error_code failed;
        const std::size_t used = parser_.put(boost::asio::const_buffer(input_.data(), input_.size()), failed);
        input_.erase(0, used);
        if (failed && failed != http::error::need_more) {
          const bool too_long = failed == http::error::header_limit;
          (void)co_await respond(
              text_response(too_long ? 431 : 400, "the request is not HTTP/1.1: " + failed.message() + "\n"));
          co_return false;
        }
        if (parser_.is_header_done()) break;
      }
      auto more = co_await fd_.read_some(kPieceBytes);
      if (!more.ok() || more->empty()) co_return false;
      input_ += *more;
    }
    head_ = head_of(parser_);
    co_return true;
  }

  const HttpHead& head() const override { return head_; }
  const rpc::ConnectionInfo& connection() const override { return info_; }

  Async<Result<std::optional<Bytes>>> read() override {
    if (parser_.is_done()) co_return std::optional<Bytes>();
    if (std::exchange(first_read_, false)) {
      dog_.expect(limits_.stall_time);
      if (const auto expect = head_.field("expect"); expect && lower(*expect) == "100-continue" && !started_) {
        PROA_CO_TRY_VOID(co_await fd_.write_all("HTTP/1.1 100 Continue\r\n\r\n"));
      }
    }
    Bytes piece(kPieceBytes, '\0');
    while (true) {
      if (!input_.empty()) {
        auto& body = parser_.get().body();
        body.data = piece.data();
        body.size = piece.size();
        boost::system::error_code failed;
        const std::size_t used = parser_.put(boost::asio::const_buffer(input_.data(), input_.size()), failed);
        input_.erase(0, used);
        if (failed && failed != http::error::need_more && failed != http::error::need_buffer) {
          co_return invalid_argument("the body of the request is not HTTP/1.1: " + failed.message());
        }
        const std::size_t got = piece.size() - body.size;
        if (got > 0) {
          progress(got);
          piece.resize(got);
          co_return std::optional<Bytes>(std::move(piece));
        }
        if (parser_.is_done()) co_return std::optional<Bytes>();
        if (used > 0 && !input_.empty()) continue;
      }
      PROA_CO_TRY(const Bytes more, co_await fd_.read_some(kPieceBytes));
      if (more.empty()) {
        co_return unavailable(dog_.barked() ? "the request's body came too slowly"
                                            : "the request's body was cut short");
      }
      input_ += more;
    }
  }

  Async<Result<Bytes>> read_all(std::size_t bytes_max) override {
    if (head_.content_length.value_or(0) > bytes_max) co_return too_long(bytes_max);
    Bytes all;
    while (true) {
      PROA_CO_TRY(std::optional<Bytes> piece, co_await read());
      if (!piece) co_return std::move(all);
      if (all.size() + piece->size() > bytes_max) co_return too_long(bytes_max);
      all += *piece;
    }
  }

  Async<Result<void>> respond(HttpResponse response) override {
    const std::size_t length = response.body.size();
    PROA_CO_TRY_VOID(co_await start(response.status, std::move(response.fields), length));
    if (length > 0) {
      PROA_CO_TRY_VOID(co_await write(std::move(response.body)));
    }
    co_return co_await finish();
  }

  Async<Result<void>> start(int status, HttpFields fields, std::optional<std::uint64_t> length) override {
    PROA_CHECK(!started_);
    started_ = true;
    // An answer before all of the body was read ends the connection, or the peer would have to send it for nothing.
    keep_alive_ = parser_.is_header_done() && parser_.is_done() && parser_.get().keep_alive();
    without_body_ = head_.method == "HEAD" || status == 204 || status == 304;
    chunked_ = !length && !without_body_;
    if (chunked_ && parser_.get().version() < 11) {
      chunked_ = false;
      keep_alive_ = false;
    }
    std::string text = "HTTP/1.1 " + std::to_string(status) + " " +
                       std::string(http::obsolete_reason(static_cast<http::status>(status))) + "\r\n";
    for (const auto& [name, value] : fields) text += clean_field(name) + ": " + clean_field(value) + "\r\n";
    if (length && status != 204) text += "Content-Length: " + std::to_string(*length) + "\r\n";
    if (chunked_) text += "Transfer-Encoding: chunked\r\n";
    text += keep_alive_ ? "\r\n" : "Connection: close\r\n\r\n";
    dog_.expect(limits_.stall_time);
    // Held back to leave together with the first bytes of the body.
    pending_ = std::move(text);
    co_return Result<void>();
  }

  Async<Result<void>> write(Bytes bytes) override {
    PROA_CHECK(started_ && !finished_);
    if (without_body_ || bytes.empty()) co_return Result<void>();
    if (chunked_) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      std::string size;
      for (std::size_t rest = bytes.size(); rest > 0; rest >>= 4) size.insert(size.begin(), kDigits[rest & 15]);
      pending_ += size + "\r\n" + bytes + "\r\n";
    } else if (pending_.empty()) {
      pending_ = std::move(bytes);
    } else {
      pending_ += bytes;
    }
    co_return co_await flush();
  }

  Async<Result<void>> finish() override {
    PROA_CHECK(started_ && !finished_);
    finished_ = true;
    if (chunked_) pending_ += "0\r\n\r\n";
    co_return co_await flush();
  }

  bool started() const { return started_; }
  bool reusable() const { return finished_ && keep_alive_; }

 private:
  static Error too_long(std::size_t bytes_max) {
    return {Code::kOutOfRange, "the body is longer than " + std::to_string(bytes_max) + " bytes"};
  }
  void progress(std::size_t bytes) {
    progress_ += bytes;
    if (progress_ < kProgressBytes) return;
    progress_ = 0;
    dog_.expect(limits_.stall_time);
  }
  Async<Result<void>> flush() {
    Bytes out = std::exchange(pending_, Bytes());
    const std::size_t size = out.size();
    Result<void> written = co_await fd_.write_all(std::move(out));
    if (!written.ok()) co_return unavailable("the peer has gone: " + written.error().message);
    progress(size);
    co_return Result<void>();
  }

  WatchedFd& fd_;
  Watchdog& dog_;
  const HttpLimits& limits_;
  const rpc::ConnectionInfo& info_;
  Bytes& input_;
  Parser parser_;
  HttpHead head_;
  bool first_read_ = true;
  std::size_t progress_ = 0;
  Bytes pending_;
  bool started_ = false;
  bool finished_ = false;
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool without_body_ = false;
};

class Health final : public HttpHandler {
 public:
  Async<> handle(HttpExchange& exchange) override { (void)co_await exchange.respond(text_response(200, "ok\n")); }
};

template <class State>
Async<> serve(std::shared_ptr<State> state, OwnedFd connection, rpc::ConnectionInfo info) {
  struct Counted {
    State& state;
    ~Counted() { --state.connections; }
  };
  ++state->connections;
  const Counted counted{*state};
  WatchedFd fd(state->loop, connection.release());
  Watchdog dog(state->loop, fd);
  Bytes input;
  bool again = true;
  while (again) {
    dog.expect(state->limits.idle_time);
    Exchange exchange(fd, dog, state->limits, info, input);
    if (!co_await exchange.read_head()) co_return;
    // How long a handler takes is its own affair.
    dog.rest();
    HttpHandler* handler = state->find(exchange.head().path);
    if (handler == nullptr) {
      (void)co_await exchange.respond(text_response(404, "there is nothing at " + exchange.head().path + "\n"));
    } else {
      co_await handler->handle(exchange);
      if (!exchange.started()) {
        state->log.error("http.unanswered", {{"method", exchange.head().method}, {"path", exchange.head().path}});
        (void)co_await exchange.respond(text_response(500, "the request was not answered\n"));
      }
    }
    again = exchange.reusable();
  }
  // Lets the peer read the answer before a reset, which unread bytes would cause, throws it away.
  ::shutdown(fd.fd(), SHUT_WR);
  dog.expect(std::chrono::seconds(2));
  for (std::size_t drained = 0; drained < (std::size_t{4} << 20);) {
    auto more = co_await fd.read_some(kPieceBytes);
    if (!more.ok() || more->empty()) break;
    drained += more->size();
  }
}

}  // namespace

Async<> PageHandler::handle(HttpExchange& exchange) {
  HttpRequest request{exchange.head(), exchange.connection(), {}};
  auto body = co_await exchange.read_all(kPageBytesMax);
  if (!body.ok()) {
    (void)co_await exchange.respond(error_response(body.error()));
    co_return;
  }
  request.body = std::move(body).value();
  Result<HttpResponse> response = co_await page_(std::move(request));
  (void)co_await exchange.respond(response.ok() ? std::move(response).value() : error_response(response.error()));
}

HttpServer::HttpServer(RealLoop& loop, Logger& log, HttpLimits limits)
    : state_(std::make_shared<State>(loop, log, limits)) {
  state_->health = std::make_unique<Health>();
  route("/healthz", *state_->health);
}

HttpServer::~HttpServer() {
  state_->closed = true;
  state_->scope.cancel_all();
}

void HttpServer::route(std::string prefix, HttpHandler& handler) {
  const bool added = state_->routes.emplace(std::move(prefix), &handler).second;
  PROA_CHECK(added);
}

void HttpServer::add_connection(OwnedFd connection, rpc::ConnectionInfo info) {
  // std::function must be copyable, so the descriptor travels behind a pointer.
  auto held = std::make_shared<OwnedFd>(std::move(connection));
  state_->loop.post([state = state_, held, who = std::move(info)] {
    if (state->closed) return;
    if (state->connections >= state->limits.connections_max) {
      state->log.warning("http.too_many_connections", {{"address", who.address}});
      return;
    }
    state->scope.spawn(serve(state, std::move(*held), who));
  });
}

std::size_t HttpServer::connections() const { return state_->connections; }

}  // namespace proa::gateway
