// SPDX-License-Identifier: Apache-2.0
//
// Result: a value, or an Error that a person can read.
//
// The codes are gRPC's set, because every client branches on it. Only `api/` turns an Error into a wire
// status and only `gateway/` into HTTP. The message says what was asked and what stood in the way.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace proa {

// Numbers are those of gRPC (grpc.io/docs/guides/status-codes). DO NOT CHANGE.
enum class Code : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

std::string_view code_name(Code code);

struct [[nodiscard]] Error {
  Code code = Code::kUnknown;
  std::string message;

  friend bool operator==(const Error&, const Error&) = default;
};

template <class T = void>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T value() && { return std::get<0>(std::move(state_)); }  // By value: a loop over f().value() is safe.
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }

  Error& error() & { return std::get<1>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  void value() const {}
  Error& error() & { return *error_; }
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

// The usual errors, so that a line that fails reads as a sentence.
Error invalid_argument(std::string message);
Error not_found(std::string message);
Error already_exists(std::string message);
Error failed_precondition(std::string message);
Error resource_exhausted(std::string message);
Error permission_denied(std::string message);
Error unauthenticated(std::string message);
Error unimplemented(std::string message);
Error internal_error(std::string message);
Error unavailable(std::string message);
Error deadline_exceeded(std::string message);
// "<what>: <strerror(err)>", with the code that fits (ENOENT is kNotFound, ENOSPC kResourceExhausted, …).
Error errno_error(int err, std::string_view what);

}  // namespace proa

// Declarations rather than statement expressions, which GCC gets wrong around co_await (gcc bug 115851).
#define PROA_CAT_(a, b) a##b
#define PROA_CAT(a, b) PROA_CAT_(a, b)
#define PROA_TRY_IMPL_(name, ret, decl, ...) \
  auto name = (__VA_ARGS__);                 \
  if (!name.ok()) ret std::move(name).error(); \
  decl = std::move(name).value()
// One statement, so that it may stand alone behind an if or a for; the switch keeps its else to itself.
#define PROA_CHECK_TRY_IMPL_(name, ret, ...)         \
  switch (0)                                         \
  case 0:                                            \
  default:                                           \
    if (auto name = (__VA_ARGS__); name.ok()) {      \
    } else                                           \
      ret std::move(name).error()

// PROA_TRY(auto x, f()) returns f's error from this function, or declares x.
#define PROA_TRY(decl, ...) PROA_TRY_IMPL_(PROA_CAT(proa_try_, __COUNTER__), return, decl, __VA_ARGS__)
#define PROA_CO_TRY(decl, ...) PROA_TRY_IMPL_(PROA_CAT(proa_try_, __COUNTER__), co_return, decl, __VA_ARGS__)
// The same for a Result<void>, or where the value is not wanted.
#define PROA_TRY_VOID(...) PROA_CHECK_TRY_IMPL_(PROA_CAT(proa_try_, __COUNTER__), return, __VA_ARGS__)
#define PROA_CO_TRY_VOID(...) PROA_CHECK_TRY_IMPL_(PROA_CAT(proa_try_, __COUNTER__), co_return, __VA_ARGS__)
