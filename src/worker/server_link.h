// SPDX-License-Identifier: Apache-2.0
//
// ServerLink: a worker's way to its server. A stream of small messages that comes and goes, and calls for
// what may be big (sched::WorkerCalls).
//
// rpc::ServerConnection is the real one. All of it is on the worker's loop.
#pragma once

#include "sched/peer.h"

namespace proa::worker {

class ServerLink {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // The stream is up and nothing was sent on it yet: the next report must be a Hello.
    virtual void on_connected() = 0;
    // What was sent lately may be lost. Comes once for each on_connected().
    virtual void on_disconnected() = 0;
    virtual void on_command(sched::Command command) = 0;
  };

  virtual ~ServerLink() = default;
  // Begins to connect, and goes on for ever. Once; `listener` outlives the link.
  virtual void start(Listener& listener) = 0;
  // In order. Dropped when the stream is down, since Hello says it all again.
  virtual void send(sched::Report report) = 0;
  virtual sched::WorkerCalls& calls() = 0;
};

}  // namespace proa::worker
