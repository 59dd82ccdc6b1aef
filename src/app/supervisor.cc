// SPDX-License-Identifier: Apache-2.0
#include "app/supervisor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "rpc/certificates.h"
#include "base/clock.h"
#include "base/fd.h"

namespace proa::app {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;
using std::chrono::milliseconds;

// Not in /etc/passwd of a fresh machine: then server and worker run as this number, which nobody else has.
constexpr uid_t kUidWithoutUser = 61'700;
constexpr int kBacklog = 4096;
constexpr milliseconds kAddressPatience(2000);

struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
};

Identity service_identity(const std::string& user) {
  if (geteuid() != 0) return {geteuid(), getegid()};
  if (const passwd* entry = getpwnam(user.c_str()); entry != nullptr) return {entry->pw_uid, entry->pw_gid};
  return {kUidWithoutUser, kUidWithoutUser};
}

Result<void> make_directory(const std::string& path, mode_t mode, Identity owner) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return errno_error(errno, "cannot make the directory " + path);
  if (geteuid() == 0 && chown(path.c_str(), owner.uid, owner.gid) != 0) return errno_error(errno, "cannot give away " + path);
  if (chmod(path.c_str(), mode) != 0) return errno_error(errno, "cannot set the mode of " + path);
  return {};
}

// The services must be able to walk to the directory; where they cannot, it is better said now.
Result<void> check_reachable(const std::string& path, Identity who) {
  if (geteuid() != 0 || who.uid == 0) return {};
  for (std::filesystem::path parent = std::filesystem::path(path).parent_path(); parent != parent.root_path(); parent = parent.parent_path()) {
    struct stat about {};
    if (stat(parent.c_str(), &about) != 0) return errno_error(errno, "cannot look at " + parent.string());
    const bool may = (about.st_mode & S_IXOTH) != 0 || (about.st_uid == who.uid && (about.st_mode & S_IXUSR) != 0);
    if (!may) {
      return failed_precondition("the unprivileged user that the server runs as may not enter " + parent.string() + ", which is above the data directory " +
                                 path + ": choose another with --data-dir, such as /var/lib/proa, or `chmod o+x " + parent.string() + "`");
    }
  }
  return {};
}

Result<OwnedFd> lock_directory(const std::string& data_dir) {
  const std::string path = data_dir + "/lock";
  OwnedFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return errno_error(errno, "cannot open " + path);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return failed_precondition("the data directory " + data_dir + " is in use by another `proa up`: stop that one first, or choose another with --data-dir");
  }
  return lock;
}

Result<OwnedFd> listen_tcp(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); code != 0) {
    return invalid_argument("'" + host + "' is not an address to listen on: " + gai_strerror(code));
  }
  OwnedFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // The children of a supervisor that was just killed hold the socket for a moment longer.
  const auto give_up = std::chrono::steady_clock::now() + kAddressPatience;
  int bound = bind(fd.get(), found->ai_addr, found->ai_addrlen);
  while (bound != 0 && errno == EADDRINUSE && std::chrono::steady_clock::now() < give_up) {
    usleep(5'000);
    bound = bind(fd.get(), found->ai_addr, found->ai_addrlen);
  }
  const int code = errno;
  freeaddrinfo(found);
  if (bound != 0 || listen(fd.get(), kBacklog) != 0) {
    return errno_error(bound != 0 ? code : errno, "cannot listen on " + host + ":" + std::to_string(port) + " (choose another with --listen)");
  }
  return fd;
}

Result<OwnedFd> listen_unix(const std::string& path, Identity owner) {
  unlink(path.c_str());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return invalid_argument("the data directory's path is too long for a socket in it: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(fd.get(), kBacklog) != 0) {
    return errno_error(errno, "cannot make the socket " + path);
  }
  if (chmod(path.c_str(), 0600) != 0 || (geteuid() == 0 && chown(path.c_str(), owner.uid, owner.gid) != 0)) {
    return errno_error(errno, "cannot set the owner of " + path);
  }
  return fd;
}

std::uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

std::string own_host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

// "name" of "https://name:port/…"; empty if it is no such URL.
std::string host_of(const std::string& url) {
  const auto slashes = url.find("://");
  if (slashes == std::string::npos) return "";
  const std::string rest = url.substr(slashes + 3, url.find('/', slashes + 3) - slashes - 3);
  if (rest.starts_with('[')) return rest.substr(1, rest.find(']') - 1);
  return rest.substr(0, rest.find(':'));
}

// The official Python client trusts what the package certifi has and looks at no variable. Found before the real one, this
// one looks.
constexpr const char* kCertifi = R"(# Written by `proa up --tls`, for clients that trust what certifi says and nothing else.
import os


def where():
    return os.environ.get("SSL_CERT_FILE") or os.path.join(os.path.dirname(__file__), "..", "..", "trust.pem")


def contents():
    with open(where(), encoding="ascii", errors="replace") as file:
        return file.read()
)";

// Our CA and everybody else's: a variable that names a bundle takes the place of the system's.
Result<std::string> make_trust_file(const std::string& directory, const std::string& ca) {
  std::string text;
  const char* const set = std::getenv("SSL_CERT_FILE");
  for (const std::string& path : {ca, std::string(set != nullptr ? set : ""), std::string("/etc/ssl/certs/ca-certificates.crt"), std::string("/etc/pki/tls/certs/ca-bundle.crt")}) {
    std::ifstream file(path);
    if (!file) continue;
    text.append(std::istreambuf_iterator<char>(file), {});
    if (path != ca) break;
  }
  std::string path = directory + "/trust.pem";
  PROA_TRY_VOID(replace_file(path, text, 0644));
  std::error_code failure;
  std::filesystem::create_directories(directory + "/python/certifi", failure);
  PROA_TRY_VOID(replace_file(directory + "/python/certifi/__init__.py", kCertifi, 0644));
  return path;
}

// A connection is a descriptor, and the usual soft limit is 1024. Children inherit it.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

struct Child {
  std::string name;
  pid_t pid = -1;
  SteadyTime started;
  SteadyTime next_start;
  int quick_deaths = 0;  // In a row; each doubles the wait before the next start.
  bool running() const { return pid > 0; }
};

// Starts `argv` with `pass` open under their own numbers, as `who`.
pid_t start(const std::vector<std::string>& argv, const std::vector<int>& pass, std::optional<Identity> who, int death_signal) {
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int fd : pass) fcntl(fd, F_SETFD, 0);
  // Opened before the change of identity: a program in a private directory (a checkout) runs all the same.
  const int program = ::open(argv[0].c_str(), O_PATH | O_CLOEXEC);
  if (who && geteuid() == 0) {
    if (setgroups(0, nullptr) != 0 || setresgid(who->gid, who->gid, who->gid) != 0 || setresuid(who->uid, who->uid, who->uid) != 0) {
      std::perror("proa: cannot become the unprivileged user");
      _exit(126);
    }
  }
  // After the change of identity, which clears it.
  prctl(PR_SET_PDEATHSIG, death_signal);
  if (getppid() != parent) _exit(0);
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  execveat(program, "", pointers.data(), environ, AT_EMPTY_PATH);
  std::fprintf(stderr, "proa: cannot run %s: %s\n", pointers[0], std::strerror(errno));
  _exit(127);
}

class Supervisor {
 public:
  Supervisor(const UpOptions& options, Logger& log) : options_(options), log_(log), who_(service_identity(options.user)) {}
  Result<void> open();
  int run();

 private:
  void start_server();
  void start_worker_and_launcher();
  void reap();
  void ended(Child& child, int status);
  void stop_all();
  void keep_running();
  milliseconds patience() const;
  std::string url() const;
  Result<void> open_tls();

  const UpOptions& options_;
  Logger& log_;
  Identity who_;
  std::string data_dir_;
  std::string bin_dir_;
  std::uint16_t port_ = 0;
  OwnedFd lock_;
  OwnedFd tcp_;
  OwnedFd local_;
  OwnedFd containers_;
  std::string certificate_;  // Paths; empty without TLS.
  std::string key_;
  std::string trust_;
  OwnedFd signals_;
  OwnedFd ready_;  // The server writes a byte when it serves.
  bool announced_ = false;
  bool stopping_ = false;
  Child server_{.name = "server"};
  Child worker_{.name = "worker"};
  Child launcher_{.name = "launcher"};
};

Result<void> Supervisor::open() {
  std::error_code failure;
  std::filesystem::create_directories(options_.data_dir, failure);
  data_dir_ = std::filesystem::absolute(options_.data_dir).lexically_normal().string();
  while (data_dir_.size() > 1 && data_dir_.ends_with('/')) data_dir_.pop_back();
  bin_dir_ = std::filesystem::path(options_.program).parent_path().string();
  PROA_TRY_VOID(check_reachable(data_dir_, who_));
  PROA_TRY_VOID(make_directory(data_dir_, 0711, who_));
  PROA_TRY(lock_, lock_directory(data_dir_));
  PROA_TRY_VOID(make_directory(data_dir_ + "/run", 0700, who_));
  PROA_TRY_VOID(make_directory(data_dir_ + "/objects", 0755, who_));
  if (options_.run_worker) PROA_TRY_VOID(make_directory(data_dir_ + "/launcher", 0711, {geteuid(), getegid()}));
  PROA_TRY(tcp_, listen_tcp(options_.host, options_.port));
  port_ = port_of(tcp_.get());
  PROA_TRY(local_, listen_unix(data_dir_ + "/run/server.sock", who_));
  PROA_TRY(containers_, listen_unix(data_dir_ + "/run/blobs.sock", who_));
  PROA_TRY_VOID(open_tls());
  raise_descriptor_limit();
  sigset_t watched;
  sigemptyset(&watched);
  for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&watched, signal);
  sigprocmask(SIG_BLOCK, &watched, nullptr);
  signals_ = OwnedFd(signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return errno_error(errno, "cannot watch signals");
  return {};
}

std::string Supervisor::url() const {
  if (!options_.public_url.empty()) return options_.public_url;
  // "Any address" is none that a client could use.
  const bool any = options_.host == "0.0.0.0" || options_.host == "::";
  std::string host = any ? own_host_name() : options_.host;
  if (host.find(':') != std::string::npos) host = "[" + host + "]";
  return (certificate_.empty() ? "http://" : "https://") + host + ":" + std::to_string(port_);
}

Result<void> Supervisor::open_tls() {
  if (options_.tls == UpOptions::Tls::kNone) return {};
  certificate_ = options_.tls_certificate;
  key_ = options_.tls_key;
  if (options_.tls == UpOptions::Tls::kOwn) {
    const std::string directory = data_dir_ + "/tls";
    PROA_TRY_VOID(make_directory(directory, 0711, {geteuid(), getegid()}));
    std::vector<std::string> names = {"localhost", "127.0.0.1", "::1", own_host_name()};
    if (options_.host != "0.0.0.0" && options_.host != "::") names.push_back(options_.host);
    if (const std::string host = host_of(options_.public_url); !host.empty()) names.push_back(host);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    PROA_TRY(const rpc::CertificateFiles files, rpc::own_certificates(directory, names, SystemClock().now()));
    certificate_ = files.certificate;
    key_ = files.key;
    PROA_TRY(trust_, make_trust_file(directory, files.ca));
  }
  for (const std::string& path : {certificate_, key_}) {
    if (!OwnedFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)).valid()) return errno_error(errno, "cannot open " + path + ", which is to be used for TLS");
  }
  return {};
}

void Supervisor::start_server() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  ready_ = OwnedFd(ends[0]);
  const OwnedFd theirs(ends[1]);
  std::vector<std::string> argv = {options_.program, "server", "--data-dir", data_dir_, "--listen-fd", std::to_string(tcp_.get()),
                                   "--local-fd", std::to_string(local_.get()), "--containers-fd", std::to_string(containers_.get()),
                                   "--ready-fd", std::to_string(theirs.get()), "--url", url()};
  std::vector<int> pass = {tcp_.get(), local_.get(), containers_.get(), theirs.get()};
  // Opened here, as whoever may read them, and each time, so that a restart takes up new ones.
  const OwnedFd certificate(certificate_.empty() ? -1 : ::open(certificate_.c_str(), O_RDONLY | O_CLOEXEC));
  const OwnedFd key(key_.empty() ? -1 : ::open(key_.c_str(), O_RDONLY | O_CLOEXEC));
  if (certificate.valid() && key.valid()) {
    argv.insert(argv.end(), {"--tls-certificate-fd", std::to_string(certificate.get()), "--tls-key-fd", std::to_string(key.get())});
    pass.insert(pass.end(), {certificate.get(), key.get()});
    if (!trust_.empty()) argv.insert(argv.end(), {"--trust-file", trust_});
  }
  argv.insert(argv.end(), options_.server_flags.begin(), options_.server_flags.end());
  server_.pid = start(argv, pass, who_, SIGKILL);
  server_.started = std::chrono::steady_clock::now();
}

void Supervisor::start_worker_and_launcher() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return;
  const OwnedFd launcher_end(ends[0]);
  const OwnedFd worker_end(ends[1]);
  launcher_.pid = start({bin_dir_ + "/proa-launcher", "--socket-fd", std::to_string(launcher_end.get()), "--state-dir", data_dir_ + "/launcher",
                         "--objects-dir", data_dir_ + "/objects"},
                        {launcher_end.get()}, std::nullopt, SIGKILL);
  std::vector<std::string> argv = {options_.program, "worker", "--data-dir", data_dir_, "--launcher-fd", std::to_string(worker_end.get()),
                                   "--server", "unix:" + data_dir_ + "/run/server.sock", "--blobs", "unix:" + data_dir_ + "/run/blobs.sock"};
  argv.insert(argv.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  worker_.pid = start(argv, {worker_end.get()}, who_, SIGKILL);
  launcher_.started = worker_.started = std::chrono::steady_clock::now();
}

void Supervisor::ended(Child& child, int status) {
  const auto now = std::chrono::steady_clock::now();
  const bool quick = now - child.started < std::chrono::seconds(2);
  child.quick_deaths = quick ? std::min(child.quick_deaths + 1, 6) : 0;
  child.next_start = now + (quick ? milliseconds(50 << child.quick_deaths) : milliseconds(0));
  child.pid = -1;
  if (stopping_) return;
  if (WIFSIGNALED(status)) {
    log_.warning("child.ended", {{"child", child.name}, {"signal", WTERMSIG(status)}});
  } else {
    log_.warning("child.ended", {{"child", child.name}, {"status", WEXITSTATUS(status)}});
  }
}

void Supervisor::reap() {
  int status = 0;
  for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0; pid = waitpid(-1, &status, WNOHANG)) {
    for (Child* child : {&server_, &worker_, &launcher_}) {
      if (child->pid == pid) ended(*child, status);
    }
  }
}

void Supervisor::keep_running() {
  const auto now = std::chrono::steady_clock::now();
  if (!server_.running() && now >= server_.next_start) start_server();
  if (!options_.run_worker) return;
  // One of the two without the other is of no use: its half of the socket is dead.
  if (worker_.running() != launcher_.running()) {
    Child& left = worker_.running() ? worker_ : launcher_;
    // The launcher ends by itself, with its containers, once the socket is closed; the worker is told.
    if (&left == &worker_) kill(left.pid, SIGKILL);
    return;
  }
  if (!worker_.running() && now >= std::max(worker_.next_start, launcher_.next_start)) start_worker_and_launcher();
}

milliseconds Supervisor::patience() const {
  const auto now = std::chrono::steady_clock::now();
  milliseconds most(1000);
  for (const Child* child : {&server_, &worker_, &launcher_}) {
    if (child->running()) continue;
    const auto left = std::chrono::duration_cast<milliseconds>(child->next_start - now) + milliseconds(1);
    most = std::min(most, std::max(left, milliseconds(1)));
  }
  return most;
}

void Supervisor::stop_all() {
  stopping_ = true;
  // The worker first, so that its containers end while somebody hears what they say last.
  const auto end_of_patience = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  const auto ended_or_killed = [&](std::initializer_list<Child*> children) {
    for (Child* child : children) {
      if (child->running()) kill(child->pid, SIGTERM);
    }
    while (std::any_of(children.begin(), children.end(), [](const Child* child) { return child->running(); })) {
      pollfd wait{.fd = signals_.get(), .events = POLLIN, .revents = 0};
      poll(&wait, 1, 200);
      signalfd_siginfo drained;
      while (read(signals_.get(), &drained, sizeof drained) == static_cast<ssize_t>(sizeof drained)) {
      }
      reap();
      if (std::chrono::steady_clock::now() < end_of_patience) continue;
      for (Child* child : children) {
        if (child->running()) kill(child->pid, SIGKILL);
      }
    }
  };
  ended_or_killed({&worker_});
  ended_or_killed({&launcher_, &server_});
}

int Supervisor::run() {
  while (true) {
    keep_running();
    pollfd waits[2] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0}, {.fd = ready_.get(), .events = POLLIN, .revents = 0}};
    poll(waits, ready_.valid() ? 2 : 1, static_cast<int>(patience().count()));
    if (ready_.valid() && waits[1].revents != 0) {
      char byte = 0;
      const bool serves = read(ready_.get(), &byte, 1) == 1;
      ready_.reset(-1);
      if (serves && !announced_) {
        announced_ = true;
        std::printf("ready %s\n", url().c_str());
        std::fflush(stdout);
      }
    }
    signalfd_siginfo signal;
    bool stop = false;
    while (read(signals_.get(), &signal, sizeof signal) == static_cast<ssize_t>(sizeof signal)) {
      if (signal.ssi_signo != SIGCHLD) stop = true;
    }
    reap();
    if (stop) {
      stop_all();
      return 0;
    }
  }
}

}  // namespace

int run_supervisor(const UpOptions& options, Logger& log) {
  Supervisor supervisor(options, log);
  if (const auto opened = supervisor.open(); !opened.ok()) {
    std::fprintf(stderr, "proa: %s\n", opened.error().message.c_str());
    return 1;
  }
  return supervisor.run();
}

}  // namespace proa::app
