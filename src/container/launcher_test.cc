// SPDX-License-Identifier: Apache-2.0
//
// Real containers, as root: that they run what they are told to, end when they must, and hold. Walls are tried
// from inside, with the means that a program there has.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "container/layer_stream.h"
#include "container/test_machine.h"
#include "launcher/messages.h"
#include "launcher/protocol.h"

namespace proa::container {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LauncherTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (TestMachine::obstacle().empty()) machine_ = std::make_unique<TestMachine>();
  }
  static void TearDownTestSuite() { machine_.reset(); }
  void SetUp() override {
    if (!machine_) GTEST_SKIP() << TestMachine::obstacle();
  }
  static TestMachine& machine() { return *machine_; }
  static Slot prepared(SlotSpec spec = {.network = Network::kNone}) {
    auto slot = machine().wait_for(machine().runtime().prepare(spec));
    EXPECT_TRUE(slot.ok()) << slot.error().message;
    return slot.ok() ? std::move(*slot) : Slot();
  }
  static Result<void> start(const Slot& slot, TaskSpec task) { return machine().wait_for(machine().runtime().start(slot.id, std::move(task))); }
  static Result<Exit> wait(const Slot& slot) { return machine().wait_for(machine().runtime().wait(slot.id)); }
  static Result<void> remove(const Slot& slot) { return machine().wait_for(machine().runtime().remove(slot.id)); }

  static inline std::unique_ptr<TestMachine> machine_;
};

// --- What a program finds ---------------------------------------------------------------------------------

TEST_F(LauncherTest, RunsAProgramWithItsArgumentsVariablesAndPlace) {
  TaskSpec task = machine().task({"sh", "-c", "echo \"$1 $COLOUR\"; pwd; hostname; cat /__proa/note; id -u; id -g; echo oops >&2; exit 7", "sh", "hello"});
  task.env.push_back("COLOUR=green");
  task.working_directory = "/made/for/it";
  task.hostname = "somewhere";
  task.uid = 1000;
  task.gid = 1001;
  task.files = {{"note", "written before\n"}};
  const Outcome outcome = machine().run(task);
  EXPECT_EQ(outcome.out, "hello green\n/made/for/it\nsomewhere\nwritten before\n1000\n1001\n");
  EXPECT_EQ(outcome.err, "oops\n");
  EXPECT_EQ(outcome.exit, (Exit{7, false}));
}

TEST_F(LauncherTest, TellsASignalAsShellsDo) { EXPECT_EQ(machine().run(machine().shell("kill -SEGV $$")).exit.code, 128 + SIGSEGV); }

TEST_F(LauncherTest, HasAnInputThatIsEmptyAndNoOtherDescriptors) {
  EXPECT_EQ(machine().run(machine().python("import os, sys; print(repr(sys.stdin.read()), sorted(os.listdir('/proc/self/fd')))")).out, "'' ['0', '1', '2', '3']\n");
}

TEST_F(LauncherTest, ReapsOrphansThatTheProgramLeaves) {
  const Outcome outcome = machine().run(machine().python(
      "import os, time\n"
      "for _ in range(5):\n"
      "  if os.fork() == 0:\n"
      "    if os.fork() == 0: time.sleep(0.05); os._exit(0)\n"
      "    os._exit(0)\n"
      "  os.wait()\n"
      "time.sleep(0.5)\n"
      "print(sum(1 for p in os.listdir('/proc') if p.isdigit()))"));
  EXPECT_EQ(outcome.out, "2\n");
}

TEST_F(LauncherTest, SaysWhatIsWrongWithAProgramThatIsNotThere) {
  const Slot slot = prepared();
  const auto started = start(slot, machine().task({"no-such-program"}));
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, Code::kInvalidArgument);
  EXPECT_NE(started.error().message.find("no-such-program"), std::string::npos) << started.error().message;
  EXPECT_TRUE(remove(slot).ok());
}

TEST_F(LauncherTest, SaysWhichTreeIsMissing) {
  const Slot slot = prepared();
  TaskSpec task = machine().task({"/bin/true"});
  task.trees = {sha256("nobody has put this")};
  const auto started = start(slot, task);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, Code::kNotFound);
  EXPECT_NE(started.error().message.find(task.trees[0].hex()), std::string::npos);
  EXPECT_TRUE(remove(slot).ok());
}

TEST_F(LauncherTest, ServesOneTaskASlot) {
  const Slot slot = prepared();
  ASSERT_TRUE(start(slot, machine().shell("sleep 100")).ok());
  const auto again = start(slot, machine().task({"/bin/true"}));
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, Code::kFailedPrecondition);
  EXPECT_TRUE(remove(slot).ok());
  EXPECT_TRUE(remove(slot).ok());  // Any number of times.
  EXPECT_EQ(wait(slot).error().code, Code::kNotFound);
}

TEST_F(LauncherTest, LaysTreesOverOneAnother) {
  const auto tree_of = [&](const std::string& text) {
    const Digest content = machine().objects().put_bytes(text).value();
    const auto file = [&](std::string path) { return cas::TreeEntry{.path = std::move(path), .kind = cas::EntryKind::kFile, .mode = 0644, .size_bytes = text.size(), .content = content}; };
    return machine().objects().put_tree(cas::make_tree({file("opt/both"), file("opt/" + text)}).value()).value();
  };
  TaskSpec task = machine().shell("cat /opt/both /opt/one /opt/two; echo changed > /opt/both; cat /opt/both; ls /usr/bin/env");
  task.trees = {machine().rootfs(), tree_of("one"), tree_of("two")};
  EXPECT_EQ(machine().run(task).out, "twoonetwochanged\n/usr/bin/env\n");
}

TEST_F(LauncherTest, StopsAtTheAskedSignalOrWithForce) {
  const Slot polite = prepared();
  ASSERT_TRUE(start(polite, machine().python("import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *a: sys.exit(5))\nprint('on', flush=True)\ntime.sleep(100)")).ok());
  char on[3];
  ASSERT_EQ(read(polite.stdout_pipe.get(), on, 3), 3);
  EXPECT_TRUE(machine().wait_for(machine().runtime().stop(polite.id, seconds(10))).ok());
  EXPECT_EQ(wait(polite)->code, 5);
  EXPECT_TRUE(remove(polite).ok());

  const Slot stubborn = prepared();
  ASSERT_TRUE(start(stubborn, machine().shell("trap '' INT; echo on; while :; do sleep 1; done")).ok());
  ASSERT_EQ(read(stubborn.stdout_pipe.get(), on, 3), 3);
  EXPECT_TRUE(machine().wait_for(machine().runtime().stop(stubborn.id, milliseconds(100))).ok());
  EXPECT_EQ(wait(stubborn)->code, 128 + SIGKILL);
  EXPECT_TRUE(remove(stubborn).ok());
}

TEST_F(LauncherTest, TakesConnectionsOfItsProgramOnTheApiSocketAndTheBlobPort) {
  const Slot slot = prepared();
  ASSERT_TRUE(start(slot, machine().python("import socket\n"
                                           "s = socket.socket(socket.AF_UNIX); s.connect('/__proa/api.sock'); s.send(b'api')\n"
                                           "t = socket.create_connection(('127.0.0.1', 7180)); t.send(b'blob')\n")).ok());
  for (const auto& [listener, expected] : {std::pair(slot.api_listener.get(), "api"), std::pair(slot.blob_listener.get(), "blob")}) {
    const OwnedFd connection(accept(listener, nullptr, nullptr));
    char text[8] = {};
    EXPECT_GT(recv(connection.get(), text, sizeof text - 1, 0), 0);
    EXPECT_STREQ(text, expected);
  }
  EXPECT_EQ(wait(slot)->code, 0);
  EXPECT_TRUE(remove(slot).ok());
}

// --- Walls ------------------------------------------------------------------------------------------------

TEST_F(LauncherTest, DeniesCallsThatLeadOutOrDeepIntoTheKernel) {
  // Numbers of x86-64: Python has no names for them.
  const Outcome outcome = machine().run(machine().python(R"(
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(mount=165, umount2=166, pivot_root=155, swapon=167, swapoff=168, reboot=169, sethostname=170, setdomainname=171, iopl=172, ioperm=173,
  init_module=175, delete_module=176, finit_module=313, kexec_load=246, kexec_file_load=320, keyctl=250, add_key=248, request_key=249, bpf=321,
  perf_event_open=298, userfaultfd=323, io_uring_setup=425, io_uring_enter=426, io_uring_register=427, unshare=272, setns=308, open_by_handle_at=304,
  fsopen=430, fsconfig=431, fsmount=432, fspick=433, open_tree=428, move_mount=429, mount_setattr=442, quotactl=179, acct=163, settimeofday=164,
  clock_settime=227, clock_adjtime=305, adjtimex=159, syslog=103, lookup_dcookie=212, fanotify_init=300, vhangup=153, nfsservctl=180, kcmp=312,
  move_pages=279, migrate_pages=256, clone3=435, quotactl_fd=443, vserver=236, uselib=134, sysfs=139, pidfd_getfd=438)
allowed = []
for name, number in calls.items():
  ctypes.set_errno(0)
  if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS): allowed.append((name, ctypes.get_errno()))
for flag in (0x20000, 0x10000000, 0x20000000, 0x40000000, 0x4000000, 0x8000000, 0x2000000):
  if libc.syscall(56, flag | 17, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM: allowed.append(('clone', hex(flag)))
import socket
for family in (17, 38, 40, 16 + 100):  # packet, alg, vsock, and one that is not
  try: socket.socket(family, socket.SOCK_RAW); allowed.append(('socket', family))
  except OSError as e:
    if e.errno not in (errno.EPERM, errno.EAFNOSUPPORT): allowed.append(('socket', family, e))
for family in (socket.AF_INET, socket.AF_INET6):
  try: socket.socket(family, socket.SOCK_RAW, 1); allowed.append('raw')
  except OSError: pass
import os, stat
try: os.mknod('/tmp/disk', stat.S_IFBLK | 0o600, os.makedev(8, 0)); allowed.append('mknod')
except OSError: pass
print(allowed)
)"));
  EXPECT_EQ(outcome.out, "[]\n") << outcome.err;
}

TEST_F(LauncherTest, HasTheUsualCapabilitiesLessRawSocketsAndDevices) {
  const Outcome outcome = machine().run(machine().shell("grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; grep -E '^Cap(Prm|Eff)' /proc/1/status"));
  // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT AUDIT_WRITE SETFCAP.
  EXPECT_EQ(outcome.out,
            "CapPrm:\t00000000a00405fb\nCapEff:\t00000000a00405fb\nCapBnd:\t00000000a00405fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
            "CapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n");
}

TEST_F(LauncherTest, MasksWhatTellsOfTheMachineAndProtectsWhatWouldChangeIt) {
  const Outcome outcome = machine().run(machine().python(R"(
import os
bad = []
for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/sched_debug', '/proc/latency_stats', '/proc/kmsg', '/proc/kallsyms', '/proc/interrupts'):
  if os.path.exists(path):
    try:
      if open(path, 'rb').read(1): bad.append(path)
    except OSError: pass
for path in ('/proc/acpi', '/proc/scsi', '/proc/asound', '/sys/firmware', '/sys/kernel', '/sys/fs', '/sys/devices/virtual/powercap'):
  if os.path.exists(path) and os.listdir(path): bad.append(path)
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/vm/swappiness', '/proc/sys/net/ipv4/ip_forward', '/proc/irq/default_smp_affinity', '/sys/power/state', '/__proa/new'):
  try: open(path, 'w').write('1'); bad.append(path)
  except OSError: pass
try: open('/proc/sysrq-trigger', 'w').write('h')  # Goes to /dev/null, or nowhere.
except OSError: pass
for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/maps'):
  try: open(path, 'rb').read(1); bad.append(path)
  except OSError: pass
try: os.listdir('/proc/1/fd'); bad.append('/proc/1/fd')
except OSError: pass
bad += [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())]
bad += [d for d in os.listdir('/dev') if d not in 'null zero full random urandom tty pts ptmx shm fd stdin stdout stderr'.split()]
bad += [line for line in open('/proc/self/cgroup') if line.split(':')[2].strip() not in ('/', '') and 'name=' not in line and not line.startswith('0:')]
os.setgroups([]); os.chroot('/')  # Allowed.
print(bad)
)"));
  EXPECT_EQ(outcome.out, "[]\n") << outcome.err;
}

TEST_F(LauncherTest, MapsItsRootToNobodyOfTheMachine) {
  const Slot slot = prepared();
  ASSERT_TRUE(start(slot, machine().shell("touch /made-inside; stat -c %u:%g /made-inside /etc/passwd; sleep 100")).ok());
  char text[9] = {};
  ASSERT_EQ(read(slot.stdout_pipe.get(), text, 8), 8);
  EXPECT_STREQ(text, "0:0\n0:0\n");
  bool seen = false;
  for (const auto& entry : std::filesystem::directory_iterator(machine().directory() + "/launcher/slots")) {
    struct stat about {};
    if (stat((entry.path() / "u/made-inside").c_str(), &about) != 0) continue;
    seen = true;
    EXPECT_GE(about.st_uid, 1'000'000'000U);
  }
  EXPECT_TRUE(seen);
  EXPECT_TRUE(remove(slot).ok());
}

// --- Limits -----------------------------------------------------------------------------------------------

bool has_cgroups(TestMachine& machine) { return machine.wait_for(machine.runtime().hello())->cgroups != 0; }

TEST_F(LauncherTest, EndsWhatTakesMoreMemoryThanItMayAndSaysSo) {
  if (!has_cgroups(machine())) GTEST_SKIP() << "this machine has no cgroups";
  const Outcome outcome = machine().run(machine().python("b = bytearray(400 << 20)\nprint('there')"), {.limits = {.memory_bytes_max = 64 << 20}, .network = Network::kNone});
  EXPECT_EQ(outcome.exit, (Exit{128 + SIGKILL, true}));
  EXPECT_EQ(outcome.out, "");
}

TEST_F(LauncherTest, HoldsTheNumberOfProcesses) {
  if (!has_cgroups(machine())) GTEST_SKIP() << "this machine has no cgroups";
  const Outcome outcome = machine().run(machine().python("import os, time\n"
                                                         "n = 0\n"
                                                         "try:\n"
                                                         "  while n < 100:\n"
                                                         "    if os.fork() == 0: time.sleep(60)\n"
                                                         "    n += 1\n"
                                                         "except BlockingIOError: print(n)"),
                                        {.limits = {.pids_max = 20}, .network = Network::kNone});
  EXPECT_EQ(outcome.out, "18\n");  // Process 1 and the program are the other two.
}

TEST_F(LauncherTest, HoldsTheShareOfAProcessorAndCountsIt) {
  if (!has_cgroups(machine())) GTEST_SKIP() << "this machine has no cgroups";
  const Slot slot = prepared({.limits = {.cpu_milli_max = 200}, .network = Network::kNone});
  ASSERT_TRUE(start(slot, machine().python("import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nprint(time.process_time())")).ok());
  EXPECT_EQ(wait(slot)->code, 0);
  EXPECT_LT(std::stod(machine().read_all(slot.stdout_pipe)), 0.8);  // 0.4 and what a period may go over.
  const auto usage = machine().wait_for(machine().runtime().usage(slot.id));
  ASSERT_TRUE(usage.ok());
  EXPECT_GT(usage->cpu_micros, 100'000);
  EXPECT_GT(usage->memory_bytes_peak, 1 << 20);
  EXPECT_TRUE(remove(slot).ok());
}

// --- The network ------------------------------------------------------------------------------------------

// Tries to connect to each "address port" within a second, and says which way it went.
constexpr const char* kProbe = R"(
import socket, sys
for target in sys.argv[1:]:
  host, port = target.rsplit(':', 1)
  s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET); s.settimeout(1)
  try: s.connect((host, int(port))); print('REACHED', target)
  except OSError as e: print('refused' if isinstance(e, ConnectionRefusedError) else 'shut', target)
)";

std::vector<std::string> host_addresses() {
  std::vector<std::string> out;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return out;
  for (const ifaddrs* each = all; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != AF_INET || (each->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(each->ifa_addr)->sin_addr, text, sizeof text);
    out.emplace_back(text);
  }
  freeifaddrs(all);
  return out;
}

bool has_network(TestMachine& machine) { return machine.wait_for(machine.runtime().hello())->network; }

TEST_F(LauncherTest, ReachesNeitherTheMachineNorOtherContainersNorPrivateNetworks) {
  if (!has_network(machine())) GTEST_SKIP() << "this machine gives containers no network";
  // A server of the machine's, on all of its addresses.
  const OwnedFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 16), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = ":" + std::to_string(ntohs(address.sin_port));

  const Slot other = prepared({});
  ASSERT_TRUE(start(other, machine().python("import socket\ns = socket.create_server(('0.0.0.0', 8000))\nprint('on', flush=True)\nwhile True: s.accept()")).ok());
  char on[3];
  ASSERT_EQ(read(other.stdout_pipe.get(), on, 3), 3);

  std::vector<std::string> targets{"127.0.0.1" + port, "169.254.169.254:80", "10.0.0.1:80", "172.16.0.1:80", "192.168.0.1:80", "100.64.0.1:80", other.address + ":8000"};
  // The machine's ends of both pairs are among its addresses.
  for (const std::string& each : host_addresses()) targets.push_back(each + port);
  TaskSpec task = machine().python(kProbe);
  task.argv.insert(task.argv.end(), targets.begin(), targets.end());
  const Outcome outcome = machine().run(task, {});
  EXPECT_EQ(outcome.exit.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find("REACHED"), std::string::npos) << outcome.out;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), static_cast<std::ptrdiff_t>(targets.size()));

  // While the machine reaches a container, and nothing else of it answers for it: the probe above was no fluke.
  const OwnedFd to_container(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in container{};
  container.sin_family = AF_INET;
  container.sin_port = htons(8000);
  inet_pton(AF_INET, other.address.c_str(), &container.sin_addr);
  EXPECT_EQ(connect(to_container.get(), reinterpret_cast<const sockaddr*>(&container), sizeof container), 0) << strerror(errno);
  EXPECT_TRUE(remove(other).ok());
}

TEST_F(LauncherTest, ReachesTheInternet) {
  if (!has_network(machine())) GTEST_SKIP() << "this machine gives containers no network";
  addrinfo* found = nullptr;
  const char* host = "deb.debian.org";
  if (getaddrinfo(host, "80", nullptr, &found) != 0) GTEST_SKIP() << "this machine does not resolve " << host;
  const OwnedFd direct(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience{.tv_sec = 5, .tv_usec = 0};
  setsockopt(direct.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const bool reachable = connect(direct.get(), found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  const Outcome resolved = machine().run(machine().python(std::string("import socket; print(len(socket.getaddrinfo('") + host + "', 80, socket.AF_INET)) > 0)"), {});
  EXPECT_EQ(resolved.out, "True\n") << resolved.err;
  if (!reachable) GTEST_SKIP() << "this machine does not reach " << host << " itself";
  const Outcome fetched = machine().run(
      machine().python(std::string("import urllib.request; print(urllib.request.urlopen('http://") + host + "/debian/dists/bookworm/Release', timeout=20).status)"), {});
  EXPECT_EQ(fetched.out, "200\n") << fetched.err;
}

TEST_F(LauncherTest, HasNothingButLoopbackWithoutANetwork) {
  const Slot slot = prepared();
  EXPECT_EQ(slot.address, "");
  ASSERT_TRUE(start(slot, machine().python("import socket; print([n for _, n in socket.if_nameindex()])")).ok());
  EXPECT_EQ(machine().read_all(slot.stdout_pipe), "['lo']\n");
  EXPECT_TRUE(remove(slot).ok());
}

TEST_F(LauncherTest, CannotBorrowAnAddress) {
  if (!has_network(machine())) GTEST_SKIP() << "this machine gives containers no network";
  // Neither change its own nor send as another: that takes rights which it does not have.
  const Outcome outcome = machine().run(machine().python(R"(
import socket, fcntl, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try: fcntl.ioctl(s, 0x8916, struct.pack('16sH2s4s8s', b'eth0', socket.AF_INET, b'', socket.inet_aton('100.96.9.9'), b'')); print('changed')
except OSError as e: print(e.errno)
try: s.setsockopt(socket.IPPROTO_IP, 19, 1); print('transparent')
except OSError as e: print(e.errno)
)"), {});
  EXPECT_EQ(outcome.out, "1\n1\n") << outcome.err;
}

// --- What it wrote ----------------------------------------------------------------------------------------

TEST_F(LauncherTest, ExportsWhatAContainerWroteSoThatItsTreeCanBeMadeAgain) {
  const auto text_file = [&](std::string path, const std::string& text) {
    return cas::TreeEntry{.path = std::move(path), .kind = cas::EntryKind::kFile, .mode = 0644, .size_bytes = text.size(), .content = machine().objects().put_bytes(text).value()};
  };
  const Digest extra =
      machine().objects().put_tree(cas::make_tree({text_file("data/keep", "keep"), text_file("data/mode", "mode"), text_file("data/gone", "gone"), text_file("data/sub/deep", "deep"),
                                                   text_file("data/sub/other", "other"), text_file("data/old/file", "file"), text_file("replaced/x", "x")})
                                       .value())
          .value();
  TaskSpec task = machine().shell(
      "set -e; cd /data; echo new > fresh; chmod 600 mode; rm gone; mv sub moved; chmod 755 moved/deep; rm moved/other; rm -r old; mkdir old; echo y > old/new\n"
      "rm -r /replaced; echo file > /replaced; ln -s fresh link; mkfifo pipe; chown 12:34 keep; mv mode renamed");
  task.trees = {machine().rootfs(), extra};
  const Slot slot = prepared();
  ASSERT_TRUE(start(slot, task).ok());
  EXPECT_EQ(wait(slot)->code, 0) << machine().read_all(slot.stderr_pipe);
  auto stream = machine().wait_for(machine().runtime().export_upper(slot.id));
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  const cas::Tree lower = cas::overlay(machine().objects().get_tree(machine().rootfs()).value(), machine().objects().get_tree(extra).value()).value();
  const auto layer = read_layer(stream->get(), lower, machine().objects(), {});
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_TRUE(remove(slot).ok());
  const cas::Tree result = cas::overlay(lower, *layer).value();
  const auto text_at = [&](const std::string& path) -> std::string {
    const cas::TreeEntry* entry = cas::find(result, path);
    if (entry == nullptr) return "(missing)";
    return entry->size_bytes == 0 ? "" : machine().objects().read(entry->content, 1 << 20).value();
  };
  EXPECT_EQ(text_at("data/fresh"), "new\n");
  EXPECT_EQ(text_at("data/keep"), "keep");
  EXPECT_EQ(cas::find(result, "data/keep")->uid, 12U);
  EXPECT_EQ(cas::find(result, "data/keep")->gid, 34U);
  EXPECT_EQ(text_at("data/mode"), "(missing)");
  EXPECT_EQ(text_at("data/renamed"), "mode");
  EXPECT_EQ(cas::find(result, "data/renamed")->mode, 0600U);
  EXPECT_EQ(text_at("data/gone"), "(missing)");
  EXPECT_EQ(text_at("data/sub/deep"), "(missing)");
  EXPECT_EQ(text_at("data/moved/deep"), "deep");
  EXPECT_EQ(cas::find(result, "data/moved/deep")->mode, 0755U);
  EXPECT_EQ(text_at("data/moved/other"), "(missing)");
  EXPECT_EQ(text_at("data/old/file"), "(missing)");
  EXPECT_EQ(text_at("data/old/new"), "y\n");
  EXPECT_EQ(text_at("replaced"), "file\n");
  EXPECT_EQ(cas::find(result, "data/link")->target, "fresh");
  EXPECT_EQ(cas::find(result, "data/pipe")->kind, cas::EntryKind::kFifo);
  // Nothing of what every container is given.
  for (const char* path : {"__proa", "etc/hosts", "etc/resolv.conf", "proc", "dev", "sys"}) EXPECT_EQ(cas::find(*layer, path), nullptr) << path;
}

TEST_F(LauncherTest, ExportsChangesBelowWhatWasMoved) {
  TaskSpec task = machine().shell("set -e; mv /usr/share/doc /docs; rm -r /docs/bash; mkdir /docs/bash; echo mine > /docs/bash/note; rm -r /docs/dash; mv /docs/sed /docs/moved-again");
  const Slot slot = prepared();
  ASSERT_TRUE(start(slot, task).ok());
  ASSERT_EQ(wait(slot)->code, 0) << machine().read_all(slot.stderr_pipe);
  auto stream = machine().wait_for(machine().runtime().export_upper(slot.id));
  ASSERT_TRUE(stream.ok());
  const cas::Tree lower = machine().objects().get_tree(machine().rootfs()).value();
  const auto layer = read_layer(stream->get(), lower, machine().objects(), {});
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_TRUE(remove(slot).ok());
  const cas::Tree result = cas::overlay(lower, *layer).value();
  EXPECT_EQ(cas::find(result, "usr/share/doc"), nullptr);
  EXPECT_NE(cas::find(result, "docs/coreutils/copyright"), nullptr);
  EXPECT_NE(cas::find(result, "docs/bash/note"), nullptr);
  EXPECT_EQ(cas::find(result, "docs/bash/copyright"), nullptr);
  EXPECT_EQ(cas::find(result, "docs/dash"), nullptr);
  EXPECT_EQ(cas::find(result, "docs/sed"), nullptr);
  EXPECT_NE(cas::find(result, "docs/moved-again/copyright"), nullptr);
}

// --- Size and speed ---------------------------------------------------------------------------------------

TEST_F(LauncherTest, StartsFromATreeOfAnySizeAsFastAsFromASmallOne) {
  std::vector<cas::TreeEntry> entries;
  for (int i = 0; i < 50'000; ++i) {
    entries.push_back({.path = "opt/big/" + std::to_string(i % 200) + "/" + std::to_string(i), .kind = cas::EntryKind::kFile, .mode = 0644, .size_bytes = 20'000, .content = sha256(std::to_string(i))});
  }
  const Digest big = machine().objects().put_tree(cas::make_tree(std::move(entries)).value()).value();
  const Digest small = machine().objects().put_tree(cas::make_tree({{.path = "opt/small", .kind = cas::EntryKind::kDirectory, .mode = 0755}}).value()).value();
  std::vector<double> times[2];
  for (int round = 0; round < 12; ++round) {
    for (const int which : {0, 1}) {
      const Slot slot = prepared();
      TaskSpec task = machine().task({"/bin/true"});
      task.trees = {machine().rootfs(), which == 0 ? small : big};
      const auto begin = std::chrono::steady_clock::now();
      ASSERT_TRUE(start(slot, task).ok());
      if (round > 0) times[which].push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
      EXPECT_EQ(wait(slot)->code, 0);
      EXPECT_TRUE(remove(slot).ok());
    }
  }
  for (auto& each : times) std::sort(each.begin(), each.end());
  std::printf("start: %.1f ms with 1 file, %.1f ms with 50,000 (1 GB)\n", times[0][5], times[1][5]);
  EXPECT_LT(times[1][5], 1.5 * times[0][5] + 5);  // The machine may be busy with something else.
}

// Figures for people: --gtest_also_run_disabled_tests --gtest_filter='*TimesOfStarting'.
TEST_F(LauncherTest, DISABLED_TimesOfStarting) {
  using Clock = std::chrono::steady_clock;
  const auto millis = [](Clock::time_point from) { return std::chrono::duration<double, std::milli>(Clock::now() - from).count(); };
  const auto median = [](std::vector<double> times) {
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  };
  struct Program {
    const char* name;
    std::vector<std::string> argv;
  };
  for (const Program& program : {Program{"true", {"/bin/true"}}, Program{"python3 -c pass", {"/usr/bin/python3", "-I", "-c", "pass"}}}) {
    std::vector<double> prepare, until_exec, run, removal, plain;
    for (int round = 0; round < 40; ++round) {
      auto begin = Clock::now();
      const Slot slot = prepared({});
      prepare.push_back(millis(begin));
      begin = Clock::now();
      ASSERT_TRUE(start(slot, machine().task(program.argv)).ok());
      until_exec.push_back(millis(begin));
      EXPECT_EQ(wait(slot)->code, 0);
      run.push_back(millis(begin));
      begin = Clock::now();
      EXPECT_TRUE(remove(slot).ok());
      removal.push_back(millis(begin));
      begin = Clock::now();
      const pid_t pid = vfork();
      if (pid == 0) {
        execl(program.argv[0].c_str(), program.argv[0].c_str(), program.argv.size() > 1 ? "-I" : nullptr, "-c", "pass", nullptr);
        _exit(127);
      }
      waitpid(pid, nullptr, 0);
      plain.push_back(millis(begin));
    }
    std::printf("%s: prepare %.1f ms, start until exec %.1f ms, start until ended %.1f ms, remove %.1f ms; plain spawn until ended %.1f ms\n", program.name, median(prepare), median(until_exec),
                median(run), median(removal), median(plain));
  }
}

// --- How it all ends --------------------------------------------------------------------------------------

// Whether a process of the machine has `word` among its arguments.
bool somebody_runs(const std::string& word) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    std::stringstream text;
    text << file.rdbuf();
    if (text.str().find(word) != std::string::npos && entry.path().filename() != std::to_string(getpid())) return true;
  }
  return false;
}

std::vector<std::string> leftovers() {
  std::vector<std::string> out;
  std::error_code ignored;
  for (const char* hierarchy : {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"}) {
    for (const auto& entry : std::filesystem::directory_iterator(hierarchy, ignored)) {
      if (entry.path().filename().string().starts_with("proa-")) out.push_back(entry.path());
    }
  }
  if (struct if_nameindex* all = ::if_nameindex(); all != nullptr) {
    for (const struct if_nameindex* each = all; each->if_index != 0; ++each) {
      if (std::string_view(each->if_name).starts_with("pv")) out.emplace_back(each->if_name);
    }
    if_freenameindex(all);
  }
  return out;
}

class LauncherEndTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestMachine::obstacle().empty()) GTEST_SKIP() << TestMachine::obstacle();
    before_ = leftovers();
    machine_ = std::make_unique<TestMachine>();
    slot_ = machine_->wait_for(machine_->runtime().prepare({.network = has_network(*machine_) ? Network::kInternet : Network::kNone})).value();
    ASSERT_TRUE(machine_->wait_for(machine_->runtime().start(slot_.id, machine_->shell("exec sleep " + marker_))).ok());
    ASSERT_TRUE(somebody_runs(marker_));
  }
  // What is there now and was not before; others may use the machine too.
  std::vector<std::string> left() const {
    std::vector<std::string> now = leftovers();
    std::erase_if(now, [&](const std::string& each) { return std::find(before_.begin(), before_.end(), each) != before_.end(); });
    return now;
  }

  std::string marker_ = "98765" + std::to_string(getpid());
  std::vector<std::string> before_;
  std::unique_ptr<TestMachine> machine_;
  Slot slot_;
};

TEST_F(LauncherEndTest, ContainersEndWithTheLauncherAndTheNextOneCleansUp) {
  machine_->kill_launcher();
  machine_->turn_until([&] { return machine_->lost() && !somebody_runs(marker_); }, seconds(10));
  EXPECT_FALSE(somebody_runs(marker_));
  EXPECT_TRUE(machine_->lost());
  EXPECT_EQ(machine_->wait_for(machine_->runtime().wait(slot_.id)).error().code, Code::kUnavailable);
  EXPECT_EQ(machine_->wait_for(machine_->runtime().prepare({})).error().code, Code::kUnavailable);
  slot_ = Slot();
  machine_->start_launcher();
  ASSERT_TRUE(machine_->wait_for(machine_->runtime().hello()).ok());
  EXPECT_TRUE(std::filesystem::is_empty(machine_->directory() + "/launcher/slots"));
  EXPECT_EQ(machine_->run(machine_->shell("exit 3")).exit.code, 3);
  machine_->close_socket();
  machine_->turn_until([&] { return left().empty(); }, seconds(5));
  EXPECT_EQ(left(), std::vector<std::string>());
}

TEST_F(LauncherEndTest, ContainersEndWhenTheWorkerIsGone) {
  machine_->close_socket();  // And waits for the launcher.
  EXPECT_FALSE(somebody_runs(marker_));
  machine_->turn_until([&] { return left().empty(); }, seconds(5));
  EXPECT_EQ(left(), std::vector<std::string>());
}

TEST_F(LauncherEndTest, ContainersEndWithATermSignalToTheLauncher) {
  kill(machine_->launcher(), SIGTERM);
  machine_->turn_until([&] { return machine_->lost(); }, seconds(10));
  EXPECT_TRUE(machine_->lost());
  machine_->close_socket();
  EXPECT_FALSE(somebody_runs(marker_));
  machine_->turn_until([&] { return left().empty(); }, seconds(5));
  EXPECT_EQ(left(), std::vector<std::string>());
}

// --- A worker that is not what it should be ---------------------------------------------------------------

TEST_F(LauncherEndTest, RefusesNonsenseAndGoesOn) {
  const int socket = machine_->raw_socket();
  const std::string garbage(3000, '\xff');
  for (const std::size_t size : {std::size_t{1}, std::size_t{7}, sizeof(launcher::Request) - 1, sizeof(launcher::Request) + 1, garbage.size()}) {
    ASSERT_TRUE(launcher::send_with_fds(socket, garbage.data(), size, nullptr, 0));
  }
  const int some[4] = {0, 1, 2, 0};
  for (std::uint32_t op = 0; op < 12; ++op) {
    launcher::Request request;
    request.op = static_cast<launcher::Op>(op == 2 ? 99 : op);  // Not kPrepare: nobody would remove the slot.
    request.id = 1'000'000 + op;
    request.slot = ~0ULL - op;
    request.signal = -5;
    request.cpu_milli_max = request.memory_bytes_max = -1;
    ASSERT_TRUE(launcher::send_with_fds(socket, &request, sizeof request, some, op % 5));
  }
  // A task that is no sealed memfd.
  launcher::Request start;
  start.op = launcher::Op::kStart;
  start.slot = slot_.id;
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(launcher::send_with_fds(socket, &start, sizeof start, &null, 1));
  close(null);
  EXPECT_TRUE(machine_->wait_for(machine_->runtime().hello()).ok());
  EXPECT_EQ(machine_->run(machine_->shell("exit 4")).exit.code, 4);
}

TEST_F(LauncherEndTest, RefusesTasksOutOfBounds) {
  const auto refused = [&](const std::function<void(TaskSpec&)>& change) {
    const Slot slot = machine_->wait_for(machine_->runtime().prepare({.network = Network::kNone})).value();
    TaskSpec task = machine_->task({"/bin/true"});
    change(task);
    const auto started = machine_->wait_for(machine_->runtime().start(slot.id, task));
    EXPECT_TRUE(machine_->wait_for(machine_->runtime().remove(slot.id)).ok());
    return !started.ok() && started.error().code == Code::kInvalidArgument;
  };
  EXPECT_FALSE(refused([](TaskSpec&) {}));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.trees.clear(); }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.trees.resize(200, task.trees[0]); }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.argv.clear(); }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.env.emplace_back("A=b\0c", 5); }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.working_directory = "relative"; }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.uid = 65'536; }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.files = {{"../escape", "x"}}; }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.files = {{"api.sock", "x"}}; }));
  EXPECT_TRUE(refused([](TaskSpec& task) { task.hostname = std::string(64, 'h'); }));
}

}  // namespace
}  // namespace proa::container
