// SPDX-License-Identifier: Apache-2.0
#include "rpc/http2.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/check.h"

namespace proa::rpc::http2 {
namespace {

constexpr std::size_t kPrefixBytes = 5;  // Of a message: whether it is compressed, and its length.
constexpr std::size_t kCopyBelow = 16 << 10;
// A message is given all its memory at once only after so much of it has come.
constexpr std::size_t kTrusted = 1 << 20;
constexpr std::size_t kKeptBytes = 16 << 10;  // An idle stream or connection keeps no bigger buffer.
constexpr std::size_t kSpentChunksMax = 32;   // Sent, and still in the list.
// What one connection may do in a turn before the others have theirs.
constexpr int kReadsInTurn = 8;
constexpr int kWritesInTurn = 8;
// Frames that wait while the peer reads nothing. Each stream has a few, and no honest peer has more.
constexpr std::size_t kFramesWaitingMax = 100'000;
// Streams that we reset because the peer broke the rules of HTTP/2.
constexpr std::size_t kFaultyStreamsMax = 1'000;
constexpr std::size_t kFieldsBytesSent = 1 << 20;

}  // namespace

// --- Fields ---

std::string encode_status_message(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte <= 0x7e && c != '%') {
      out += c;
    } else {
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

std::string decode_status_message(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];  // Whatever is not encoded stands as it is.
    }
  }
  return out;
}

std::string encode_timeout(Duration duration) {
  const auto digits = [](std::int64_t value, char unit) { return std::to_string(value) + unit; };
  constexpr std::int64_t kMost = 99'999'999;  // Eight digits.
  const auto left = std::max(duration, Duration(0));
  const auto micros = std::chrono::ceil<std::chrono::microseconds>(left).count();
  if (micros <= kMost) return digits(micros, 'u');
  const auto millis = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  if (millis <= kMost) return digits(millis, 'm');
  return digits(std::min<std::int64_t>(std::chrono::ceil<std::chrono::seconds>(left).count(), kMost), 'S');
}

Result<Duration> decode_timeout(std::string_view text) {
  std::int64_t value = 0;
  const auto wrong = [&] { return invalid_argument("grpc-timeout is no time: up to 8 digits and one of H M S m u n"); };
  if (text.size() < 2 || text.size() > 9 || text.front() < '0' || text.front() > '9') return wrong();
  const char* const unit = text.data() + text.size() - 1;
  if (std::from_chars(text.data(), unit, value).ptr != unit) return wrong();
  switch (*unit) {
    case 'H': return std::chrono::duration_cast<Duration>(std::chrono::hours(std::min<std::int64_t>(value, 1'000'000)));
    case 'M': return std::chrono::duration_cast<Duration>(std::chrono::minutes(value));
    case 'S': return std::chrono::duration_cast<Duration>(std::chrono::seconds(value));
    case 'm': return std::chrono::duration_cast<Duration>(std::chrono::milliseconds(value));
    case 'u': return std::chrono::ceil<Duration>(std::chrono::microseconds(value));
    case 'n': return std::chrono::ceil<Duration>(std::chrono::nanoseconds(value));
    default: return wrong();
  }
}

bool is_binary(std::string_view name) { return name.ends_with("-bin"); }

std::string encode_binary(BytesView value) {
  std::string text = to_base64(value);
  while (text.ends_with('=')) text.pop_back();
  return text;
}

Result<Bytes> decode_binary(std::string_view text) {
  std::string padded(text);
  while (padded.size() % 4 != 0) padded += '=';
  return from_base64(padded);
}

bool is_protocol_field(std::string_view name) {
  return name.starts_with(':') || name.starts_with("grpc-") || name == "te" || name == "content-type";
}

nghttp2_nv constant_field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

nghttp2_nv field(std::string_view name, std::string_view value) {
  nghttp2_nv nv = constant_field(name, value);
  nv.flags = NGHTTP2_NV_FLAG_NONE;
  return nv;
}

// --- Deadlines ---

Deadlines::~Deadlines() {
  if (timer_ != 0) loop_.cancel(timer_);
  for (const auto& [time, stream] : times_) stream->deadlines_ = nullptr;
}

void Deadlines::arm(Time time) {
  if (time >= armed_) return;
  if (timer_ != 0) loop_.cancel(timer_);
  armed_ = time;
  timer_ = loop_.at(time, [this] { fire(); });
}

void Deadlines::fire() {
  timer_ = 0;
  armed_ = kNever;
  const Time now = loop_.now();
  std::vector<std::shared_ptr<Stream>> late;
  while (!times_.empty() && times_.begin()->first <= now) {
    Stream* stream = times_.begin()->second;
    times_.erase(times_.begin());
    stream->deadlines_ = nullptr;
    late.push_back(stream->shared_from_this());
  }
  // What was done in time needs no timer: it is set only for what is still there.
  if (!times_.empty()) arm(times_.begin()->first);
  for (const auto& stream : late) {
    if (stream->connection_ != nullptr) {
      stream->notify(Stream::kLate);
    } else {
      stream->on_events(Stream::kLate);  // Waits for a connection.
    }
  }
}

// --- Stream ---

Stream::~Stream() { clear_deadline(); }

nghttp2_session* Stream::session() const { return connection_ == nullptr ? nullptr : connection_->session_; }

void Stream::set_deadline(Deadlines& deadlines, Time time) {
  clear_deadline();
  deadlines_ = &deadlines;
  deadline_ = deadlines.times_.emplace(time, this);
  deadlines.arm(time);
}

void Stream::clear_deadline() {
  if (deadlines_ == nullptr) return;
  deadlines_->times_.erase(deadline_);
  deadlines_ = nullptr;
}

void Stream::notify(unsigned events) {
  if (connection_ == nullptr) return;
  if (events_ == 0) connection_->woken_.push_back(shared_from_this());
  events_ |= events;
  connection_->schedule_flush();
}

bool Stream::want() {
  if (ready()) return true;
  wanted_ = true;
  if (held_at_ < held_.size()) {
    const std::size_t used = parse(std::string_view(held_).substr(held_at_));
    held_at_ += used;
    if (held_at_ == held_.size()) {
      if (held_.capacity() > kKeptBytes) {
        held_ = Bytes();
      } else {
        held_.clear();
      }
      held_at_ = 0;
    }
    consume(used);
  }
  if (!ready()) return false;
  wanted_ = false;
  return true;
}

Bytes Stream::take_message() {
  PROA_CHECK(has_message_);
  has_message_ = false;
  return std::exchange(message_, Bytes());
}

void Stream::discard() {
  if (std::exchange(discarding_, true)) return;
  wanted_ = false;
  has_message_ = false;
  held_ = Bytes();
  held_at_ = 0;
  message_ = Bytes();
  prefix_have_ = 0;
  consume(unconsumed_);
}

void Stream::feed(std::string_view chunk) {
  unconsumed_ += chunk.size();
  if (discarding_) {
    consume(chunk.size());
    return;
  }
  if (wanted_) {
    const std::size_t used = parse(chunk);
    consume(used);
    chunk.remove_prefix(used);
    if (!wanted_) notify(kReadable);
  }
  held_.append(chunk);
}

// Takes bytes up to the end of a message. One that is whole, or cannot be taken, ends the wanting.
std::size_t Stream::parse(std::string_view bytes) {
  std::size_t used = 0;
  if (prefix_have_ < kPrefixBytes) {
    while (prefix_have_ < kPrefixBytes && used < bytes.size()) {
      prefix_[prefix_have_++] = static_cast<unsigned char>(bytes[used++]);
    }
    if (prefix_have_ < kPrefixBytes) return used;
    message_size_ = (std::uint32_t{prefix_[1]} << 24) | (std::uint32_t{prefix_[2]} << 16) |
                    (std::uint32_t{prefix_[3]} << 8) | std::uint32_t{prefix_[4]};
    if (prefix_[0] != 0) {
      fault_ = Fault::kCompressed;
    } else if (message_size_ > message_bytes_max_) {
      fault_ = Fault::kTooBig;
    }
    if (fault_ != Fault::kNone) {
      wanted_ = false;
      return used;
    }
    message_.reserve(std::min<std::size_t>(message_size_, kTrusted));
    if (message_size_ > kWindow / 2 && connection_ != nullptr && !std::exchange(wide_, true)) {
      nghttp2_session_set_local_window_size(session(), NGHTTP2_FLAG_NONE, id_, kWideWindow);
    }
  }
  const std::size_t more = std::min(message_size_ - message_.size(), bytes.size() - used);
  if (message_.size() + more > message_.capacity()) message_.reserve(message_size_);
  message_.append(bytes.substr(used, more));
  used += more;
  if (message_.size() == message_size_) {
    has_message_ = true;
    wanted_ = false;
    prefix_have_ = 0;
  }
  return used;
}

void Stream::consume(std::size_t bytes) {
  unconsumed_ -= bytes;
  if (connection_ != nullptr && bytes > 0) connection_->consume(id_, bytes);
}

void Stream::end_of_input() {
  remote_done_ = true;
  wanted_ = false;
  notify(kReadable);
}

void Stream::closed(std::uint32_t code) {
  if (unconsumed_ > 0) nghttp2_session_consume_connection(session(), std::exchange(unconsumed_, 0));
  remote_done_ = true;
  wanted_ = false;
  close_code_ = code;
  clear_deadline();
  notify(kClosed);
  connection_ = nullptr;
}

void Stream::enqueue(Bytes message) {
  PROA_CHECK(!ended_);
  const auto size = static_cast<std::uint32_t>(message.size());
  PROA_CHECK(size == message.size());
  const std::array<char, kPrefixBytes> prefix = {0, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                                                 static_cast<char>(size >> 8), static_cast<char>(size)};
  if (!tail_open_ || chunks_.back().size() > kWriteAhead) {
    chunks_.emplace_back();
    tail_open_ = true;
  }
  Bytes& tail = chunks_.back();
  if (message.size() < kCopyBelow) {
    if (tail.empty()) tail.reserve(kPrefixBytes + message.size());
    tail.append(prefix.data(), prefix.size()).append(message);
  } else {
    tail.append(prefix.data(), prefix.size());
    chunks_.push_back(std::move(message));
    tail_open_ = false;
  }
  queued_ += kPrefixBytes + size;
  if (connection_ == nullptr) return;
  if (std::exchange(deferred_, false)) nghttp2_session_resume_data(session(), id_);
  connection_->schedule_flush();
}

void Stream::end_writing() {
  ended_ = true;
  if (connection_ == nullptr) return;
  if (std::exchange(deferred_, false)) nghttp2_session_resume_data(session(), id_);
  connection_->schedule_flush();
}

void Stream::drain_into(Bytes& out, std::size_t bytes) {
  PROA_CHECK(bytes <= queued_);
  const bool was_full = queued_ > kWriteAhead;
  queued_ -= bytes;
  while (bytes > 0) {
    Bytes& chunk = chunks_[chunk_at_];
    const std::size_t part = std::min(bytes, chunk.size() - byte_at_);
    out.append(chunk, byte_at_, part);
    byte_at_ += part;
    bytes -= part;
    if (byte_at_ == chunk.size() && (chunk_at_ + 1 < chunks_.size() || queued_ == 0)) {
      chunk = Bytes();
      ++chunk_at_;
      byte_at_ = 0;
    }
  }
  if (queued_ == 0) {
    chunks_.clear();
    chunk_at_ = 0;
    byte_at_ = 0;
    tail_open_ = false;
  } else if (chunk_at_ > kSpentChunksMax) {
    chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(std::exchange(chunk_at_, 0)));
  }
  if (was_full && queued_ <= kWriteAhead) notify(kWritten);
}

// --- nghttp2's side ---

struct Callbacks {
  static Connection& of(void* user) { return *static_cast<Connection*>(user); }
  static bool is_server(const Connection& connection) {
    return connection.options_.end == ConnectionOptions::End::kServer;
  }
  static std::string_view view(const std::uint8_t* bytes, std::size_t size) {
    return {reinterpret_cast<const char*>(bytes), size};
  }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Connection& connection = of(user);
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto stream = connection.make_stream();
    if (!stream) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    connection.add_stream(frame->hd.stream_id, std::move(stream));
    return 0;
  }

  static int header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                    const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
    if (Stream* stream = of(user).find(frame->hd.stream_id)) {
      stream->on_field(view(name, name_size), view(value, value_size));
    }
    return 0;
  }

  static int frame_recv(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Connection& connection = of(user);
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
      case NGHTTP2_DATA: {
        Stream* stream = connection.find(frame->hd.stream_id);
        if (stream == nullptr) break;
        if (frame->hd.type == NGHTTP2_HEADERS) stream->on_fields_end();
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) stream->end_of_input();
        break;
      }
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) connection.on_settings();
        break;
      case NGHTTP2_GOAWAY: connection.on_goaway(); break;
      default: break;
    }
    return 0;
  }

  static int data_chunk(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size,
                        void* user) {
    Connection& connection = of(user);
    if (Stream* stream = connection.find(id)) {
      stream->feed(view(data, size));
    } else {
      connection.consume(id, size);
    }
    return 0;
  }

  static int stream_close(nghttp2_session*, std::int32_t id, std::uint32_t code, void* user) {
    of(user).forget(id, code);
    return 0;
  }

  static int frame_send(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Connection& connection = of(user);
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) connection.is_faulty_ = true;
    if (!is_server(connection)) return 0;
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
      const std::uint32_t code = frame->rst_stream.error_code;
      const bool ordinary = code == NGHTTP2_NO_ERROR || code == NGHTTP2_CANCEL || code == NGHTTP2_REFUSED_STREAM;
      if (!ordinary && ++connection.resets_sent_ > kFaultyStreamsMax) {
        nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
      }
      return 0;
    }
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      // All is said: whatever else the peer has to send, it need not.
      const Stream* stream = connection.find(frame->hd.stream_id);
      if (stream != nullptr && !stream->remote_done_) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
      }
    }
    return 0;
  }

  // A request that never left: nghttp2 knows no stream of it, so nobody else tells of its end.
  static int frame_not_send(nghttp2_session*, const nghttp2_frame* frame, int, void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      of(user).forget(frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
    }
    return 0;
  }

  static ssize_t read_source(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t size, std::uint32_t* flags,
                             nghttp2_data_source* source, void*) {
    Stream& stream = *static_cast<Stream*>(source->ptr);
    if (stream.queued_ == 0 && !stream.ended_) {
      stream.deferred_ = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    const std::size_t part = std::min(size, stream.queued_);
    if (part > 0) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (stream.ended_ && part == stream.queued_) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      if (stream.submit_trailers()) *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    return static_cast<ssize_t>(part);
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head, std::size_t size,
                       nghttp2_data_source* source, void* user) {
    constexpr std::size_t kHeadBytes = 9;
    Bytes& out = of(user).scratch_.out;
    if (out.size() >= Scratch::kOutBytes) return NGHTTP2_ERR_WOULDBLOCK;
    out.append(reinterpret_cast<const char*>(head), kHeadBytes);
    static_cast<Stream*>(source->ptr)->drain_into(out, size);
    return 0;
  }
};

nghttp2_data_provider Stream::source() {
  nghttp2_data_provider provider{};
  provider.source.ptr = this;
  provider.read_callback = Callbacks::read_source;
  return provider;
}

// --- Connection ---

Connection::Connection(RealLoop& loop, Scratch& scratch, OwnedFd fd, std::unique_ptr<Wire> wire,
                       ConnectionOptions options)
    : loop_(loop), scratch_(scratch), fd_(loop, fd.release()), wire_(std::move(wire)), options_(options) {
  const int on = 1;
  ::setsockopt(fd_.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // Fails on a unix socket, which has no delay.

  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, Callbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Callbacks::header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::frame_recv);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::data_chunk);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::stream_close);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, Callbacks::frame_send);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, Callbacks::frame_not_send);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, Callbacks::send_data);
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_no_closed_streams(option, 1);
  nghttp2_option_set_max_send_header_block_length(option, kFieldsBytesSent);
  nghttp2_option_set_stream_reset_rate_limit(option, options_.resets_burst, options_.resets_per_second);
  const int failed = options_.end == ConnectionOptions::End::kServer
                         ? nghttp2_session_server_new2(&session_, callbacks, this, option)
                         : nghttp2_session_client_new2(&session_, callbacks, this, option);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  PROA_CHECK(failed == 0);  // Memory alone can be the reason.
}

Connection::~Connection() {
  if (keepalive_timer_ != 0) loop_.cancel(keepalive_timer_);
  scope_.cancel_all();
  nghttp2_session_del(session_);
}

void Connection::start() {
  if (closed_ || std::exchange(started_, true)) return;
  std::array<nghttp2_settings_entry, 2> settings{};
  std::size_t count = 0;
  settings[count++] = {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options_.fields_bytes_max};
  if (options_.end == ConnectionOptions::End::kServer) {
    settings[count++] = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.streams_max};
  } else {
    settings[count++] = {NGHTTP2_SETTINGS_ENABLE_PUSH, 0};
  }
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), count);
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, options_.window_bytes);
  if (options_.keepalive_time > Duration(0)) {
    keepalive_timer_ = loop_.at(loop_.now() + options_.keepalive_time, [this] { keep_alive(); });
  }
  schedule_flush();
  scope_.spawn(read_all(this));
}

template <class Work>
void Connection::turn(Work work) {
  if (closed_) return;
  const auto self = shared_from_this();
  in_turn_ = true;
  work();
  settle();
  flush();
  // A peer that broke the rules has been told so. nghttp2 would still serve the calls it has.
  if (!closed_ && is_faulty_) close("the other side broke the rules of HTTP/2");
  if (!closed_ && !blocked_ && nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0) {
    close("the connection has ended");
  }
  settle();
  in_turn_ = false;
  if (closed_ && !std::exchange(told_closed_, true)) on_closed();
}

// A turn may end the connection. What is left of it then lives until this coroutine is over.
Async<> Connection::read_all(Connection* self) {
  while (!self->closed_) {
    co_await self->fd_.readable();
    self->turn([self] { self->receive(); });
  }
}

Async<> Connection::wait_until_writable(Connection* self) {
  co_await self->fd_.writable();
  self->turn([self] { self->blocked_ = false; });
}

void Connection::receive() {
  for (int reads = 0; reads < kReadsInTurn; ++reads) {
    const ssize_t count = wire_->read(fd_.fd(), scratch_.in.get(), Scratch::kInBytes);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      close(count == 0 ? "the other side ended the connection" : errno_error(errno, "read").message);
      return;
    }
    heard_ = true;
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(scratch_.in.get());
    const ssize_t taken = nghttp2_session_mem_recv(session_, bytes, static_cast<std::size_t>(count));
    if (taken < 0) {
      // What nghttp2 has to say about it may still go out.
      flush();
      close(nghttp2_strerror(static_cast<int>(taken)));
      return;
    }
    if (blocked_ && nghttp2_session_get_outbound_queue_size(session_) > kFramesWaitingMax) {
      close("the other side sends without reading");
      return;
    }
    settle();
    if (closed_ || (!wire_->buffers() && static_cast<std::size_t>(count) < Scratch::kInBytes)) return;
  }
  // There may be more, of which a wire with a memory of its own makes the socket say nothing.
  if (wire_->buffers()) {
    loop_.post([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->turn([&self] { self->receive(); });
    });
  }
}

void Connection::settle() {
  if (std::exchange(settling_now_, true)) return;
  while (!woken_.empty()) {
    settling_.swap(woken_);
    for (const auto& stream : settling_) stream->on_events(std::exchange(stream->events_, 0U));
    settling_.clear();
  }
  settling_now_ = false;
}

void Connection::schedule_flush() {
  if (in_turn_ || closed_ || std::exchange(flush_scheduled_, true)) return;
  loop_.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->flush_scheduled_ = false;
    self->turn([] {});
  });
}

void Connection::flush_now() {
  if (!closed_) flush();
}

void Connection::flush() {
  Bytes& out = scratch_.out;
  if (!closed_ && !blocked_ && !wire_->flush(fd_.fd())) block();
  for (int writes = 0; !closed_ && !blocked_; ++writes) {
    if (writes == kWritesInTurn) {
      // The rest after the others' turns. The flag that says "in a turn" would keep it from being scheduled.
      if (!std::exchange(flush_scheduled_, true)) {
        loop_.post([weak = weak_from_this()] {
          const auto self = weak.lock();
          if (!self) return;
          self->flush_scheduled_ = false;
          self->turn([] {});
        });
      }
      return;
    }
    if (leftover_at_ < leftover_.size()) {
      Bytes rest = std::exchange(leftover_, Bytes());
      rest.erase(0, std::exchange(leftover_at_, 0));
      write_out(rest);
      continue;
    }
    out.clear();
    while (out.size() < Scratch::kOutBytes) {
      const std::uint8_t* bytes = nullptr;
      const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
      if (count < 0) {
        close(nghttp2_strerror(static_cast<int>(count)));
        return;
      }
      if (count == 0) break;
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
    }
    if (out.empty()) return;
    write_out(out);
    settle();
  }
}

void Connection::write_out(Bytes& out) {
  std::size_t sent = 0;
  while (sent < out.size()) {
    const ssize_t count = wire_->write(fd_.fd(), out.data() + sent, out.size() - sent);
    if (count < 0) {
      if (errno != EAGAIN) {
        close(errno_error(errno, "write").message);
        return;
      }
      break;
    }
    sent += static_cast<std::size_t>(count);
  }
  if (sent < out.size()) leftover_.assign(out, sent);
  if (sent < out.size() || !wire_->flush(fd_.fd())) block();
}

void Connection::block() {
  blocked_ = true;
  scope_.spawn(wait_until_writable(this));
}

void Connection::keep_alive() {
  keepalive_timer_ = 0;
  Duration next = options_.keepalive_time;
  turn([&] {
    if (std::exchange(heard_, false)) {
      pinged_ = false;
    } else if (!std::exchange(pinged_, true)) {
      nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
      next = options_.keepalive_timeout;
    } else {
      close("the other side does not answer");
    }
  });
  if (!closed_) keepalive_timer_ = loop_.at(loop_.now() + next, [this] { keep_alive(); });
}

void Connection::close(std::string_view why) {
  if (std::exchange(closed_, true)) return;
  const auto self = shared_from_this();
  why_closed_ = why;
  if (keepalive_timer_ != 0) loop_.cancel(std::exchange(keepalive_timer_, 0));
  for (const auto& [id, stream] : std::exchange(streams_, {})) {
    stream->lost_ = true;
    stream->why_lost_ = why;
    stream->closed(NGHTTP2_NO_ERROR);
  }
  last_found_ = nullptr;
  ::shutdown(fd_.fd(), SHUT_RDWR);  // Wakes whoever waits for it.
  if (in_turn_) return;
  settle();
  if (!std::exchange(told_closed_, true)) on_closed();
}

void Connection::add_stream(std::int32_t id, std::shared_ptr<Stream> stream) {
  stream->id_ = id;
  stream->connection_ = this;
  last_found_ = stream.get();
  streams_.emplace(id, std::move(stream));
}

Stream* Connection::find(std::int32_t id) {
  if (last_found_ != nullptr && last_found_->id_ == id) return last_found_;
  const auto found = streams_.find(id);
  if (found == streams_.end()) return nullptr;
  return last_found_ = found->second.get();
}

void Connection::forget(std::int32_t id, std::uint32_t code) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  if (last_found_ == found->second.get()) last_found_ = nullptr;
  const auto stream = std::move(found->second);
  streams_.erase(found);
  stream->closed(code);
  on_stream_gone();
}

void Connection::reset(Stream& stream, std::uint32_t code) {
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id_, code);
  schedule_flush();
}

void Connection::consume(std::int32_t id, std::size_t bytes) {
  if (closed_) return;
  nghttp2_session_consume(session_, id, bytes);
  if (nghttp2_session_want_write(session_) != 0) schedule_flush();
}

}  // namespace proa::rpc::http2
