// SPDX-License-Identifier: Apache-2.0
#include "worker/reports.h"

#include <utility>

namespace proa::worker {

void Reports::bound(sched::Binding binding) {
  if (!connected_) return;
  bound_.push_back(std::move(binding));
  batch();
}

void Reports::revoked(sched::LeaseId lease) {
  if (!connected_) return;
  revoked_.push_back(lease);
  batch();
}

void Reports::task(sched::TaskReport report) {
  flush();
  if (connected_) link_.send({.task = std::move(report)});
}

void Reports::retiring(TaskId task) {
  flush();
  if (connected_) link_.send({.retiring = task});
}

void Reports::load(sched::Load load) {
  if (connected_) link_.send({.load = load});
}

void Reports::hello(sched::Hello hello) {
  forget();
  if (connected_) link_.send({.hello = std::move(hello)});
}

void Reports::disconnected() {
  connected_ = false;
  forget();
}

void Reports::batch() {
  if (bound_.size() + revoked_.size() >= kBatchMax) {
    flush();
  } else if (timer_ == 0) {
    timer_ = loop_.at(loop_.now() + kBatchDelay, [this] {
      timer_ = 0;
      flush();
    });
  }
}

void Reports::flush() {
  if (timer_ != 0) loop_.cancel(std::exchange(timer_, 0));
  if (!bound_.empty()) link_.send({.bound = std::exchange(bound_, {})});
  if (!revoked_.empty()) link_.send({.revoked = std::exchange(revoked_, {})});
}

void Reports::forget() {
  if (timer_ != 0) loop_.cancel(std::exchange(timer_, 0));
  bound_.clear();
  revoked_.clear();
}

}  // namespace proa::worker
