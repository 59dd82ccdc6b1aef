// SPDX-License-Identifier: Apache-2.0
#include "app/edge.h"

namespace proa::app {
namespace {

bool is_loopback(const std::string& address) { return address.starts_with("127.") || address.starts_with("[::1]") || address.starts_with("[::ffff:127."); }

}  // namespace

Result<std::unique_ptr<Edge>> Edge::open(Loop& core, Logger& log, const blob::UrlSigner& signer, Options options) {
  std::unique_ptr<Edge> edge(new Edge(core, log));
  Edge* const self = edge.get();
  PROA_TRY(edge->blobs_, blob::FsBlobs::open_directory(edge->loop_, edge->pool_, options.blob_dir));
  edge->access_ = std::make_unique<gateway::SignedBlobs>(*edge->blobs_, signer, edge->loop_);
  edge->blob_routes_ = std::make_unique<gateway::BlobRoutes>(*edge->access_);
  edge->http_ = std::make_unique<gateway::HttpServer>(edge->loop_, log);
  edge->container_http_ = std::make_unique<gateway::HttpServer>(edge->loop_, log);
  edge->http_->route("/blob/", *edge->blob_routes_);
  edge->container_http_->route("/blob/", *edge->blob_routes_);
  if (options.tls) {
    PROA_TRY(edge->tls_, rpc::TlsEnd::create(edge->loop_, std::move(*options.tls), log, [self](OwnedFd fd, rpc::ConnectionInfo info) { self->tcp_->adopt(std::move(fd), std::move(info)); }));
  }
  return edge;
}

Edge::~Edge() { stop(); }

void Edge::stop() {
  if (thread_.joinable()) {
    loop_.stop();
    thread_.join();
  }
  pages_.cancel_all();
  removals_.cancel_all();
}

void Edge::page(const std::string& prefix, Page page) {
  auto handler = std::make_unique<gateway::PageHandler>([this, page = std::move(page)](gateway::HttpRequest request) { return ask_core(page, std::move(request)); });
  http_->route(prefix, *handler);
  page_handlers_.push_back(std::move(handler));
}

// `page` is the handler's, which lives as long as the edge.
Async<Result<gateway::HttpResponse>> Edge::ask_core(const Page& page, gateway::HttpRequest request) {
  using Answer = Result<gateway::HttpResponse>;
  co_return co_await suspend<Answer>(loop_, [this, &page, request = std::move(request)](Resumer<Answer> resume) {
    core_.post([this, &page, request, resume] {
      if (pages_.size() >= kPagesAtOnceMax) {
        loop_.post([resume] { resume(resource_exhausted("this server is answering as many pages as it can: try again in a moment")); });
        return;
      }
      pages_.spawn(answer(page, request, [this, resume](Answer got) {
        auto shared = std::make_shared<Answer>(std::move(got));
        loop_.post([resume, shared] { resume(std::move(*shared)); });
      }));
    });
  });
}

Async<> Edge::answer(const Page& page, gateway::HttpRequest request, std::function<void(Result<gateway::HttpResponse>)> done) {
  done(co_await page(std::move(request)));
}

bool Edge::allowed(const rpc::ConnectionInfo& info) const {
  if (!tls_ || info.secure || info.kind != rpc::ConnectionInfo::Kind::kTcp || is_loopback(info.address)) return true;
  log_.warning("connection.plaintext", {{"from", info.address}, {"what", "refused: this server speaks TLS to other machines, use its https:// address"}});
  return false;
}

void Edge::start(rpc::Server& grpc, Listeners listeners) {
  const auto to_grpc = [this, &grpc](OwnedFd fd, rpc::ConnectionInfo info) {
    if (!allowed(info)) return;
    if (const auto added = grpc.add_connection(fd.release(), std::move(info)); !added.ok()) log_.warning("connection.refused", {{"why", added.error().message}});
  };
  const auto to_http = [this](OwnedFd fd, rpc::ConnectionInfo info) {
    if (allowed(info)) http_->add_connection(std::move(fd), std::move(info));
  };
  const auto to_blobs = [this](OwnedFd fd, rpc::ConnectionInfo info) { container_http_->add_connection(std::move(fd), std::move(info)); };
  rpc::Acceptor::Sink to_tls;
  if (tls_) to_tls = [this](OwnedFd fd, rpc::ConnectionInfo info) { tls_->add_connection(std::move(fd), std::move(info)); };
  using Kind = rpc::ConnectionInfo::Kind;
  tcp_ = std::make_unique<rpc::Acceptor>(loop_, rpc::Acceptor::Routes{.grpc = to_grpc, .http = to_http, .tls = to_tls}, log_);
  local_ = std::make_unique<rpc::Acceptor>(loop_, rpc::Acceptor::Routes{.grpc = to_grpc, .http = {}, .tls = {}}, log_);
  containers_ = std::make_unique<rpc::Acceptor>(loop_, rpc::Acceptor::Routes{.grpc = {}, .http = to_blobs, .tls = {}}, log_);
  tcp_->listen(std::move(listeners.tcp), {.kind = Kind::kTcp});
  local_->listen(std::move(listeners.local), {.kind = Kind::kLocal});
  containers_->listen(std::move(listeners.containers), {.kind = Kind::kContainer});
  thread_ = std::thread([this] { loop_.run(); });
}

void Edge::remove_blob(BlobId id) {
  loop_.post([this, id] {
    removals_.spawn([](blob::Blobs& blobs, BlobId gone, Logger& log) -> Async<> {
      if (const auto removed = co_await blobs.remove(gone); !removed.ok()) log.warning("blob.stays", {{"blob", gone.text()}, {"why", removed.error().message}});
    }(*blobs_, id, log_));
  });
}

}  // namespace proa::app
