// SPDX-License-Identifier: Apache-2.0
//
// What the rpc room counts. Written from any thread, read by whoever reports.
#pragma once

#include <atomic>
#include <cstdint>

namespace proa::rpc {

struct ServerProbe {
  std::atomic<std::uint64_t> connections_accepted = 0;
  std::atomic<std::uint64_t> connections_refused = 0;
  std::atomic<std::uint64_t> calls_started = 0;
  std::atomic<std::uint64_t> calls_cancelled = 0;  // By the peer, its deadline, or the end of its connection.
  std::atomic<std::int64_t> calls_active = 0;
  std::atomic<std::uint64_t> bytes_read = 0;
  std::atomic<std::uint64_t> bytes_written = 0;
};

}  // namespace proa::rpc
