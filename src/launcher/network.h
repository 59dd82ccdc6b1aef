// SPDX-License-Identifier: Apache-2.0
//
// Network: a routed veth pair for each slot, and the rules for what its containers may reach.
//
// Slot i has the addresses base + 2i (host's end) and base + 2i + 1 (its eth0), a /31, out of a /20 in the
// shared address space (RFC 6598) that no other launcher on this machine has. Rules are nftables', loaded once at the start and
// bound to the interfaces' common prefix: containers reach the internet and the resolvers, not each other,
// not the host, not private, shared or link-local ranges unless they are allowed by name. A container cannot
// borrow an address: reverse paths are checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "launcher/ranges.h"

namespace proa::launcher {

struct NetworkOptions {
  std::string instance;                  // Four hexadecimal digits.
  std::vector<std::string> allowed;      // CIDRs that containers may reach though they are private.
};

constexpr std::uint32_t kNetworkSlotsMax = 2048;  // A /20 in pairs.

class Network {
 public:
  // kFailedPrecondition if the machine cannot: no nft, no right to it; the message says what to do.
  static Result<std::unique_ptr<Network>> open(NetworkOptions options);
  ~Network();  // Takes the rules away.

  // Gives the network namespace of process `pid` its eth0 and brings up its loopback. Answers the address,
  // in network order.
  Result<std::uint32_t> attach(std::uint32_t index, int pid);
  // Takes the pair away; it goes with its namespace too, but not at once.
  void detach(std::uint32_t index);
  // For /etc/resolv.conf of containers: the host's resolvers that are not on a loopback address.
  const std::string& resolv_conf() const { return resolv_conf_; }
  // What is less than it should be, for a person; "" if nothing is.
  const std::string& note() const { return note_; }

 private:
  explicit Network(NetworkOptions options) : options_(std::move(options)) {}
  Result<void> load_rules();
  void read_resolvers(const std::string& path);
  std::string interface(std::uint32_t index) const;

  NetworkOptions options_;
  IdRange range_;
  std::string note_;
  std::uint32_t base_ = 0;  // Host order.
  std::uint32_t mtu_ = 1500;
  std::string resolv_conf_;
  std::vector<std::string> resolvers_;
  int netlink_ = -1;
};

// Brings up the loopback of a namespace; for slots without a network.
Result<void> loopback_up(int pid);
// A TCP socket listening on 127.0.0.1:`port` in the network namespace of `pid`.
Result<int> listen_inside(int pid, std::uint16_t port);

}  // namespace proa::launcher
