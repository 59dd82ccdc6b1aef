// SPDX-License-Identifier: Apache-2.0
//
// Bytes: owned octets. std::string, because protobuf, gRPC slices and SQLite all speak it without a copy;
// the alias says "not text". Also the encodings that appear at our edges.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace proa {

using Bytes = std::string;
using BytesView = std::string_view;

std::string to_hex(BytesView bytes);                // Lower case.
Result<Bytes> from_hex(std::string_view hex);       // kInvalidArgument for odd length or a foreign digit.
std::string to_base64(BytesView bytes);             // RFC 4648 section 4, padded.
Result<Bytes> from_base64(std::string_view text);   // Accepts padded input only.
std::string to_base64url(BytesView bytes);          // RFC 4648 section 5, without padding (as JWT wants it).
Result<Bytes> from_base64url(std::string_view text);
// RFC 3986: everything but unreserved characters becomes %XX.
std::string percent_encode(std::string_view text);
Result<std::string> percent_decode(std::string_view text);

}  // namespace proa
