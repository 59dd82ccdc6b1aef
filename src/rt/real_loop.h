// SPDX-License-Identifier: Apache-2.0
//
// RealLoop: the Loop over asio, with file descriptors and signals. run() is called by the thread that
// becomes the loop.
#pragma once

#include <memory>

#include "base/result.h"
#include "rt/loop.h"

namespace proa {

class RealLoop final : public Loop {
 public:
  RealLoop();
  ~RealLoop() override;

  void run();   // Until stop().
  void stop();  // Any thread.
  void run_one();  // Waits for one piece of work and does it.

  Time now() const override;
  void post(std::function<void()> work) override;
  TimerId at(Time time, std::function<void()> work) override;
  void cancel(TimerId timer) override;

  // Calls `handler` on the loop each time one of `signals` arrives. At most once for each loop.
  void on_signals(std::vector<int> signals, std::function<void(int)> handler);

 private:
  friend class WatchedFd;
  struct State;
  std::unique_ptr<State> state_;
};

// A file descriptor, owned, made non-blocking, that can be waited on. One waiter for each direction.
class WatchedFd {
 public:
  WatchedFd(RealLoop& loop, int fd);
  ~WatchedFd();
  WatchedFd(const WatchedFd&) = delete;
  WatchedFd& operator=(const WatchedFd&) = delete;

  int fd() const;
  // Gives the descriptor away; nobody may be waiting on it. The rest of this object is of no use any more.
  int release();
  // Finish when the descriptor may be read (or written), or has an error or end to report.
  Async<> readable();
  Async<> writable();

  // Up to `bytes_max` bytes; empty at the end.
  Async<Result<std::string>> read_some(std::size_t bytes_max);
  Async<Result<void>> write_all(std::string bytes);

 private:
  struct State;
  RealLoop& loop_;
  std::shared_ptr<State> state_;
};

}  // namespace proa
