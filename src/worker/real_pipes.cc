// SPDX-License-Identifier: Apache-2.0
#include "worker/real_pipes.h"

#include <utility>

namespace proa::worker {
namespace {

class RealPipe final : public Pipe {
 public:
  RealPipe(RealLoop& loop, int fd) : fd_(loop, fd) {}
  Async<Result<std::string>> read_some(std::size_t bytes_max) override { return fd_.read_some(bytes_max); }

 private:
  WatchedFd fd_;
};

// A slot without this pipe: it has ended already.
class NoPipe final : public Pipe {
 public:
  Async<Result<std::string>> read_some(std::size_t) override { co_return std::string(); }
};

}  // namespace

std::unique_ptr<Pipe> RealPipes::open(container::OwnedFd fd) {
  if (!fd.valid()) return std::make_unique<NoPipe>();
  return std::make_unique<RealPipe>(loop_, fd.release());
}

}  // namespace proa::worker
