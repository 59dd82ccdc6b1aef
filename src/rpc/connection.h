// SPDX-License-Identifier: Apache-2.0
//
// ConnectionInfo: what is known of a peer from the socket alone, before it has said anything. Made by whoever
// accepts the connection, and never by the peer.
#pragma once

#include <cstdint>
#include <string>

namespace proa::rpc {

struct ConnectionInfo {
  enum class Kind : std::uint8_t {
    kTcp,        // From the network; says who it is by credentials.
    kContainer,  // A container's own socket; it is the task `task`, whatever it says.
    kLocal,      // Another process of ours on this machine.
  };
  Kind kind = Kind::kTcp;
  std::string address;  // For a person: "10.0.0.2:5123", or "" for a unix socket.
  std::string task;     // kContainer: the task's id.
  bool secure = false;  // TLS ended in this process.
};

}  // namespace proa::rpc
