// SPDX-License-Identifier: Apache-2.0
#include "app/server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>

#include "api/local_service.h"
#include "api/modal/app.h"
#include "api/modal/blob.h"
#include "api/modal/call.h"
#include "api/modal/environment.h"
#include "api/modal/face.h"
#include "api/modal/function.h"
#include "api/modal/image.h"
#include "api/modal/log.h"
#include "api/modal/mount.h"
#include "api/modal/secret.h"
#include "api/modal/task.h"
#include "api/modal/token.h"
#include "api/router.h"
#include "api/worker_service.h"
#include "app/authenticate.h"
#include "app/builds.h"
#include "app/content.h"
#include "app/disk_reserve.h"
#include "app/edge.h"
#include "app/planner.h"
#include "app/seeds.h"
#include "cas/object_store.h"
#include "control/access.h"
#include "control/apps.h"
#include "control/calls.h"
#include "control/environments.h"
#include "control/idempotency.h"
#include "control/images.h"
#include "control/ledger.h"
#include "control/logs.h"
#include "control/mounts.h"
#include "control/secrets.h"
#include "image/builder.h"
#include "pages/pages.h"
#include "rpc/server.h"
#include "rt/pool.h"
#include "rt/real_loop.h"
#include "sched/scheduler.h"
#include "sched/steps.h"
#include "store/logs_file.h"
#include "store/sqlite/sqlite_store.h"

namespace proa::app {
namespace {

constexpr int kPoolThreads = 6;
constexpr std::size_t kKeyBytes = 32;

// The key under which secrets are sealed: made once, readable by the server alone.
Result<Bytes> seal_key(const std::string& path, Random& random) {
  if (OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC)); fd.valid()) {
    Bytes key(kKeyBytes, '\0');
    if (read(fd.get(), key.data(), key.size()) == static_cast<ssize_t>(kKeyBytes)) return key;
    return Error{Code::kDataLoss, path + " is damaged: secrets cannot be read without the key that was in it"};
  }
  Bytes key = random.bytes(kKeyBytes);
  PROA_TRY_VOID(replace_file(path, key, 0600));
  return key;
}

constexpr std::size_t kPemBytesMax = 1 << 20;

Result<std::optional<rpc::TlsKeys>> read_tls(const ServerOptions& options) {
  if (options.tls_certificate_fd < 0) return std::optional<rpc::TlsKeys>();
  const OwnedFd certificate(options.tls_certificate_fd);
  const OwnedFd key(options.tls_key_fd);
  rpc::TlsKeys keys;
  PROA_TRY(keys.certificate_pem, read_all(certificate.get(), kPemBytesMax, "the TLS certificate"));
  PROA_TRY(keys.key_pem, read_all(key.get(), kPemBytesMax, "the TLS key"));
  return std::optional(std::move(keys));
}

// How builds reach package mirrors; nothing if nobody said.
Result<image::BuildMirrors> read_build_mirrors(const std::string& path) {
  if (!std::filesystem::exists(path)) return image::BuildMirrors();
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, path, O_RDONLY));
  PROA_TRY(const std::string text, read_all(fd.get(), 1 << 20, path));
  auto mirrors = image::read_mirrors(text);
  if (!mirrors.ok()) return invalid_argument(path + ": " + mirrors.error().message);
  if (mirrors->ca_bundle_path.empty()) return mirrors;
  PROA_TRY(const OwnedFd bundle, open_file(AT_FDCWD, mirrors->ca_bundle_path, O_RDONLY));
  PROA_TRY(mirrors->ca_bundle, read_all(bundle.get(), 8 << 20, mirrors->ca_bundle_path));
  return mirrors;
}

class LedgerGate final : public api::OutputGate {
 public:
  explicit LedgerGate(control::Ledger& ledger) : ledger_(ledger) {}
  Async<> durable() override { return ledger_.durable(); }

 private:
  control::Ledger& ledger_;
};

class StoredAnswers final : public api::IdempotencyStore {
 public:
  explicit StoredAnswers(control::Idempotency& idempotency) : idempotency_(idempotency) {}
  const Bytes* find(const std::string& identity, const std::string& method, const std::string& key) override { return idempotency_.find(identity, method, key); }
  void remember(const std::string& identity, const std::string& method, const std::string& key, Bytes response) override {
    idempotency_.remember(identity, method, key, std::move(response));
  }

 private:
  control::Idempotency& idempotency_;
};

struct ClientToken {
  std::string id;
  std::string secret;
};

// Of the file as it was written last; empty if there is none.
ClientToken read_client_token(const std::string& path) {
  ClientToken token;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    constexpr std::string_view kId = "export MODAL_TOKEN_ID='";
    constexpr std::string_view kSecret = "export MODAL_TOKEN_SECRET='";
    if (line.starts_with(kId)) token.id = line.substr(kId.size(), line.find('\'', kId.size()) - kId.size());
    if (line.starts_with(kSecret)) token.secret = line.substr(kSecret.size(), line.find('\'', kSecret.size()) - kSecret.size());
  }
  return token;
}

control::TaskPhase phase_of(sched::TaskState state) { return static_cast<control::TaskPhase>(state); }

// Everything, in the order in which it is made; it goes in the other.
struct Server {
  Server(RealLoop& loop_in, Logger& log_in, const ServerOptions& options_in) : loop(loop_in), log(log_in), options(options_in) {}
  ~Server() {
    if (edge) edge->stop();
  }
  Result<void> open();
  Result<void> load();
  Result<void> serve();
  Result<void> write_client_env();
  Async<Result<void>> put_logs(std::vector<sched::LogLine> lines);
  Async<Result<cas::Tree>> read_tree(Digest digest);
  Async<Result<void>> prepare_client(image::ImageRecord record, image::BuildLog& build_log);
  Async<> sweep_blobs();
  Async<> tell(AppId app, control::LogEntry entry);

  RealLoop& loop;
  Logger& log;
  const ServerOptions& options;
  SystemRandom random;
  bool failed = false;
  std::unique_ptr<ThreadPool> pool = std::make_unique<ThreadPool>(kPoolThreads);
  std::unique_ptr<DiskReserve> reserve;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<store::FileLogStore> log_store;
  std::unique_ptr<cas::ObjectStore> objects;
  std::unique_ptr<control::Ledger> ledger;
  std::unique_ptr<control::Environments> environments;
  std::unique_ptr<control::Apps> apps;
  std::unique_ptr<control::Access> access;
  std::unique_ptr<control::Secrets> secrets;
  std::unique_ptr<Seeds> seeds;
  std::unique_ptr<blob::UrlSigner> url_signer;
  std::unique_ptr<Edge> edge;
  std::unique_ptr<ObjectContent> content;
  std::unique_ptr<control::Mounts> mounts;
  std::unique_ptr<Builds> builds;
  std::unique_ptr<control::Images> images;
  std::unique_ptr<control::Logs> logs;
  std::unique_ptr<control::Calls> calls;
  std::unique_ptr<Planner> planner;
  std::unique_ptr<sched::Scheduler> scheduler;
  std::unique_ptr<sched::Steps> steps;
  std::unique_ptr<control::Idempotency> idempotency;

  api::modal::ModalOptions modal_options;
  std::unique_ptr<api::modal::Handles> handles;
  std::unique_ptr<api::modal::ModalFace> modal_face;
  std::unique_ptr<api::modal::AppApi> app_api;
  std::unique_ptr<api::modal::BlobApi> blob_api;
  std::unique_ptr<api::modal::CallApi> call_api;
  std::unique_ptr<api::modal::EnvironmentApi> environment_api;
  std::unique_ptr<api::modal::FunctionApi> function_api;
  std::unique_ptr<api::modal::ImageApi> image_api;
  std::unique_ptr<api::modal::LogApi> log_api;
  std::unique_ptr<api::modal::MountApi> mount_api;
  std::unique_ptr<api::modal::SecretApi> secret_api;
  std::unique_ptr<api::modal::TaskApi> task_api;
  std::unique_ptr<api::modal::TokenApi> token_api;

  std::unique_ptr<LedgerGate> gate;
  std::unique_ptr<StoredAnswers> answers;
  std::unique_ptr<Authenticate> authenticator;
  std::unique_ptr<api::Router> router;
  std::unique_ptr<api::WorkerService> worker_service;
  std::unique_ptr<api::LocalService> local_service;
  std::unique_ptr<proa::pages::Pages> pages;
  std::unique_ptr<rpc::Server> rpc;
  Scope scope;
};

Result<void> Server::open() {
  const std::string& data = options.data_dir;
  reserve = std::make_unique<DiskReserve>(loop, log, data);
  PROA_TRY(store, store::open_sqlite(loop, data + "/state.db", [this] { return reserve->release(); }));
  PROA_TRY(log_store, store::FileLogStore::open(loop, *pool, data + "/logs", {}));
  PROA_TRY(objects, cas::ObjectStore::open(data + "/objects"));
  PROA_TRY(const Bytes key, seal_key(data + "/seal.key", random));
  ledger = std::make_unique<control::Ledger>(loop, *store, [this](const Error& error) {
    // What is in memory is not what is on the disk any more. A new process begins with what is.
    log.error("store.failed", {{"why", error.message}});
    failed = true;
    loop.stop();
  });
  environments = std::make_unique<control::Environments>(loop, random, *ledger, control::Environments::Config());
  apps = std::make_unique<control::Apps>(loop, random, *ledger, log, control::Apps::Config());
  apps->add_face(std::string(api::modal::kFace), modal_options);
  access = std::make_unique<control::Access>(loop, random, *ledger, log, key, control::Access::Config());
  secrets = std::make_unique<control::Secrets>(loop, random, *ledger, key, control::Secrets::Config());
  std::filesystem::create_directories(data + "/cache");
  seeds = std::make_unique<Seeds>(loop, *pool, *objects, *ledger, log, SeedOptions{options.cache_dir, data + "/cache", options.tools_dir, "python3"});
  url_signer = std::make_unique<blob::UrlSigner>(std::vector{Bytes(hmac_sha256(key, "proa signed urls").view())});
  PROA_TRY(std::optional<rpc::TlsKeys> tls, read_tls(options));
  PROA_TRY(edge, Edge::open(loop, log, *url_signer, {.blob_dir = data + "/blobs", .tls = std::move(tls)}));
  content = std::make_unique<ObjectContent>(loop, *pool, *objects, *edge);
  return {};
}

Result<void> Server::load() {
  PROA_TRY_VOID(access->load(*store));
  PROA_TRY_VOID(environments->load(*store));
  mounts = std::make_unique<control::Mounts>(loop, random, *ledger, *content, *seeds, access->workspace().id, control::Mounts::Config());
  builds = std::make_unique<Builds>(loop, *pool, *objects, *seeds, *secrets);
  images = std::make_unique<control::Images>(loop, random, *ledger, *builds, log, control::Images::Config());
  builds->set_images(*images);
  builds->set_after_build([this](image::ImageRecord record, image::BuildLog& build_log) { return prepare_client(std::move(record), build_log); });
  logs = std::make_unique<control::Logs>(loop, *ledger, *log_store, *apps, log, control::Logs::Config());
  calls = std::make_unique<control::Calls>(loop, random, *ledger, *store, *apps, log, control::CallLimits());
  planner = std::make_unique<Planner>(Planner::Parts{loop, *pool, *objects, *apps, *environments, *images, *mounts, *secrets});
  scheduler = std::make_unique<sched::Scheduler>(loop, random, *ledger, *apps, *calls, *planner, log, sched::SchedulerConfig());
  steps = std::make_unique<sched::Steps>(loop, random, *scheduler, [this](Digest digest) { return read_tree(digest); });
  image::BuilderConfig builder_config;
  PROA_TRY(builder_config.mirrors, read_build_mirrors(options.mirrors_file));
  builds->set_runner(*steps, std::move(builder_config));
  idempotency = std::make_unique<control::Idempotency>(loop, *ledger, control::Idempotency::Config());

  calls->set_dispatch(*scheduler);
  apps->listen(*scheduler);
  apps->listen(*logs);
  apps->listen(*secrets);
  apps->listen(*mounts);
  environments->listen(*apps);
  environments->listen(*secrets);
  environments->listen(*mounts);
  apps->set_parts([this](const control::FunctionSpec& spec) -> Result<void> {
    PROA_TRY_VOID(images->require(spec.image));
    for (const MountId mount : spec.mounts) PROA_TRY_VOID(mounts->require(mount));
    for (const SecretId secret : spec.secrets) PROA_TRY_VOID(secrets->require(secret));
    return {};
  });
  apps->set_work([this](AppId app) { return calls->unfinished_of(app) > 0; });
  calls->on_blob_dropped([this](BlobId blob) { edge->remove_blob(blob); });
  calls->on_app_idle([this](AppId app) { apps->idle(app); });
  scheduler->on_app_stopped([this](AppId app) { apps->stopped(app); });
  scheduler->on_worker_lost([this](WorkerId worker) { steps->worker_lost(worker); });
  scheduler->on_waiting([this](AppId app, FunctionId function, std::string why) {
    control::LogEntry entry;
    entry.function = function;
    entry.stream = control::LogStream::kInfo;
    entry.time = loop.now();
    const control::Function* const known = apps->function(function);
    entry.text = "Function '" + (known != nullptr ? known->name : function.text()) + "' waits: " + why + "\n";
    scope.spawn(tell(app, std::move(entry)));
  });
  scheduler->on_task_changed([this](const sched::TaskView& task) { logs->note(task.app, task.id, task.function, phase_of(task.state)); });

  PROA_TRY_VOID(seeds->load(*store));
  PROA_TRY_VOID(apps->load(*store));
  PROA_TRY_VOID(secrets->load(*store));
  PROA_TRY_VOID(mounts->load(*store));
  PROA_TRY_VOID(images->load(*store));
  PROA_TRY_VOID(logs->load(*store));
  PROA_TRY_VOID(idempotency->load(*store));
  return calls->load();
}

Async<Result<cas::Tree>> Server::read_tree(Digest digest) {
  cas::ObjectStore* const from = objects.get();
  auto work = [from, digest] { return from->get_tree(digest); };
  return run_in(*pool, loop, std::move(work));
}

// What functions need in an image is made when the image is, so that no container waits for it.
Async<Result<void>> Server::prepare_client(image::ImageRecord record, image::BuildLog& build_log) {
  const std::string mount = api::modal::dependencies_mount(record.builder_version, record.runtime.python_tag, record.runtime.libc == image::Libc::kMusl);
  if (mount.empty()) co_return Result<void>();
  PROA_CO_TRY_VOID(co_await seeds->make_ready(mount, build_log));
  co_return Result<void>();
}

Async<Result<void>> Server::put_logs(std::vector<sched::LogLine> lines) {
  // Lines are what can be done without: the space that is left is for results.
  if (reserve->low()) co_return Result<void>();
  std::map<AppId, std::vector<control::LogEntry>> by_app;
  for (sched::LogLine& line : lines) {
    control::LogEntry entry;
    entry.task = line.task;
    entry.function = line.function;
    entry.input = line.input;
    entry.stream = line.stream;
    entry.time = line.time;
    entry.text = std::move(line.text);
    by_app[line.app].push_back(std::move(entry));
  }
  for (auto& [app, entries] : by_app) {
    const Result<void> appended = co_await logs->append(app, std::move(entries));
    // Lines of an app that is gone have nowhere to go.
    if (!appended.ok() && appended.error().code != Code::kNotFound) co_return appended;
  }
  co_return Result<void>();
}

Async<> Server::tell(AppId app, control::LogEntry entry) {
  std::vector<control::LogEntry> entries;
  entries.push_back(std::move(entry));
  (void)(co_await logs->append(app, std::move(entries)));
}

// What was uploaded and then not used, or whose removal a crash came before.
Async<> Server::sweep_blobs() {
  constexpr auto kUploadMax = std::chrono::hours(48);  // Longer than any URL to upload to holds.
  while (true) {
    const Edge* const from = edge.get();
    auto work = [from, before = loop.now() - kUploadMax] { return from->blobs_older_than(before); };
    const auto old = co_await run_in(*pool, loop, std::move(work));
    if (old.ok()) {
      const auto held = calls->blobs();
      for (const BlobId blob : *old) {
        if (!held.contains(blob)) edge->remove_blob(blob);
      }
    } else {
      log.warning("blobs.unswept", {{"why", old.error().message}});
    }
    co_await sleep_for(loop, std::chrono::hours(24));
  }
}

// For `source`: how the official client and our own reach this server.
Result<void> Server::write_client_env() {
  const std::string path = options.data_dir + "/client.env";
  // The token is the one of the first time: of its secret only the file knows.
  ClientToken token = read_client_token(path);
  if (!access->authenticate(token.id, token.secret).ok()) {
    PROA_TRY(const control::Credentials made, access->create_token("proa up", "owner", Duration(0)));
    token = {made.id.text(), made.secret};
  }
  std::string text = "export MODAL_SERVER_URL='" + options.url + "'\nexport MODAL_TOKEN_ID='" + token.id + "'\nexport MODAL_TOKEN_SECRET='" + token.secret +
                     "'\nexport NO_PROXY='localhost,127.0.0.1'\nexport PROA_URL='" + options.url + "'\nexport PROA_TOKEN='" + token.id + ":" + token.secret + "'\n";
  // Go reads the first, Node the second, gRPC's own the third, the official Python client a package.
  if (!options.trust_file.empty()) {
    for (const char* name : {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"}) text += "export " + std::string(name) + "='" + options.trust_file + "'\n";
    text += "export PYTHONPATH='" + (std::filesystem::path(options.trust_file).parent_path() / "python").string() + "'\"${PYTHONPATH:+:$PYTHONPATH}\"\n";
  }
  return replace_file(path, text, 0600);
}

Result<void> Server::serve() {
  handles = std::make_unique<api::modal::Handles>(*apps, *environments, [](const control::App&, const std::string&, const api::modal::pb::WebhookConfig&) { return std::string(); });
  modal_face = std::make_unique<api::modal::ModalFace>(*apps, *handles, *seeds);
  planner->add_face(std::string(api::modal::kFace), *modal_face);
  gate = std::make_unique<LedgerGate>(*ledger);
  answers = std::make_unique<StoredAnswers>(*idempotency);
  authenticator = std::make_unique<Authenticate>(*access, *scheduler);
  router = std::make_unique<api::Router>(api::Router::Parts{loop, *authenticator, *gate, *answers, *reserve, log});
  app_api = std::make_unique<api::modal::AppApi>(*apps, *environments, *scheduler, *handles);
  blob_api = std::make_unique<api::modal::BlobApi>(random, loop, *url_signer, api::modal::BlobApi::Config());
  call_api = std::make_unique<api::modal::CallApi>(loop, *calls, *apps, *access, *scheduler);
  environment_api = std::make_unique<api::modal::EnvironmentApi>(*environments, *apps, *scheduler);
  function_api = std::make_unique<api::modal::FunctionApi>(*apps, *environments, *scheduler, *handles);
  image_api = std::make_unique<api::modal::ImageApi>(loop, *images, *mounts, *secrets);
  log_api = std::make_unique<api::modal::LogApi>(loop, *logs, *apps, *scheduler);
  mount_api = std::make_unique<api::modal::MountApi>(*mounts, *environments, *apps, *scheduler);
  secret_api = std::make_unique<api::modal::SecretApi>(*secrets, *environments, *apps, *scheduler);
  task_api = std::make_unique<api::modal::TaskApi>(*environments, *apps, *scheduler);
  token_api = std::make_unique<api::modal::TokenApi>(loop, *access);
  app_api->bind(*router);
  blob_api->bind(*router);
  call_api->bind(*router);
  environment_api->bind(*router);
  function_api->bind(*router);
  image_api->bind(*router);
  log_api->bind(*router);
  mount_api->bind(*router);
  secret_api->bind(*router);
  task_api->bind(*router);
  token_api->bind(*router);
  router->check_complete();
  worker_service = std::make_unique<api::WorkerService>(loop, *scheduler, *steps, [this](std::vector<sched::LogLine> lines) { return put_logs(std::move(lines)); });
  router->service(api::WorkerService::kPrefix, *worker_service);
  local_service = std::make_unique<api::LocalService>(api::LocalService::Parts{loop, *access});
  router->service(api::LocalService::kPrefix, *local_service);
  pages = std::make_unique<proa::pages::Pages>(proa::pages::Pages::Parts{loop, random, *ledger, *access, *apps, *calls, *environments, *logs, *scheduler, log});
  app_api->set_view_key([this](AppId app) { return pages->view_key(app); });
  for (const char* prefix : {proa::pages::Pages::kLogin, proa::pages::Pages::kApps}) {
    edge->page(prefix, [this](gateway::HttpRequest request) { return pages->handle(std::move(request)); });
  }
  PROA_TRY(rpc, rpc::Server::create(loop, *router, {}));
  PROA_TRY_VOID(write_client_env());
  scope.spawn(sweep_blobs());
  calls->resume();
  apps->resume();
  edge->start(*rpc, {.tcp = OwnedFd(options.listen_fd), .local = OwnedFd(options.local_fd), .containers = OwnedFd(options.containers_fd)});
  return {};
}

}  // namespace

int run_server(const ServerOptions& options, Logger& log) {
  RealLoop loop;
  Server server(loop, log, options);
  loop.on_signals({SIGTERM, SIGINT}, [&](int) { loop.stop(); });
  Result<void> up = server.open();
  if (up.ok()) up = server.load();
  if (up.ok()) up = server.serve();
  if (!up.ok()) {
    log.error("server.cannot_start", {{"why", up.error().message}});
    return 1;
  }
  // Ready once what was made on the way up is durable.
  server.ledger->when_durable([&] {
    if (options.ready_fd >= 0) {
      (void)!write(options.ready_fd, "r", 1);
      close(options.ready_fd);
    }
    log.info("server.ready", {{"url", options.url}, {"calls", server.calls->calls_live()}});
  });
  loop.run();
  return server.failed ? 1 : 0;
}

}  // namespace proa::app
