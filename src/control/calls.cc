// SPDX-License-Identifier: Apache-2.0
#include "control/calls.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "control/keys.h"

namespace proa::control {
namespace {

using store::Table;

// Stored. DO NOT CHANGE tags.
struct CallRow {
  FunctionId function;
  AppId app;
  CallKind kind = CallKind::kUnary;
  Invocation invocation = Invocation::kSync;
  InputId parent;
  Time created;
  bool cancelled = false;
  static void fields(auto& visit, auto& self) {
    visit(1, self.function), visit(2, self.app), visit(3, self.kind), visit(4, self.invocation);
    visit(5, self.parent), visit(6, self.created), visit(7, self.cancelled);
  }
};

struct InputRow {
  Status status = Status::kNone;
  std::uint32_t retry_count = 0;
  std::uint32_t losses = 0;
  std::uint32_t position = 0;
  static void fields(auto& visit, auto& self) {
    visit(1, self.status), visit(2, self.retry_count), visit(3, self.losses), visit(4, self.position);
  }
};

// A blob of a call; all there is to know is in the key.
struct BlobOfCall {
  static void fields(auto&, auto&) {}
};

void append_big_endian(Bytes& out, std::uint64_t value, int bytes) {
  for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}
std::uint64_t read_big_endian(BytesView bytes) {
  std::uint64_t value = 0;
  for (const char c : bytes) value = (value << 8) | static_cast<unsigned char>(c);
  return value;
}

constexpr std::size_t kCallKeyBytes = 16;
constexpr std::uint32_t kNoIndex = std::numeric_limits<std::uint32_t>::max();

template <class Id>
Id id_of_key(BytesView key) {
  return Id(IdBits{read_big_endian(key.substr(0, 8)), read_big_endian(key.substr(8, 8))});
}
CallId call_of_key(BytesView key) { return id_of_key<CallId>(key); }
Bytes input_key(InputId id) {
  Bytes key = key_of(id.call);
  append_big_endian(key, id.index, 4);
  return key;
}
Bytes chunk_key(CallId id, Calls::Channel channel, std::uint64_t index) {
  Bytes key = key_of(id);
  key += static_cast<char>(channel);
  append_big_endian(key, index, 4);
  return key;
}
// The first key after all those that begin with `key`.
Bytes key_after(Bytes key) {
  while (!key.empty() && static_cast<unsigned char>(key.back()) == 255) key.pop_back();
  if (!key.empty()) key.back() = static_cast<char>(static_cast<unsigned char>(key.back()) + 1);
  return key;
}

Error no_call(CallId id) {
  return not_found("the call " + id.text() + " is not known; results are kept for a limited time after a call has ended");
}
Error no_input(InputId id) { return not_found("the input " + id.text() + " is not known"); }

std::size_t weight(const Arguments& arguments) { return arguments.payload.inline_bytes() + 200; }
std::size_t weight(const FinishedInput& finished) {
  std::size_t bytes = finished.outcome.value.inline_bytes() + finished.outcome.error.size() + finished.outcome.traceback.size() + 200;
  for (const auto& [name, attachment] : finished.outcome.attachments) bytes += name.size() + attachment.size();
  return bytes;
}

// delay = min(initial × backoff^(n-1), max), as in the retry policy of the Modal wire.
Duration retry_delay(const RetryPolicy& policy, std::uint32_t attempt) {
  const double factor = std::pow(std::max(policy.backoff, 1.0), static_cast<double>(attempt - 1));
  const double wanted = static_cast<double>(policy.initial_delay.count()) * factor;
  const Duration most = policy.delay_max.count() > 0 ? policy.delay_max : Duration(std::chrono::hours(24));
  return wanted >= static_cast<double>(most.count()) ? most : Duration(static_cast<std::int64_t>(wanted));
}

}  // namespace

template <class T>
void Calls::Cache<T>::put(InputId id, T value, std::size_t size, std::size_t bytes_max) {
  drop(id);
  if (size > bytes_max / 4) return;
  held.emplace(id, Held{std::move(value), size});
  order.push_back(id);
  bytes += size;
  while (bytes > bytes_max && !order.empty()) {
    const InputId oldest = order.front();
    order.pop_front();
    drop(oldest);
  }
  // Dropped entries stay in the order until they come up; a bound keeps that from growing.
  if (order.size() > 2 * held.size() + 1024) std::erase_if(order, [&](InputId other) { return !held.contains(other); });
}

template <class T>
void Calls::Cache<T>::drop(InputId id) {
  const auto found = held.find(id);
  if (found == held.end()) return;
  bytes -= found->second.bytes;
  held.erase(found);
}

template <class T>
const T* Calls::Cache<T>::get(InputId id) const {
  const auto found = held.find(id);
  return found == held.end() ? nullptr : &found->second.value;
}

Calls::Calls(Loop& loop, Random& random, Ledger& ledger, store::Store& store, FunctionBook& functions, Logger& log, CallLimits limits)
    : loop_(loop), random_(random), ledger_(ledger), store_(store), functions_(functions), log_(log), limits_(limits) {
  scope_.spawn(sweep());
}

Calls::~Calls() = default;

Calls::Call* Calls::find(CallId call) {
  const auto found = calls_.find(call);
  return found == calls_.end() ? nullptr : &found->second;
}
const Calls::Call* Calls::find(CallId call) const {
  const auto found = calls_.find(call);
  return found == calls_.end() ? nullptr : &found->second;
}
Calls::Input* Calls::find(InputId input) {
  Call* call = find(input.call);
  if (call == nullptr || input.index >= call->inputs.size()) return nullptr;
  Input& found = call->inputs[input.index];
  return found.state == InputState::kAbsent ? nullptr : &found;
}
const Calls::Input* Calls::find(InputId input) const { return const_cast<Calls*>(this)->find(input); }

Result<void> Calls::load() {
  std::optional<Error> damage;
  PROA_TRY_VOID(store_.load(Table::kCall, [&](BytesView key, BytesView value) {
    auto row = decode<CallRow>(value);
    if (!row.ok() || key.size() != kCallKeyBytes) {
      damage = Error{Code::kDataLoss, "a stored call cannot be read"};
      return;
    }
    Call call;
    call.about = {row->function, row->app, row->kind, row->invocation, row->parent};
    call.created = row->created;
    call.touched = loop_.now();
    call.cancelled = row->cancelled;
    calls_.emplace(call_of_key(key), std::move(call));
  }));
  Call* call = nullptr;
  CallId current;
  PROA_TRY_VOID(store_.load(Table::kInput, [&](BytesView key, BytesView value) {
    const auto row = decode<InputRow>(value);
    if (!row.ok() || key.size() != kCallKeyBytes + 4) {
      damage = Error{Code::kDataLoss, "a stored input cannot be read"};
      return;
    }
    const CallId id = call_of_key(key);
    if (id != current) {
      current = id;
      call = find(id);
    }
    if (call == nullptr) return;  // Its call was forgotten; the sweep was cut short.
    const auto index = static_cast<std::uint32_t>(read_big_endian(key.substr(kCallKeyBytes)));
    if (index >= call->inputs.size()) call->inputs.resize(index + 1);
    Input& input = call->inputs[index];
    set_status(*call, input, row->status);
    input.retry_count = static_cast<std::uint16_t>(row->retry_count);
    input.losses = static_cast<std::uint8_t>(row->losses);
    input.position = row->position;
    if (input.position > call->log.size()) call->log.resize(input.position, kNoIndex);
    input.state = row->status == Status::kNone ? InputState::kWaiting : InputState::kDone;
    ++call->present;
    if (input.state == InputState::kDone) {
      if (input.position == 0) {
        damage = Error{Code::kDataLoss, "a stored input is done and has no position"};
        return;
      }
      call->log[input.position - 1] = index;
    } else {
      ++call->unfinished;
      ++unfinished_[call->about.app];
    }
  }));
  PROA_TRY_VOID(store_.load(Table::kCallBlob, [&](BytesView key, BytesView) {
    Call* owner = key.size() == 2 * kCallKeyBytes ? find(call_of_key(key)) : nullptr;
    if (owner != nullptr) owner->blobs.push_back(id_of_key<BlobId>(key.substr(kCallKeyBytes)));
  }));
  PROA_TRY_VOID(store_.load(Table::kChunk, [&](BytesView key, BytesView value) {
    if (key.size() != kCallKeyBytes + 5) return;
    Call* owner = find(call_of_key(key));
    if (owner == nullptr) return;
    auto& highest = key[kCallKeyBytes] == static_cast<char>(Channel::kIn) ? owner->chunks_in : owner->chunks_out;
    highest = std::max(highest, static_cast<std::uint32_t>(read_big_endian(key.substr(kCallKeyBytes + 1))));
    owner->chunk_bytes += value.size();
  }));
  if (damage) return *damage;
  std::vector<CallId> by_age;
  for (const auto& [id, loaded] : calls_) by_age.push_back(id);
  std::sort(by_age.begin(), by_age.end(), [this](CallId a, CallId b) { return std::pair(calls_.at(a).created, a) < std::pair(calls_.at(b).created, b); });
  for (const CallId id : by_age) note_recent(calls_.at(id).about.app, id);
  return {};
}

void Calls::resume() {
  for (auto& [id, call] : calls_) {
    if (call.unfinished == 0) continue;
    for (std::uint32_t index = 0; index < call.inputs.size(); ++index) {
      Input& input = call.inputs[index];
      if (input.state == InputState::kWaiting) queue({id, index}, call, input);
    }
  }
}

void Calls::store_call(CallId id, const Call& call) {
  ledger_.put(Table::kCall, key_of(id),
              CallRow{call.about.function, call.about.app, call.about.kind, call.about.invocation, call.about.parent, call.created, call.cancelled});
}

void Calls::store_input(InputId id, const Input& input) {
  ledger_.put(Table::kInput, input_key(id), InputRow{input.status, input.retry_count, input.losses, input.position});
}

Signal& Calls::changed(Call& call) {
  if (!call.changed) call.changed = std::make_unique<Signal>(loop_);
  return *call.changed;
}
void Calls::wake(Call& call) {
  if (call.changed) call.changed->notify();
}

void Calls::queue(InputId id, Call& call, Input& input) {
  input.state = InputState::kQueued;
  if (dispatch_ != nullptr) dispatch_->enqueue(call.about.function, id);
}

Result<CallId> Calls::create(NewCall about) {
  const auto function = functions_.view(about.function);
  if (!function) return not_found("the function " + about.function.text() + " is not there to be called: its app is not running, or it is not part of it any more");
  about.app = function->app;
  const CallId id = CallId::make(random_, loop_.now());
  Call call;
  call.about = about;
  call.created = loop_.now();
  call.touched = call.created;
  store_call(id, call);
  calls_.emplace(id, std::move(call));
  note_recent(about.app, id);
  return id;
}

Result<std::vector<InputId>> Calls::put_inputs(CallId id, std::vector<NewInput> inputs) {
  Call* call = find(id);
  if (call == nullptr) return no_call(id);
  if (call->cancelled) return failed_precondition("the call " + id.text() + " was cancelled: it takes no more inputs");
  std::size_t size = call->inputs.size();
  for (const NewInput& input : inputs) {
    if (input.index >= limits_.inputs_per_call_max || input.index > size + limits_.index_gap_max) {
      return invalid_argument("input index " + std::to_string(input.index) + " is out of bounds: a call has at most " +
                              std::to_string(limits_.inputs_per_call_max) + " inputs, given roughly in order");
    }
    size = std::max<std::size_t>(size, input.index + 1);
  }
  call->inputs.resize(size);
  std::vector<InputId> ids;
  ids.reserve(inputs.size());
  for (NewInput& given : inputs) {
    const InputId input_id{id, given.index};
    ids.push_back(input_id);
    Input& input = call->inputs[given.index];
    if (input.state != InputState::kAbsent) continue;
    input.state = InputState::kWaiting;
    ++call->present;
    ++call->unfinished;
    ++unfinished_[call->about.app];
    store_input(input_id, input);
    note_blob(id, *call, given.arguments.payload.blob);
    ledger_.put(Table::kArguments, input_key(input_id), given.arguments);
    const std::size_t bytes = weight(given.arguments);
    arguments_.put(input_id, std::move(given.arguments), bytes, limits_.output_cache_bytes_max);
    queue(input_id, *call, input);
  }
  call->touched = loop_.now();
  return ids;
}

Result<void> Calls::retry(InputId id, std::optional<Arguments> arguments, std::uint32_t retry_count) {
  Call* call = find(id.call);
  Input* input = find(id);
  if (call == nullptr || input == nullptr) return no_input(id);
  if (call->cancelled) return failed_precondition("the call " + id.call.text() + " was cancelled: its inputs are not retried");
  if (input->state != InputState::kDone) {
    // Still under way: the repeat of a retry, or a retry of what was thought lost.
    return {};
  }
  ledger_.erase(Table::kOutput, input_key(id));
  outputs_.drop(id);
  clear_chunks(id.call, *call, Channel::kOut);
  set_status(*call, *input, Status::kNone);
  input->retry_count = static_cast<std::uint16_t>(std::min<std::uint32_t>(retry_count, 0xFFFF));
  ++call->unfinished;
  ++unfinished_[call->about.app];
  store_input(id, *input);
  if (arguments) {
    note_blob(id.call, *call, arguments->payload.blob);
    ledger_.put(Table::kArguments, input_key(id), *arguments);
    const std::size_t bytes = weight(*arguments);
    arguments_.put(id, std::move(*arguments), bytes, limits_.output_cache_bytes_max);
  }
  queue(id, *call, *input);
  return {};
}

Async<Result<FinishedInput>> Calls::read_output(InputId id) {
  if (const FinishedInput* cached = outputs_.get(id)) co_return *cached;
  Result<std::optional<Bytes>> row = co_await store_.get(Table::kOutput, input_key(id));
  if (!row.ok()) co_return row.error();
  if (!row->has_value()) {
    // Between finishing and durability the row is only in the cache, which a very large output skips.
    co_await ledger_.durable();
    row = co_await store_.get(Table::kOutput, input_key(id));
    if (!row.ok()) co_return row.error();
    if (!row->has_value()) co_return not_found("the result of " + id.text() + " has expired");
  }
  co_return decode<FinishedInput>(**row);
}

Async<Result<OutputAnswer>> Calls::outputs(OutputQuery query) {
  const Time deadline = loop_.now() + query.timeout;
  const std::size_t outputs_max = query.outputs_max == 0 ? limits_.answer_outputs_max : std::min(query.outputs_max, limits_.answer_outputs_max);
  std::vector<std::pair<InputId, std::uint64_t>> ready;  // With the position before it.
  OutputAnswer answer;
  std::optional<Time> gathered_until;
  while (true) {
    ready.clear();
    Call* call = find(query.call);
    if (call == nullptr) co_return no_call(query.call);
    call->touched = loop_.now();
    answer.position = query.after;
    answer.unfinished = call->unfinished;
    if (query.range) {
      const auto [first, last] = *query.range;
      for (std::uint64_t index = first; index <= last && index < call->inputs.size() && ready.size() < outputs_max; ++index) {
        if (call->inputs[index].state == InputState::kDone) ready.push_back({{query.call, static_cast<std::uint32_t>(index)}, 0});
      }
      answer.position = call->log.size();
    } else {
      // An entry whose input has since been retried is passed over: it comes again later in the log.
      std::uint64_t at = query.after;
      for (; at < call->log.size() && ready.size() < outputs_max; ++at) {
        const std::uint32_t index = call->log[at];
        if (index == kNoIndex) continue;
        const Input& input = call->inputs[index];
        if (input.state == InputState::kDone && input.position == at + 1) ready.push_back({{query.call, index}, at});
      }
      answer.position = at;
    }
    const Time now = loop_.now();
    if (now >= deadline) break;
    if (!ready.empty()) {
      if (!gathered_until) gathered_until = now + query.linger;
      if (ready.size() >= std::min(query.outputs_wanted, outputs_max) || call->unfinished == 0 || now >= *gathered_until) break;
    }
    (void)co_await changed(*call).wait_until(std::min(deadline, gathered_until.value_or(kNever)));
  }
  std::size_t bytes = 0;
  for (const auto& [id, before] : ready) {
    Result<FinishedInput> output = co_await read_output(id);
    if (!output.ok()) {
      const Input* input = find(id);
      if (input == nullptr || input->state != InputState::kDone) continue;  // Retried or expired meanwhile.
      co_return output.error();
    }
    bytes += weight(*output);
    if (bytes > limits_.answer_bytes_max && !answer.outputs.empty()) {
      // The rest comes with the next question.
      if (!query.range) answer.position = before;
      break;
    }
    answer.outputs.push_back(std::move(*output));
  }
  co_return answer;
}

Result<CallView> Calls::view(CallId id) const {
  const Call* call = find(id);
  if (call == nullptr) return no_call(id);
  return view_of(id, *call);
}

CallView Calls::view_of(CallId id, const Call& call) {
  const auto count = [&call](Status status) { return call.by_status[static_cast<std::size_t>(status)]; };
  CallView view;
  view.id = id;
  view.function = call.about.function;
  view.app = call.about.app;
  view.kind = call.about.kind;
  view.invocation = call.about.invocation;
  view.parent = call.about.parent;
  view.created = call.created;
  view.inputs = call.present;
  view.unfinished = call.unfinished;
  view.succeeded = count(Status::kSuccess);
  view.timed_out = count(Status::kTimeout);
  view.terminated = count(Status::kTerminated);
  view.failed = count(Status::kFailure) + count(Status::kInitFailure) + count(Status::kInternalFailure);
  return view;
}

std::vector<CallView> Calls::recent(AppId app, std::size_t calls_max) const {
  std::vector<CallView> out;
  const auto of_app = recent_.find(app);
  if (of_app == recent_.end()) return out;
  for (auto id = of_app->second.rbegin(); id != of_app->second.rend() && out.size() < calls_max; ++id) out.push_back(view_of(*id, calls_.at(*id)));
  return out;
}

void Calls::set_status(Call& call, Input& input, Status status) {
  // What another version may have stored counts as a failure of ours.
  const auto place = [](Status any) { return std::min(static_cast<std::size_t>(any), kStatuses - 1); };
  if (input.status != Status::kNone) --call.by_status[place(input.status)];
  input.status = status;
  if (status != Status::kNone) ++call.by_status[place(status)];
}

void Calls::note_recent(AppId app, CallId call) {
  std::deque<CallId>& of_app = recent_[app];
  of_app.push_back(call);
  if (of_app.size() > kRecentCallsMax) of_app.pop_front();
}

void Calls::forget_recent(AppId app, CallId call) {
  const auto of_app = recent_.find(app);
  if (of_app == recent_.end()) return;
  std::erase(of_app->second, call);
  if (of_app->second.empty()) recent_.erase(of_app);
}

void Calls::terminate(CallId id, Call& call, const std::string& why) {
  for (std::uint32_t index = 0; index < call.inputs.size(); ++index) {
    Input& input = call.inputs[index];
    if (input.state == InputState::kAbsent || input.state == InputState::kDone) continue;
    FinishedInput finished;
    finished.input = {id, index};
    finished.outcome.status = Status::kTerminated;
    finished.outcome.error = why;
    finished.finished = loop_.now();
    finished.retry_count = input.retry_count;
    const bool known_to_dispatch = input.state == InputState::kQueued || input.state == InputState::kLeased;
    settle(finished.input, call, input, finished);
    if (known_to_dispatch && dispatch_ != nullptr) dispatch_->withdraw(call.about.function, {id, index});
  }
}

Result<void> Calls::cancel(CallId id, std::string why) {
  Call* call = find(id);
  if (call == nullptr) return no_call(id);
  if (!call->cancelled) {
    call->cancelled = true;
    store_call(id, *call);
  }
  terminate(id, *call, why);
  return {};
}

void Calls::cancel_app(AppId app, std::string why) {
  if (unfinished_of(app) == 0) return;
  for (auto& [id, call] : calls_) {
    if (call.about.app == app && call.unfinished > 0) terminate(id, call, why);
  }
}

std::size_t Calls::unfinished_of(AppId app) const {
  const auto found = unfinished_.find(app);
  return found == unfinished_.end() ? 0 : found->second;
}

InputState Calls::state(InputId id) const {
  const Input* input = find(id);
  return input == nullptr ? InputState::kAbsent : input->state;
}
FunctionId Calls::function_of(InputId id) const {
  const Call* call = find(id.call);
  return call == nullptr ? FunctionId() : call->about.function;
}
Invocation Calls::invocation_of(InputId id) const {
  const Call* call = find(id.call);
  return call == nullptr ? Invocation::kSync : call->about.invocation;
}
std::uint32_t Calls::retry_count(InputId id) const {
  const Input* input = find(id);
  return input == nullptr ? 0 : input->retry_count;
}

const Arguments* Calls::cached_arguments(InputId id) const { return arguments_.get(id); }

Async<Result<Arguments>> Calls::arguments(InputId id) {
  const Input* input = find(id);
  if (input == nullptr || input->state == InputState::kDone) co_return no_input(id);
  if (const Arguments* cached = arguments_.get(id)) co_return *cached;
  co_await ledger_.durable();
  Result<std::optional<Bytes>> row = co_await store_.get(Table::kArguments, input_key(id));
  if (!row.ok()) co_return row.error();
  if (!row->has_value()) co_return no_input(id);
  co_return decode<Arguments>(**row);
}

void Calls::mark_leased(InputId id) {
  Input* input = find(id);
  PROA_CHECK(input != nullptr && (input->state == InputState::kQueued || input->state == InputState::kWaiting));
  input->state = InputState::kLeased;
}

void Calls::requeue(InputId id, Return how) {
  Call* call = find(id.call);
  Input* input = find(id);
  if (call == nullptr || input == nullptr || input->state != InputState::kLeased) return;
  if (how == Return::kLost) {
    input->losses = static_cast<std::uint8_t>(std::min<std::uint32_t>(input->losses + 1U, 255U));
    if (input->losses > limits_.losses_max) {
      FinishedInput finished;
      finished.input = id;
      finished.outcome.status = Status::kInternalFailure;
      finished.outcome.error = "the input was lost " + std::to_string(input->losses) + " times with the machine that ran it, and is given up";
      finished.finished = loop_.now();
      finished.retry_count = input->retry_count;
      settle(id, *call, *input, std::move(finished));
      return;
    }
    store_input(id, *input);
  }
  clear_chunks(id.call, *call, Channel::kOut);
  queue(id, *call, *input);
}

void Calls::finish(FinishedInput finished) {
  const InputId id = finished.input;
  Call* call = find(id.call);
  Input* input = find(id);
  if (call == nullptr || input == nullptr || input->state == InputState::kDone) return;
  const Status status = finished.outcome.status;
  const bool may_retry = status == Status::kFailure || status == Status::kTimeout;
  if (may_retry && !call->cancelled) {
    const auto function = functions_.view(call->about.function);
    const RetryPolicy policy = function ? function->spec->retries : RetryPolicy{};
    if (input->retry_count < policy.retries) {
      ++input->retry_count;
      input->state = InputState::kWaiting;
      store_input(id, *input);
      clear_chunks(id.call, *call, Channel::kOut);
      log_.debug("input.retried", {{"input", id.text()}, {"retry", input->retry_count}});
      scope_.spawn(queue_at(id, loop_.now() + retry_delay(policy, input->retry_count), input->retry_count));
      return;
    }
  }
  settle(id, *call, *input, std::move(finished));
}

Async<> Calls::queue_at(InputId id, Time due, std::uint32_t retry_count) {
  co_await sleep_until(loop_, due);
  Call* call = find(id.call);
  Input* input = find(id);
  if (call == nullptr || input == nullptr || input->state != InputState::kWaiting || input->retry_count != retry_count) co_return;
  queue(id, *call, *input);
}

void Calls::settle(InputId id, Call& call, Input& input, FinishedInput finished) {
  note_blob(id.call, call, finished.outcome.value.blob);
  PROA_CHECK(input.state != InputState::kDone && input.state != InputState::kAbsent);
  input.state = InputState::kDone;
  set_status(call, input, finished.outcome.status);
  call.log.push_back(id.index);
  input.position = static_cast<std::uint32_t>(call.log.size());
  call.touched = loop_.now();
  store_input(id, input);
  ledger_.put(Table::kOutput, input_key(id), finished);
  const std::size_t bytes = weight(finished);
  outputs_.put(id, std::move(finished), bytes, limits_.output_cache_bytes_max);
  arguments_.drop(id);
  finished_one(call);
  wake(call);
}

void Calls::finished_one(Call& call) {
  --call.unfinished;
  const AppId app = call.about.app;
  const auto found = unfinished_.find(app);
  PROA_CHECK(found != unfinished_.end() && found->second > 0);
  if (--found->second > 0) return;
  unfinished_.erase(found);
  if (!app_idle_) return;
  // Later, since whoever finished it is in the middle of something.
  loop_.post([callback = app_idle_, app] { callback(app); });
}

void Calls::clear_chunks(CallId id, Call& call, Channel channel) {
  auto& highest = channel == Channel::kIn ? call.chunks_in : call.chunks_out;
  for (std::uint32_t index = 1; index <= highest; ++index) ledger_.erase(Table::kChunk, chunk_key(id, channel, index));
  highest = 0;
  call.chunk_bytes = 0;
}

void Calls::note_blob(CallId id, Call& call, BlobId blob) {
  if (blob.empty()) return;
  call.blobs.push_back(blob);
  ledger_.put(Table::kCallBlob, key_of(id) + key_of(blob), BlobOfCall());
}

Result<void> Calls::put_chunks(CallId id, Channel channel, std::vector<Chunk> chunks) {
  Call* call = find(id);
  if (call == nullptr) return no_call(id);
  auto& highest = channel == Channel::kIn ? call->chunks_in : call->chunks_out;
  for (const Chunk& chunk : chunks) {
    if (chunk.index <= highest) continue;  // A repeat.
    if (chunk.index != std::uint64_t{highest} + 1) {
      return invalid_argument("chunk " + std::to_string(chunk.index) + " came where chunk " + std::to_string(highest + 1) + " was due");
    }
    if (call->chunk_bytes + chunk.payload.inline_bytes() > limits_.chunk_bytes_per_call_max) {
      return resource_exhausted("the call " + id.text() + " has streamed " + std::to_string(call->chunk_bytes >> 20) + " MiB, and is kept with no more than " +
                                std::to_string(limits_.chunk_bytes_per_call_max >> 20) + ": yield less, or several calls");
    }
    call->chunk_bytes += chunk.payload.inline_bytes();
    note_blob(id, *call, chunk.payload.blob);
    ledger_.put(Table::kChunk, chunk_key(id, channel, chunk.index), chunk);
    highest = static_cast<std::uint32_t>(chunk.index);
  }
  wake(*call);
  return {};
}

Async<Result<std::vector<Calls::Chunk>>> Calls::chunks(CallId id, Channel channel, std::uint64_t after, Duration timeout) {
  constexpr std::size_t kChunksMax = 64;
  const Time deadline = loop_.now() + timeout;
  while (true) {
    Call* call = find(id);
    if (call == nullptr) co_return no_call(id);
    const std::uint64_t highest = channel == Channel::kIn ? call->chunks_in : call->chunks_out;
    if (highest > after) break;
    if (loop_.now() >= deadline) co_return std::vector<Chunk>();
    (void)co_await changed(*call).wait_until(deadline);
  }
  co_await ledger_.durable();
  Bytes end = key_of(id);
  end += static_cast<char>(channel);
  Result<std::vector<store::Row>> rows = co_await store_.scan(Table::kChunk, chunk_key(id, channel, after + 1), key_after(std::move(end)), kChunksMax);
  if (!rows.ok()) co_return rows.error();
  std::vector<Chunk> out;
  for (const store::Row& row : *rows) {
    Result<Chunk> chunk = decode<Chunk>(row.second);
    if (!chunk.ok()) co_return chunk.error();
    out.push_back(std::move(*chunk));
  }
  co_return out;
}

std::unordered_set<BlobId> Calls::blobs() const {
  std::unordered_set<BlobId> held;
  for (const auto& [id, call] : calls_) held.insert(call.blobs.begin(), call.blobs.end());
  return held;
}

Async<> Calls::sweep() {
  while (true) {
    co_await sleep_for(loop_, std::chrono::seconds(30));
    const Time now = loop_.now();
    std::vector<CallId> expired;
    for (const auto& [id, call] : calls_) {
      if (call.unfinished > 0) continue;
      const Duration kept = call.about.invocation == Invocation::kSync ? limits_.sync_retention : limits_.async_retention;
      if (now - call.touched > kept) expired.push_back(id);
    }
    for (const CallId id : expired) co_await expire(id);
  }
}

// In pieces, so that a call of a million inputs does not hold up the loop or the store.
Async<> Calls::expire(CallId id) {
  constexpr std::uint32_t kInputsAtOnce = 500;
  const Call* call = find(id);
  if (call == nullptr) co_return;
  const auto count = static_cast<std::uint32_t>(call->inputs.size());
  const std::uint32_t chunks_in = call->chunks_in;
  const std::uint32_t chunks_out = call->chunks_out;
  const std::vector<BlobId> blobs = call->blobs;
  forget_recent(call->about.app, id);
  if (call->changed) call->changed->notify();
  calls_.erase(id);
  ledger_.erase(Table::kCall, key_of(id));
  for (std::uint32_t index = 0; index < count; ++index) {
    const InputId input{id, index};
    outputs_.drop(input);
    arguments_.drop(input);
    ledger_.erase(Table::kInput, input_key(input));
    ledger_.erase(Table::kArguments, input_key(input));
    ledger_.erase(Table::kOutput, input_key(input));
    if (index % kInputsAtOnce == kInputsAtOnce - 1) co_await ledger_.durable();
  }
  for (std::uint32_t index = 1; index <= chunks_in; ++index) ledger_.erase(Table::kChunk, chunk_key(id, Channel::kIn, index));
  for (std::uint32_t index = 1; index <= chunks_out; ++index) ledger_.erase(Table::kChunk, chunk_key(id, Channel::kOut, index));
  if (blobs.empty()) co_return;
  for (const BlobId blob : blobs) ledger_.erase(Table::kCallBlob, key_of(id) + key_of(blob));
  // Not before nothing names them any more.
  co_await ledger_.durable();
  for (const BlobId blob : blobs) {
    if (drop_blob_) drop_blob_(blob);
  }
}

}  // namespace proa::control
