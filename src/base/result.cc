// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace proa {

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kOk: return "OK";
    case Code::kCancelled: return "CANCELLED";
    case Code::kUnknown: return "UNKNOWN";
    case Code::kInvalidArgument: return "INVALID_ARGUMENT";
    case Code::kDeadlineExceeded: return "DEADLINE_EXCEEDED";
    case Code::kNotFound: return "NOT_FOUND";
    case Code::kAlreadyExists: return "ALREADY_EXISTS";
    case Code::kPermissionDenied: return "PERMISSION_DENIED";
    case Code::kResourceExhausted: return "RESOURCE_EXHAUSTED";
    case Code::kFailedPrecondition: return "FAILED_PRECONDITION";
    case Code::kAborted: return "ABORTED";
    case Code::kOutOfRange: return "OUT_OF_RANGE";
    case Code::kUnimplemented: return "UNIMPLEMENTED";
    case Code::kInternal: return "INTERNAL";
    case Code::kUnavailable: return "UNAVAILABLE";
    case Code::kDataLoss: return "DATA_LOSS";
    case Code::kUnauthenticated: return "UNAUTHENTICATED";
  }
  return "UNKNOWN";
}

Error invalid_argument(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }
Error not_found(std::string message) { return {Code::kNotFound, std::move(message)}; }
Error already_exists(std::string message) { return {Code::kAlreadyExists, std::move(message)}; }
Error failed_precondition(std::string message) { return {Code::kFailedPrecondition, std::move(message)}; }
Error resource_exhausted(std::string message) { return {Code::kResourceExhausted, std::move(message)}; }
Error permission_denied(std::string message) { return {Code::kPermissionDenied, std::move(message)}; }
Error unauthenticated(std::string message) { return {Code::kUnauthenticated, std::move(message)}; }
Error unimplemented(std::string message) { return {Code::kUnimplemented, std::move(message)}; }
Error internal_error(std::string message) { return {Code::kInternal, std::move(message)}; }
Error unavailable(std::string message) { return {Code::kUnavailable, std::move(message)}; }
Error deadline_exceeded(std::string message) { return {Code::kDeadlineExceeded, std::move(message)}; }

Error errno_error(int err, std::string_view what) {
  Code code = Code::kInternal;
  switch (err) {
    case ENOENT: code = Code::kNotFound; break;
    case EEXIST: code = Code::kAlreadyExists; break;
    case EACCES:
    case EPERM: code = Code::kPermissionDenied; break;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM: code = Code::kResourceExhausted; break;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE: code = Code::kUnavailable; break;
    default: break;
  }
  std::string message(what);
  message += ": ";
  message += std::strerror(err);
  return {code, std::move(message)};
}

}  // namespace proa
