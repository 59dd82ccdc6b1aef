// SPDX-License-Identifier: Apache-2.0
#include "rt/real_loop.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <unordered_map>

namespace proa {

struct RealLoop::State {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::unordered_map<TimerId, asio::steady_timer> timers;
  TimerId next_timer = 1;
  std::optional<asio::signal_set> signals;
};

RealLoop::RealLoop() : state_(std::make_unique<State>()) {}
RealLoop::~RealLoop() = default;

void RealLoop::run() { state_->context.run(); }
void RealLoop::run_one() { state_->context.run_one(); }
void RealLoop::stop() { state_->context.stop(); }

Time RealLoop::now() const { return SystemClock().now(); }

void RealLoop::post(std::function<void()> work) { asio::post(state_->context, std::move(work)); }

Loop::TimerId RealLoop::at(Time time, std::function<void()> work) {
  const TimerId id = state_->next_timer++;
  // Measured from now on the steady clock, so that a step of the wall clock does not fire everything at once.
  const auto delay = std::max(time - now(), Duration(0));
  auto [place, inserted] = state_->timers.try_emplace(id, state_->context, delay);
  place->second.async_wait([this, id, work = std::move(work)](const asio::error_code& error) {
    if (error) return;
    state_->timers.erase(id);
    work();
  });
  return id;
}

void RealLoop::cancel(TimerId timer) { state_->timers.erase(timer); }

void RealLoop::on_signals(std::vector<int> signals, std::function<void(int)> handler) {
  state_->signals.emplace(state_->context);
  for (const int signal : signals) state_->signals->add(signal);
  struct Again {
    State* state;
    std::function<void(int)> handler;
    void operator()(const asio::error_code& error, int signal) const {
      if (error) return;
      state->signals->async_wait(*this);
      handler(signal);
    }
  };
  state_->signals->async_wait(Again{state_.get(), std::move(handler)});
}

struct WatchedFd::State {
  asio::posix::stream_descriptor descriptor;
};

WatchedFd::WatchedFd(RealLoop& loop, int fd)
    : loop_(loop), state_(std::make_shared<State>(State{asio::posix::stream_descriptor(loop.state_->context, fd)})) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

WatchedFd::~WatchedFd() {
  asio::error_code ignored;
  state_->descriptor.close(ignored);  // NOLINT(bugprone-unused-return-value)
}

int WatchedFd::release() { return state_->descriptor.release(); }

int WatchedFd::fd() const { return state_->descriptor.native_handle(); }

Async<> WatchedFd::readable() {
  co_await suspend<bool>(loop_, [this](Resumer<bool> resume) {
    state_->descriptor.async_wait(asio::posix::stream_descriptor::wait_read,
                                  [resume](const asio::error_code&) { resume.at_once(true); });
  });
}

Async<> WatchedFd::writable() {
  co_await suspend<bool>(loop_, [this](Resumer<bool> resume) {
    state_->descriptor.async_wait(asio::posix::stream_descriptor::wait_write,
                                  [resume](const asio::error_code&) { resume.at_once(true); });
  });
}

Async<Result<std::string>> WatchedFd::read_some(std::size_t bytes_max) {
  std::string buffer(bytes_max, '\0');
  while (true) {
    const ssize_t count = ::read(fd(), buffer.data(), buffer.size());
    if (count >= 0) {
      buffer.resize(static_cast<std::size_t>(count));
      co_return buffer;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return errno_error(errno, "read");
    co_await readable();
  }
}

Async<Result<void>> WatchedFd::write_all(std::string bytes) {
  std::size_t written = 0;
  while (written < bytes.size()) {
    // A peer that has gone is an error here, and not a signal that ends the process.
    ssize_t count = ::send(fd(), bytes.data() + written, bytes.size() - written, MSG_NOSIGNAL);
    if (count < 0 && errno == ENOTSOCK) count = ::write(fd(), bytes.data() + written, bytes.size() - written);
    if (count >= 0) {
      written += static_cast<std::size_t>(count);
    } else if (errno == EAGAIN) {
      co_await writable();
    } else if (errno != EINTR) {
      co_return errno_error(errno, "write");
    }
  }
  co_return Result<void>();
}

}  // namespace proa
