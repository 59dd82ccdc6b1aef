// SPDX-License-Identifier: Apache-2.0
#include "launcher/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/check.h"
#include "base/fd.h"

namespace proa::launcher {
namespace {

// One request of rtnetlink(7), built up in place.
class NetlinkRequest {
 public:
  template <class Header>
  NetlinkRequest(std::uint16_t type, std::uint16_t flags, const Header& header) {
    nlmsghdr* head = this->head();
    head->nlmsg_type = type;
    head->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
    head->nlmsg_len = NLMSG_LENGTH(sizeof header);
    std::memcpy(NLMSG_DATA(head), &header, sizeof header);
  }
  rtattr* add(unsigned short type, const void* data, std::size_t size) {
    nlmsghdr* head = this->head();
    const std::size_t at = NLMSG_ALIGN(head->nlmsg_len);
    PROA_CHECK(at + RTA_LENGTH(size) <= buffer_.size());
    auto* attribute = reinterpret_cast<rtattr*>(buffer_.data() + at);
    attribute->rta_type = type;
    attribute->rta_len = static_cast<unsigned short>(RTA_LENGTH(size));
    if (size > 0) std::memcpy(RTA_DATA(attribute), data, size);
    head->nlmsg_len = static_cast<std::uint32_t>(at + RTA_ALIGN(attribute->rta_len));
    return attribute;
  }
  rtattr* add(unsigned short type, const std::string& text) { return add(type, text.c_str(), text.size() + 1); }
  rtattr* add(unsigned short type, std::uint32_t number) { return add(type, &number, sizeof number); }
  template <class Header>
  rtattr* add_header(unsigned short type, const Header& header) {
    return add(type, &header, sizeof header);
  }
  rtattr* begin(unsigned short type) { return add(type, nullptr, 0); }
  void end(rtattr* nest) {
    nest->rta_len = static_cast<unsigned short>(buffer_.data() + head()->nlmsg_len - reinterpret_cast<char*>(nest));
  }

  Result<void> send(int socket, const std::string& what) {
    const nlmsghdr* head = this->head();
    if (::send(socket, buffer_.data(), head->nlmsg_len, 0) < 0) return errno_error(errno, what);
    std::array<char, 4096> answer{};
    const ssize_t size = recv(socket, answer.data(), answer.size(), 0);
    if (size < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(nlmsgerr)))) return internal_error(what + ": the kernel's answer is too short");
    const auto* reply = reinterpret_cast<const nlmsghdr*>(answer.data());
    if (reply->nlmsg_type != NLMSG_ERROR) return internal_error(what + ": the kernel answered something else");
    const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(reply));
    if (error->error != 0) return errno_error(-error->error, what);
    return {};
  }

 private:
  nlmsghdr* head() { return reinterpret_cast<nlmsghdr*>(buffer_.data()); }
  alignas(NLMSG_ALIGNTO) std::array<char, 1024> buffer_{};
};

Result<OwnedFd> open_netlink() {
  OwnedFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd.valid()) return errno_error(errno, "netlink");
  return fd;
}

// Runs `work` in the network namespace of `pid`. This process has one thread, so it may go there and back.
Result<void> inside(int pid, const std::function<Result<void>()>& work) {
  const OwnedFd home(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  const OwnedFd there(open(("/proc/" + std::to_string(pid) + "/ns/net").c_str(), O_RDONLY | O_CLOEXEC));
  if (!home.valid() || !there.valid()) return errno_error(errno, "cannot open a network namespace");
  if (setns(there.get(), CLONE_NEWNET) != 0) return errno_error(errno, "cannot enter a network namespace");
  Result<void> done = work();
  PROA_CHECK(setns(home.get(), CLONE_NEWNET) == 0);
  return done;
}

Result<void> link_up(int socket, int index) {
  ifinfomsg info{};
  info.ifi_index = index;
  info.ifi_flags = IFF_UP;
  info.ifi_change = IFF_UP;
  return NetlinkRequest(RTM_NEWLINK, 0, info).send(socket, "link up");
}

Result<void> add_address(int socket, int index, std::uint32_t address, unsigned char prefix) {
  ifaddrmsg message{};
  message.ifa_family = AF_INET;
  message.ifa_prefixlen = prefix;
  message.ifa_index = static_cast<std::uint32_t>(index);
  NetlinkRequest request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, message);
  request.add(IFA_LOCAL, address);
  request.add(IFA_ADDRESS, address);
  return request.send(socket, "address");
}

Result<void> add_default_route(int socket, int index, std::uint32_t gateway) {
  rtmsg message{};
  message.rtm_family = AF_INET;
  message.rtm_table = RT_TABLE_MAIN;
  message.rtm_protocol = RTPROT_STATIC;
  message.rtm_type = RTN_UNICAST;
  NetlinkRequest request(RTM_NEWROUTE, NLM_F_CREATE, message);
  request.add(RTA_GATEWAY, gateway);
  request.add(RTA_OIF, static_cast<std::uint32_t>(index));
  return request.send(socket, "route");
}

void write_setting(const std::string& path, const std::string& value) {
  std::ofstream file(path);
  file << value;
}

std::string read_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

std::string default_interface() {
  std::ifstream routes("/proc/net/route");
  std::string line;
  std::getline(routes, line);
  while (std::getline(routes, line)) {
    std::istringstream fields(line);
    std::string name;
    std::string destination;
    fields >> name >> destination;
    if (destination == "00000000") return name;
  }
  return "";
}

bool is_cidr(const std::string& text) {
  const auto slash = text.find('/');
  in_addr address{};
  if (inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) != 1) return false;
  if (slash == std::string::npos) return true;
  const std::string bits = text.substr(slash + 1);
  return !bits.empty() && bits.size() <= 2 && std::all_of(bits.begin(), bits.end(), [](char c) { return c >= '0' && c <= '9'; }) && std::atoi(bits.c_str()) <= 32;
}

// Feeds `script` to nft.
Result<void> run_nft(const std::string& script) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error(errno, "pipe");
  const OwnedFd read_end(ends[0]);
  OwnedFd write_end(ends[1]);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(read_end.get(), 0);
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    for (const char* program : {"/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"}) execl(program, "nft", "-f", "-", nullptr);
    _exit(127);
  }
  if (pid < 0) return errno_error(errno, "fork");
  const bool written = write(write_end.get(), script.data(), script.size()) == static_cast<ssize_t>(script.size());
  write_end.reset(-1);
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) return failed_precondition("the program nft is not there: install nftables");
  if (!written || status != 0) return failed_precondition("nft does not take the rules: the kernel lacks nf_tables, or this process may not change them");
  return {};
}

std::string dotted(std::uint32_t host_order) {
  const in_addr address{htonl(host_order)};
  std::array<char, INET_ADDRSTRLEN> text{};
  inet_ntop(AF_INET, &address, text.data(), text.size());
  return text.data();
}

}  // namespace

Result<std::unique_ptr<Network>> Network::open(NetworkOptions options) {
  std::unique_ptr<Network> network(new Network(std::move(options)));
  // 100.96.0.0/12 holds 256 ranges of 4096 addresses: the first two digits of the instance choose where to look.
  const auto preferred = static_cast<std::uint32_t>(std::strtoul(network->options_.instance.substr(0, 2).c_str(), nullptr, 16));
  PROA_TRY(network->range_, claim_range("addresses", 256, preferred));
  network->base_ = 0x64600000U + network->range_.number * 4096U;
  for (const std::string& cidr : network->options_.allowed) {
    if (!is_cidr(cidr)) return invalid_argument("'" + cidr + "' is not an IPv4 range such as 10.1.0.0/16");
  }
  PROA_TRY(OwnedFd netlink, open_netlink());
  network->netlink_ = netlink.release();
  const std::string uplink = default_interface();
  if (!uplink.empty()) {
    const int mtu = std::atoi(read_word("/sys/class/net/" + uplink + "/mtu").c_str());
    if (mtu >= 1280) network->mtu_ = static_cast<std::uint32_t>(mtu);
  }
  network->read_resolvers("/etc/resolv.conf");
  // What a resolver daemon on a loopback address asks itself; containers cannot reach that address.
  if (network->resolvers_.empty()) network->read_resolvers("/run/systemd/resolve/resolv.conf");
  if (network->resolvers_.empty()) {
    network->note_ = "containers cannot resolve names: this machine's only resolvers are on loopback addresses; name one in /etc/resolv.conf. ";
  }
  PROA_TRY_VOID(network->load_rules());
  if (read_word("/proc/sys/net/ipv4/ip_forward") != "1") {
    write_setting("/proc/sys/net/ipv4/ip_forward", "1");
    if (read_word("/proc/sys/net/ipv4/ip_forward") != "1") {
      return failed_precondition("this machine does not forward packets, and net.ipv4.ip_forward cannot be set");
    }
  }
  return network;
}

void Network::read_resolvers(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::string text;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string key;
    std::string value;
    fields >> key >> value;
    if (key == "nameserver") {
      if (value.starts_with("127.") || !is_cidr(value)) continue;
      resolvers_.push_back(value);
    }
    if (key == "nameserver" || key == "search" || key == "options" || key == "domain") text += line + "\n";
  }
  if (!resolvers_.empty()) resolv_conf_ = text;
}

Network::~Network() {
  if (netlink_ >= 0) {
    (void)run_nft("delete table inet proa_" + options_.instance + "\n").ok();
    close(netlink_);
  }
}

std::string Network::interface(std::uint32_t index) const { return "pv" + options_.instance + "x" + std::to_string(index); }

Result<void> Network::load_rules() {
  const std::string table = "inet proa_" + options_.instance;
  const std::string ours = "\"pv" + options_.instance + "x*\"";
  std::string allow;
  for (const std::string& resolver : resolvers_) {
    allow += "    ip daddr " + resolver + " udp dport 53 accept\n    ip daddr " + resolver + " tcp dport 53 accept\n";
  }
  for (const std::string& cidr : options_.allowed) allow += "    ip daddr " + cidr + " accept\n";
  const std::string script =
      "add table " + table + "\ndelete table " + table + "\ntable " + table + " {\n" +
      "  chain input {\n    type filter hook input priority -10; policy accept;\n" +
      "    iifname " + ours + " ct state established,related accept\n"  // Answers to what this machine asked.
      "    iifname " + ours + " reject with icmpx admin-prohibited\n  }\n" +
      "  chain forward {\n    type filter hook forward priority -10; policy accept;\n" +
      "    oifname " + ours + " ct state established,related accept\n" +
      "    oifname " + ours + " drop\n" +
      "    iifname " + ours + " jump outward\n  }\n" +
      "  chain outward {\n" +
      "    meta nfproto ipv6 drop\n" +
      "    oifname \"pv*\" reject with icmpx admin-prohibited\n" + allow +
      "    ip daddr { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/4, 240.0.0.0/4 } "
      "reject with icmpx admin-prohibited\n" +
      "    accept\n  }\n" +
      "  chain postrouting {\n    type nat hook postrouting priority 100; policy accept;\n" +
      "    ip saddr " + dotted(base_) + "/20 oifname != \"pv*\" masquerade\n  }\n}\n";
  return run_nft(script);
}

Result<std::uint32_t> Network::attach(std::uint32_t index, int pid) {
  if (index >= kNetworkSlotsMax) return resource_exhausted("no address is free: " + std::to_string(kNetworkSlotsMax) + " containers have one");
  const std::uint32_t host_address = htonl(base_ + 2 * index);
  const std::uint32_t inner_address = htonl(base_ + 2 * index + 1);
  const std::string name = interface(index);
  detach(index);  // A pair that its namespace has not taken with it yet.
  ifinfomsg info{};
  NetlinkRequest request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, info);
  request.add(IFLA_IFNAME, name);
  request.add(IFLA_MTU, mtu_);
  rtattr* link = request.begin(IFLA_LINKINFO);
  request.add(IFLA_INFO_KIND, std::string("veth"));
  rtattr* data = request.begin(IFLA_INFO_DATA);
  rtattr* peer = request.add_header(VETH_INFO_PEER, ifinfomsg{});
  request.add(IFLA_IFNAME, std::string("eth0"));
  request.add(IFLA_MTU, mtu_);
  request.add(IFLA_NET_NS_PID, static_cast<std::uint32_t>(pid));
  request.end(peer);
  request.end(data);
  request.end(link);
  PROA_TRY_VOID(request.send(netlink_, "veth"));
  const int host_index = static_cast<int>(if_nametoindex(name.c_str()));
  if (host_index == 0) return internal_error("the new interface " + name + " is not there");
  write_setting("/proc/sys/net/ipv4/conf/" + name + "/rp_filter", "1");
  write_setting("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6", "1");
  PROA_TRY_VOID(add_address(netlink_, host_index, host_address, 31));
  PROA_TRY_VOID(link_up(netlink_, host_index));
  PROA_TRY_VOID(inside(pid, [&]() -> Result<void> {
    PROA_TRY(const OwnedFd netlink, open_netlink());
    PROA_TRY_VOID(link_up(netlink.get(), 1));
    const int eth0 = static_cast<int>(if_nametoindex("eth0"));
    PROA_TRY_VOID(add_address(netlink.get(), eth0, inner_address, 31));
    PROA_TRY_VOID(link_up(netlink.get(), eth0));
    return add_default_route(netlink.get(), eth0, host_address);
  }));
  return inner_address;
}

void Network::detach(std::uint32_t index) {
  const int found = static_cast<int>(if_nametoindex(interface(index).c_str()));
  if (found == 0) return;
  ifinfomsg info{};
  info.ifi_index = found;
  (void)NetlinkRequest(RTM_DELLINK, 0, info).send(netlink_, "remove veth").ok();
}

Result<void> loopback_up(int pid) {
  return inside(pid, []() -> Result<void> {
    PROA_TRY(const OwnedFd netlink, open_netlink());
    return link_up(netlink.get(), 1);
  });
}

Result<int> listen_inside(int pid, std::uint16_t port) {
  int listener = -1;
  PROA_TRY_VOID(inside(pid, [&]() -> Result<void> {
    OwnedFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(fd.get(), 128) != 0) {
      return errno_error(errno, "cannot listen inside the container");
    }
    listener = fd.release();
    return {};
  }));
  return listener;
}

}  // namespace proa::launcher
