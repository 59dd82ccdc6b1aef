// SPDX-License-Identifier: Apache-2.0
//
// Edge: everything between a socket and the core that needs no rules: it accepts, ends TLS, tells gRPC from HTTP, and
// moves blobs in and out. On a thread of its own, so that a gigabyte under way delays no call.
//
// Off loopback nothing is served in plaintext once there are keys. Connections from containers reach blobs and nothing
// else: what they send comes through their worker, which looks at nothing.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/fd.h"
#include "base/log.h"
#include "blob/fs_blobs.h"
#include "blob/signed_url.h"
#include "gateway/blob_routes.h"
#include "gateway/http.h"
#include "gateway/signed_blobs.h"
#include "rpc/acceptor.h"
#include "rpc/server.h"
#include "rpc/tls.h"
#include "rt/pool.h"
#include "rt/real_loop.h"

namespace proa::app {

class Edge {
 public:
  // A page is answered on the core's loop.
  using Page = std::function<Async<Result<gateway::HttpResponse>>(gateway::HttpRequest)>;
  struct Options {
    std::string blob_dir;
    std::optional<rpc::TlsKeys> tls;
  };
  struct Listeners {
    OwnedFd tcp;         // From the network: everything.
    OwnedFd local;       // Our own processes: gRPC only.
    OwnedFd containers;  // Containers, by their worker: blobs only.
  };

  // `core` is the loop of whoever calls; all outlive it.
  static Result<std::unique_ptr<Edge>> open(Loop& core, Logger& log, const blob::UrlSigner& signer, Options options);
  // On the core's loop. Whatever is under way is cut off.
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  // Before start(). Paths that begin with `prefix`; the longest prefix wins.
  void page(const std::string& prefix, Page page);
  // From here on connections are served, until stop(), before which `grpc` and what pages use may not go.
  void start(rpc::Server& grpc, Listeners listeners);
  void stop();

  // --- Any thread
  // A blob's file, for reading. Blocking.
  Result<OwnedFd> open_blob(BlobId id) const { return blobs_->open_file_of(id); }
  // Some time soon.
  void remove_blob(BlobId id);
  // Written before `time`. Blocking.
  Result<std::vector<BlobId>> blobs_older_than(Time time) const { return blobs_->older_than(time); }

 private:
  Edge(Loop& core, Logger& log) : core_(core), log_(log) {}
  bool allowed(const rpc::ConnectionInfo& info) const;
  Async<Result<gateway::HttpResponse>> ask_core(const Page& page, gateway::HttpRequest request);
  static Async<> answer(const Page& page, gateway::HttpRequest request, std::function<void(Result<gateway::HttpResponse>)> done);

  static constexpr int kPoolThreads = 4;
  static constexpr int kPagesAtOnceMax = 1024;

  Loop& core_;
  Logger& log_;
  RealLoop loop_;
  ThreadPool pool_{kPoolThreads};
  std::unique_ptr<blob::FsBlobs> blobs_;
  std::unique_ptr<gateway::SignedBlobs> access_;
  std::unique_ptr<gateway::BlobRoutes> blob_routes_;
  std::vector<std::unique_ptr<gateway::PageHandler>> page_handlers_;
  std::unique_ptr<gateway::HttpServer> http_;             // All paths.
  std::unique_ptr<gateway::HttpServer> container_http_;  // Blobs alone.
  std::unique_ptr<rpc::TlsEnd> tls_;
  std::unique_ptr<rpc::Acceptor> tcp_;
  std::unique_ptr<rpc::Acceptor> local_;
  std::unique_ptr<rpc::Acceptor> containers_;
  Scope removals_;  // On the edge's loop.
  Scope pages_;     // On the core's loop.
  std::thread thread_;
};

}  // namespace proa::app
