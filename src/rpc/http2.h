// SPDX-License-Identifier: Apache-2.0
//
// What both ends of gRPC share: HTTP/2 by nghttp2 on one non-blocking socket, gRPC's messages in its streams, and
// gRPC's way to write fields. For this room's .cc files only.
//
// All of it is on one loop. A Connection gathers what its streams have to say and writes it once in a turn of the
// loop. What arrives is turned into events of streams, which are told when nghttp2 is not at work, so that whoever is
// resumed by them may do anything, even end the connection.
//
// Flow control: the peer may send kWindow bytes on a stream before anybody reads. Whoever reads a big message gets
// kWideWindow for it. What nobody has asked for is held, and not given back to the peer's windows.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"
#include "rpc/wire.h"
#include "rt/real_loop.h"

namespace proa::rpc::http2 {

using Fields = std::vector<std::pair<std::string, std::string>>;

// --- How gRPC writes what is in fields (PROTOCOL-HTTP2.md of gRPC). DO NOT CHANGE.

std::string encode_status_message(std::string_view text);  // "grpc-message"
std::string decode_status_message(std::string_view text);
std::string encode_timeout(Duration duration);  // "grpc-timeout"
Result<Duration> decode_timeout(std::string_view text);
bool is_binary(std::string_view name);  // "…-bin", whose values are base64 on the wire.
std::string encode_binary(BytesView value);
Result<Bytes> decode_binary(std::string_view text);
// Belongs to the connection or to gRPC itself, and is not a caller's metadata.
bool is_protocol_field(std::string_view name);

// A field for nghttp2. `constant` text lives as long as the process and is not copied.
nghttp2_nv constant_field(std::string_view name, std::string_view value);
nghttp2_nv field(std::string_view name, std::string_view value);

class Connection;
class Deadlines;

// One call on a connection, seen from either end.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  static constexpr std::size_t kWindow = 65'535;  // HTTP/2's own: streams begin with it unless told otherwise.
  static constexpr std::int32_t kWideWindow = 4 << 20;
  // A writer goes on while less than this waits for the peer.
  static constexpr std::size_t kWriteAhead = 64 << 10;

  enum Event : unsigned { kBegun = 1, kReadable = 2, kWritten = 4, kClosed = 8, kLate = 16 };
  enum class Fault : std::uint8_t { kNone, kTooBig, kCompressed };

  explicit Stream(std::size_t message_bytes_max) : message_bytes_max_(message_bytes_max) {}
  virtual ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  std::int32_t id() const { return id_; }
  // Null once nghttp2 has forgotten the stream.
  Connection* connection() const { return connection_; }

  // --- What the peer sends
  // Takes what has come, and from now on what comes, until there is a message. True if there is one, or a fault, or
  // the peer has sent all; otherwise kReadable says when.
  bool want();
  void stop_wanting() { wanted_ = false; }
  bool ready() const { return has_message_ || fault_ != Fault::kNone || at_end(); }
  bool has_message() const { return has_message_; }
  Bytes take_message();
  Fault fault() const { return fault_; }
  std::uint32_t message_size() const { return message_size_; }
  bool at_end() const { return remote_done_ && !has_message_ && held_at_ == held_.size(); }
  bool remote_done() const { return remote_done_; }
  bool cut_short() const { return prefix_have_ != 0; }  // At the end: within a message.
  // Drops what is there and what comes.
  void discard();

  // --- What we send
  void enqueue(Bytes message);
  void end_writing();  // After what was enqueued: the end, with trailers if there are any.
  std::size_t queued() const { return queued_; }

  // What nghttp2 reads from, when it is to send what was enqueued.
  nghttp2_data_provider source();

  void set_deadline(Deadlines& deadlines, Time time);
  void clear_deadline();

 protected:
  friend class Connection;
  friend class Deadlines;
  friend struct Callbacks;

  // Within nghttp2: these only take note.
  virtual void on_field(std::string_view name, std::string_view value) = 0;
  virtual void on_fields_end() = 0;
  // Trailers to go out now, at the end of what was written; false: there are none.
  virtual bool submit_trailers() { return false; }
  // On the loop and outside of nghttp2. `events` are bits of Event.
  virtual void on_events(unsigned events) = 0;

  void notify(unsigned events);
  nghttp2_session* session() const;
  std::uint32_t close_code() const { return close_code_; }  // HTTP/2's, once kClosed came.
  bool lost() const { return lost_; }                       // Closed because its connection was.
  const std::string& why_lost() const { return why_lost_; }

 private:
  void feed(std::string_view chunk);
  void end_of_input();
  void closed(std::uint32_t code);
  std::size_t parse(std::string_view bytes);
  void consume(std::size_t bytes);
  void drain_into(Bytes& out, std::size_t bytes);

  const std::size_t message_bytes_max_;
  Connection* connection_ = nullptr;
  std::int32_t id_ = 0;
  unsigned events_ = 0;

  Bytes held_;  // Came, and nobody has asked for it.
  std::size_t held_at_ = 0;
  std::size_t unconsumed_ = 0;
  Bytes message_;
  std::uint32_t message_size_ = 0;
  std::uint8_t prefix_have_ = 0;
  unsigned char prefix_[5] = {};
  bool wanted_ = false;
  bool has_message_ = false;
  bool discarding_ = false;
  bool remote_done_ = false;
  bool wide_ = false;
  bool lost_ = false;
  Fault fault_ = Fault::kNone;
  std::uint32_t close_code_ = 0;
  std::string why_lost_;

  std::vector<Bytes> chunks_;  // To be sent: small messages together, big ones each by itself.
  std::size_t chunk_at_ = 0;   // Which is sent now, and from where.
  std::size_t byte_at_ = 0;
  std::size_t queued_ = 0;
  bool tail_open_ = false;
  bool ended_ = false;
  bool deferred_ = false;

  Deadlines* deadlines_ = nullptr;
  std::multimap<Time, Stream*>::iterator deadline_;
};

// When calls end for being late: many deadlines, and one timer for the next of them.
class Deadlines {
 public:
  explicit Deadlines(RealLoop& loop) : loop_(loop) {}
  ~Deadlines();
  Deadlines(const Deadlines&) = delete;
  Deadlines& operator=(const Deadlines&) = delete;

 private:
  friend class Stream;
  void arm(Time time);
  void fire();

  RealLoop& loop_;
  std::multimap<Time, Stream*> times_;
  Loop::TimerId timer_ = 0;
  Time armed_ = kNever;
};

// Memory for one turn of the loop, shared by connections that take turns.
struct Scratch {
  static constexpr std::size_t kInBytes = 256 << 10;
  static constexpr std::size_t kOutBytes = 256 << 10;
  std::unique_ptr<char[]> in = std::make_unique_for_overwrite<char[]>(kInBytes);
  Bytes out;
};

struct ConnectionOptions {
  enum class End : std::uint8_t { kClient, kServer } end = End::kServer;
  std::int32_t window_bytes = 16 << 20;  // Of the connection.
  std::uint32_t streams_max = 0;         // kServer: at a time, by the peer.
  std::uint32_t fields_bytes_max = 64 << 10;
  // How many streams the peer may reset at once, and then each second, before that is taken for an attack.
  std::uint64_t resets_burst = 20'000;
  std::uint64_t resets_per_second = 1'000;
  Duration keepalive_time{0};  // 0 is off.
  Duration keepalive_timeout{0};
};

// Owned by a shared_ptr, from which on_closed() takes it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(RealLoop& loop, Scratch& scratch, OwnedFd fd, std::unique_ptr<Wire> wire, ConnectionOptions options);
  virtual ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Once.
  void start();
  // Every stream gets kClosed, later if this is called within a turn. Nothing more is sent.
  void close(std::string_view why);
  bool is_closed() const { return closed_; }
  const std::string& why_closed() const { return why_closed_; }
  // Has what is waiting written soon, in one piece with what else comes until then.
  void schedule_flush();
  // Writes what can be written at once.
  void flush_now();
  // What is to happen before anything else of the peer's is looked at.
  void settle();
  bool in_turn() const { return in_turn_; }

  RealLoop& loop() const { return loop_; }
  nghttp2_session* session() const { return session_; }
  void add_stream(std::int32_t id, std::shared_ptr<Stream> stream);
  const std::unordered_map<std::int32_t, std::shared_ptr<Stream>>& streams() const { return streams_; }
  // Ends a stream from our side. `code` is HTTP/2's.
  void reset(Stream& stream, std::uint32_t code);

 protected:
  // A call begins; null: it is refused.
  virtual std::shared_ptr<Stream> make_stream() { return nullptr; }
  virtual void on_settings() {}
  virtual void on_goaway() {}
  virtual void on_stream_gone() {}
  // At most once; the last reference may go in it, unless a turn is under way: then it is to be posted.
  virtual void on_closed() = 0;

 private:
  friend struct Callbacks;
  friend class Stream;

  static Async<> read_all(Connection* self);
  static Async<> wait_until_writable(Connection* self);
  template <class Work>
  void turn(Work work);
  void receive();
  void flush();
  void write_out(Bytes& out);
  void block();
  void keep_alive();
  Stream* find(std::int32_t id);
  void forget(std::int32_t id, std::uint32_t code);
  void consume(std::int32_t id, std::size_t bytes);

  RealLoop& loop_;
  Scratch& scratch_;
  WatchedFd fd_;
  const std::unique_ptr<Wire> wire_;
  const ConnectionOptions options_;
  nghttp2_session* session_ = nullptr;

  std::unordered_map<std::int32_t, std::shared_ptr<Stream>> streams_;
  Stream* last_found_ = nullptr;
  std::vector<std::shared_ptr<Stream>> woken_;
  std::vector<std::shared_ptr<Stream>> settling_;
  Bytes leftover_;  // The socket took no more.
  std::size_t leftover_at_ = 0;
  std::size_t resets_sent_ = 0;
  bool started_ = false;
  bool in_turn_ = false;
  bool settling_now_ = false;
  bool flush_scheduled_ = false;
  bool blocked_ = false;
  bool closed_ = false;
  bool told_closed_ = false;
  bool is_faulty_ = false;
  bool heard_ = false;
  bool pinged_ = false;
  std::string why_closed_;
  Loop::TimerId keepalive_timer_ = 0;
  Scope scope_;
};

}  // namespace proa::rpc::http2
