// SPDX-License-Identifier: Apache-2.0
//
// ObjectContent: the object store as the core's rules see it; its blocking work is done in the pool. A blob whose bytes
// it took over is gone afterwards.
#pragma once

#include "app/edge.h"
#include "cas/object_store.h"
#include "control/mounts.h"
#include "rt/loop.h"
#include "rt/pool.h"

namespace proa::app {

class ObjectContent final : public control::ContentStore {
 public:
  ObjectContent(Loop& loop, Pool& pool, cas::ObjectStore& objects, Edge& edge) : loop_(loop), pool_(pool), objects_(objects), edge_(edge) {}

  Async<Result<std::vector<std::optional<std::uint64_t>>>> sizes(std::vector<Digest> objects) override;
  Async<Result<void>> put_bytes(Digest expected, Bytes bytes) override;
  Async<Result<std::uint64_t>> put_blob(Digest expected, BlobId blob) override;
  Async<Result<Digest>> put_tree(cas::Tree tree) override;

 private:
  Loop& loop_;
  Pool& pool_;
  cas::ObjectStore& objects_;
  Edge& edge_;
};

}  // namespace proa::app
