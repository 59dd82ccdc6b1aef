// SPDX-License-Identifier: Apache-2.0
#include "gateway/http.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <thread>

#include "base/digest.h"
#include "blob/memory_blobs.h"
#include "gateway/blob_routes.h"
#include "gateway/signed_blobs.h"
#include "rpc/acceptor.h"

namespace proa::gateway {
namespace {

// Keeps blobs in memory. Targets "/blob/<name>?ok" are permitted.
class FakeBlobs final : public BlobAccess {
 public:
  class MemoryUpload final : public Upload {
   public:
    MemoryUpload(FakeBlobs& owner, std::string target) : owner_(owner), target_(std::move(target)) {}
    Async<Result<void>> write(Bytes bytes) override {
      bytes_ += bytes;
      co_return Result<void>();
    }
    Async<Result<Stored>> commit() override {
      owner_.blobs[target_] = bytes_;
      co_return Stored{md5(bytes_), {}};
    }

   private:
    FakeBlobs& owner_;
    std::string target_;
    Bytes bytes_;
  };
  class MemoryDownload final : public Download {
   public:
    explicit MemoryDownload(Bytes bytes) : bytes_(std::move(bytes)) {}
    std::uint64_t size() const override { return bytes_.size(); }
    Async<Result<Bytes>> read(std::uint64_t offset, std::size_t length) override {
      co_return bytes_.substr(offset, length);
    }

   private:
    Bytes bytes_;
  };

  Async<Result<std::unique_ptr<Upload>>> put(std::string target, std::uint64_t, rpc::ConnectionInfo) override {
    if (!target.ends_with("?ok")) co_return permission_denied("the URL is not signed");
    co_return std::unique_ptr<Upload>(std::make_unique<MemoryUpload>(*this, target));
  }
  Async<Result<std::unique_ptr<Download>>> get(std::string target, rpc::ConnectionInfo) override {
    const auto found = blobs.find(target);
    if (found == blobs.end()) co_return not_found("there is no such blob");
    co_return std::unique_ptr<Download>(std::make_unique<MemoryDownload>(found->second));
  }
  Async<Result<std::string>> complete(std::string, std::vector<Part> parts, rpc::ConnectionInfo) override {
    std::string all;
    for (const Part& part : parts) all += part.etag;
    co_return all + "-" + std::to_string(parts.size());
  }

  std::map<std::string, Bytes> blobs;
};

class Chunks final : public HttpHandler {
 public:
  Async<> handle(HttpExchange& exchange) override {
    (void)co_await exchange.start(200, {{"X-Evil", "a\r\nSet-Cookie: b"}}, std::nullopt);
    (void)co_await exchange.write("hello ");
    (void)co_await exchange.write("world");
    (void)co_await exchange.finish();
  }
};

// A browser made of one blocking socket.
class Peer {
 public:
  explicit Peer(int fd) : fd_(fd) {
    timeval patience{10, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Peer() { ::close(fd_); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  std::string receive(std::size_t bytes_max = 1 << 20) const {
    std::string buffer(bytes_max, '\0');
    const ssize_t count = ::recv(fd_, buffer.data(), buffer.size(), 0);
    buffer.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return buffer;
  }
  std::string receive_until(std::string_view end) const {
    std::string all;
    while (all.find(end) == std::string::npos) {
      const std::string more = receive();
      if (more.empty()) break;
      all += more;
    }
    return all;
  }
  std::string receive_all() const {
    std::string all;
    for (std::string more = receive(); !more.empty(); more = receive()) all += more;
    return all;
  }

 private:
  int fd_;
};

class HttpTest : public testing::Test {
 protected:
  HttpTest() {
    server_ = std::make_unique<HttpServer>(loop_, log_, limits());
    server_->route("/blob/", blob_routes_);
    server_->route("/page", page_);
    server_->route("/chunks", chunks_);
    acceptor_ = std::make_unique<rpc::Acceptor>(
        loop_,
        rpc::Acceptor::Routes{
            .grpc = [this](OwnedFd, const rpc::ConnectionInfo&) { ++http2_; },
            .http = [this](OwnedFd fd,
                           rpc::ConnectionInfo info) { server_->add_connection(std::move(fd), std::move(info)); },
            .tls = [this](OwnedFd, const rpc::ConnectionInfo&) { ++tls_; }},
        log_, rpc::Acceptor::Limits{.first_bytes = std::chrono::milliseconds(200)});
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~HttpTest() override {
    std::atomic<bool> done = false;
    loop_.post([&] {
      acceptor_.reset();
      server_.reset();
      done = true;
    });
    while (!done) std::this_thread::yield();
    loop_.stop();
    thread_.join();
  }
  static HttpLimits limits() {
    HttpLimits chosen;
    chosen.head_bytes_max = 4096;
    chosen.head_time = std::chrono::milliseconds(200);
    return chosen;
  }
  std::unique_ptr<Peer> connect() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    loop_.post([this, fd = ends[1]] { acceptor_->adopt(OwnedFd(fd), {}); });
    return std::make_unique<Peer>(ends[0]);
  }
  static Async<Result<HttpResponse>> page(HttpRequest request) {
    if (request.head.path == "/page/fail") co_return failed_precondition("the app is stopped");
    std::string text = request.head.method + " " + request.head.path;
    if (const auto name = request.head.parameter("name")) text += " name=" + *name;
    if (const auto cookie = request.head.cookie("session")) text += " session=" + *cookie;
    if (!request.body.empty()) text += " body=" + request.body;
    co_return html_response(200, text);
  }

  RealLoop loop_;
  NullLogger log_;
  FakeBlobs blobs_;
  BlobRoutes blob_routes_{blobs_};
  PageHandler page_{&HttpTest::page};
  Chunks chunks_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<rpc::Acceptor> acceptor_;
  std::atomic<int> http2_ = 0;
  std::atomic<int> tls_ = 0;
  std::thread thread_;
};

TEST_F(HttpTest, APageGetsQueryCookiesAndBody) {
  const auto peer = connect();
  peer->send("POST /page/x?name=a%20b HTTP/1.1\r\nHost: h\r\nCookie: a=1; session=s3\r\nContent-Length: 4\r\n\r\nbody");
  const std::string answer = peer->receive_until("body=body");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("POST /page/x name=a b session=s3 body=body"), std::string::npos) << answer;
}

TEST_F(HttpTest, OneConnectionServesManyRequestsAlsoSentAtOnce) {
  const auto peer = connect();
  peer->send(
      "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\nGET /page/2 HTTP/1.1\r\nHost: h\r\n\r\nGET /nothing HTTP/1.1\r\nHost: "
      "h\r\nConnection: close\r\n\r\n");
  const std::string all = peer->receive_all();
  EXPECT_NE(all.find("ok\n"), std::string::npos);
  EXPECT_NE(all.find("GET /page/2"), std::string::npos);
  EXPECT_NE(all.find("HTTP/1.1 404"), std::string::npos);
}

TEST_F(HttpTest, AnErrorBecomesAStatusWithItsText) {
  const auto peer = connect();
  peer->send("GET /page/fail HTTP/1.1\r\nHost: h\r\n\r\n");
  const std::string answer = peer->receive_until("stopped");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 409 ")) << answer;
  EXPECT_NE(answer.find("the app is stopped"), std::string::npos);
}

TEST_F(HttpTest, AnAnswerOfUnknownLengthIsChunkedAndFieldsCannotBeSplit) {
  const auto peer = connect();
  peer->send("GET /chunks HTTP/1.1\r\nHost: h\r\n\r\n");
  const std::string answer = peer->receive_until("0\r\n\r\n");
  EXPECT_NE(answer.find("6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("\r\nSet-Cookie"), std::string::npos);
}

TEST_F(HttpTest, WhatIsNotHttpOrTooLongIsRefused) {
  const auto peer = connect();
  peer->send("nonsense\r\n\r\n");
  EXPECT_TRUE(peer->receive_all().starts_with("HTTP/1.1 400"));
  const auto greedy = connect();
  greedy->send("GET / HTTP/1.1\r\nX: " + std::string(8000, 'x'));
  EXPECT_TRUE(greedy->receive_all().starts_with("HTTP/1.1 431"));
}

TEST_F(HttpTest, APeerThatDawdlesIsCutOff) {
  const auto peer = connect();
  peer->send("GET / HT");
  EXPECT_EQ(peer->receive_all(), "");
  const auto silent = connect();
  EXPECT_EQ(silent->receive_all(), "");
  const auto undecided = connect();
  undecided->send("P");
  EXPECT_EQ(undecided->receive_all(), "");
}

TEST_F(HttpTest, TheFirstBytesSayWhatAConnectionIs) {
  const auto grpc = connect();
  grpc->send("PR");
  grpc->send("I * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_EQ(grpc->receive_all(), "");
  EXPECT_EQ(http2_, 1);
  const auto tls = connect();
  tls->send("\x16\x03\x01");
  EXPECT_EQ(tls->receive_all(), "");
  EXPECT_EQ(tls_, 1);
  const auto put = connect();
  put->send("PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(put->receive_until("\r\n\r\n").starts_with("HTTP/1.1 404"));
}

TEST_F(HttpTest, ABlobGoesInAndComesOutWithItsEtag) {
  Bytes body(3'000'000, 'q');
  for (std::size_t i = 0; i < body.size(); i += 1000) body[i] = static_cast<char>(i);
  const auto peer = connect();
  peer->send("PUT /blob/a?ok HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n");
  peer->send(body);
  const std::string stored = peer->receive_until("\r\n\r\n");
  EXPECT_TRUE(stored.starts_with("HTTP/1.1 200 OK\r\n")) << stored;
  EXPECT_NE(stored.find("ETag: \"" + to_hex(md5(body)) + "\"\r\n"), std::string::npos) << stored;

  peer->send("GET /blob/a?ok HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  const std::string got = peer->receive_all();
  EXPECT_NE(got.find("Content-Length: 3000000\r\n"), std::string::npos);
  EXPECT_TRUE(got.ends_with("\r\n\r\n" + body));
}

TEST_F(HttpTest, ARangeOfABlobIsPartialContent) {
  blobs_.blobs["/blob/r"] = "0123456789";
  const auto peer = connect();
  peer->send("GET /blob/r HTTP/1.1\r\nHost: h\r\nRange: bytes=2-4\r\n\r\n");
  const std::string part = peer->receive_until("234");
  EXPECT_TRUE(part.starts_with("HTTP/1.1 206 ")) << part;
  EXPECT_NE(part.find("Content-Range: bytes 2-4/10\r\n"), std::string::npos);
  peer->send("GET /blob/r HTTP/1.1\r\nHost: h\r\nRange: bytes=10-\r\n\r\n");
  EXPECT_TRUE(peer->receive_until("\r\n\r\n").starts_with("HTTP/1.1 416 "));
}

TEST_F(HttpTest, AnUploadWithoutPermissionOrLengthIsRefused) {
  const auto peer = connect();
  peer->send("PUT /blob/a?no HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_TRUE(peer->receive_all().starts_with("HTTP/1.1 403 "));
  const auto chunked = connect();
  chunked->send("PUT /blob/a?ok HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  EXPECT_TRUE(chunked->receive_all().starts_with("HTTP/1.1 411 "));
  EXPECT_TRUE(blobs_.blobs.empty());
}

TEST_F(HttpTest, AnUploadThatBreaksOffStoresNothing) {
  {
    const auto peer = connect();
    peer->send("PUT /blob/a?ok HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\nabc");
  }
  const auto other = connect();
  other->send("GET /blob/a?ok HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(other->receive_until("\r\n\r\n").starts_with("HTTP/1.1 404 "));
}

TEST_F(HttpTest, PartsAreMadeOneAndAnsweredInXml) {
  const auto peer = connect();
  const std::string xml =
      "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"aa\"</ETag></Part>\n"
      "<Part>\n<PartNumber>2</PartNumber>\n<ETag>&quot;bb&quot;</ETag>\n</Part></CompleteMultipartUpload>";
  peer->send("POST /blob/a?complete HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(xml.size()) + "\r\n\r\n" +
             xml);
  const std::string answer = peer->receive_until("Result>");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_NE(answer.find("<ETag>\"aabb-2\"</ETag>"), std::string::npos) << answer;
}

TEST_F(HttpTest, ContinueIsSaidToThoseWhoWait) {
  const auto peer = connect();
  peer->send("PUT /blob/e?ok HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(peer->receive_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  peer->send("abc");
  EXPECT_TRUE(peer->receive_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

// Memory blobs are done before the call returns.
template <class T>
T now(Async<T> work) {
  struct Keep {
    static Async<> into(Async<T> from, std::optional<T>& result) { result.emplace(co_await std::move(from)); }
  };
  std::optional<T> result;
  Scope scope;
  scope.spawn(Keep::into(std::move(work), result));
  return std::move(*result);
}

TEST(SignedBlobs, AUrlPermitsOneThingOnly) {
  const SystemClock clock;
  SystemRandom random;
  blob::MemoryBlobs blobs;
  const blob::UrlSigner signer({Bytes(32, 'k')});
  SignedBlobs access(blobs, signer, clock);
  const BlobId id = BlobId::make(random, clock.now());
  const std::string path = "/blob/" + id.text();
  const Time expires = clock.now() + std::chrono::seconds(60);
  const std::string put = signer.sign({blob::UrlMethod::kPut, path, 0, 5, expires});
  const std::string get = signer.sign({blob::UrlMethod::kGet, path, 0, 0, expires});

  EXPECT_EQ(now(access.put(get, 5, {})).error().code, Code::kPermissionDenied);
  EXPECT_EQ(now(access.get(put, {})).error().code, Code::kPermissionDenied);
  EXPECT_EQ(now(access.put(put, 6, {})).error().code, Code::kInvalidArgument);
  EXPECT_EQ(now(access.get(get, {})).error().code, Code::kNotFound);

  auto upload = now(access.put(put, 5, {}));
  ASSERT_TRUE(upload.ok());
  ASSERT_TRUE(now((*upload)->write("hello")).ok());
  EXPECT_EQ(now((*upload)->commit())->md5, md5("hello"));
  auto download = now(access.get(get, {}));
  ASSERT_TRUE(download.ok());
  EXPECT_EQ(*now((*download)->read(1, 3)), "ell");
}

TEST(SignedBlobs, PartsBecomeOneBlob) {
  const SystemClock clock;
  SystemRandom random;
  blob::MemoryBlobs blobs;
  const blob::UrlSigner signer({Bytes(32, 'k')});
  SignedBlobs access(blobs, signer, clock);
  const BlobId id = BlobId::make(random, clock.now());
  const std::string path = "/blob/" + id.text();
  const Time expires = clock.now() + std::chrono::seconds(60);
  std::vector<BlobAccess::Part> parts;
  for (const std::uint32_t number : {1U, 2U}) {
    auto upload = now(access.put(signer.sign({blob::UrlMethod::kPut, path, number, 3, expires}), 3, {}));
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE(now((*upload)->write("abc")).ok());
    parts.push_back({number, to_hex(now((*upload)->commit())->md5)});
  }
  const auto etag = now(access.complete(signer.sign({blob::UrlMethod::kPost, path, 0, 6, expires}), parts, {}));
  ASSERT_TRUE(etag.ok()) << etag.error().message;
  EXPECT_EQ(*etag, to_hex(md5(md5("abc") + md5("abc"))) + "-2");
}

TEST(Range, CountsFromEitherEndAndNeverBeyond) {
  EXPECT_TRUE(parse_range("", 10)->whole);
  EXPECT_TRUE(parse_range("bytes=1-2,4-5", 10)->whole);
  EXPECT_EQ(parse_range("bytes=-3", 10)->first, 7U);
  EXPECT_EQ(parse_range("bytes=-30", 10)->count, 10U);
  EXPECT_EQ(parse_range("bytes=5-99", 10)->count, 5U);
  EXPECT_EQ(parse_range("bytes=0-18446744073709551615", 10)->count, 10U);
  EXPECT_FALSE(parse_range("bytes=10-", 10).has_value());
  EXPECT_FALSE(parse_range("bytes=-0", 10).has_value());
  EXPECT_TRUE(parse_range("bytes=5-4", 10)->whole);
}

TEST(Form, DecodesPlusAndEscapes) {
  const auto form = parse_form("a=1+2&b=%41%zz&&c");
  ASSERT_EQ(form.size(), 3U);
  EXPECT_EQ(form[0].second, "1 2");
  EXPECT_EQ(form[2].first, "c");
}

TEST(Parts, RefusesDocumentsThatAreNone) {
  EXPECT_FALSE(parse_parts("").ok());
  EXPECT_FALSE(parse_parts("<Part><PartNumber>0</PartNumber><ETag>x</ETag></Part>").ok());
  EXPECT_FALSE(parse_parts("<Part><PartNumber>1</PartNumber></Part>").ok());
}

}  // namespace
}  // namespace proa::gateway
