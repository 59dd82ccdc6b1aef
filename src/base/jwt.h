// SPDX-License-Identifier: Apache-2.0
//
// JWT (RFC 7519) as we issue and take it: HS256 and nothing else, with a key id, a purpose, an identity and
// an expiry. Clients look into the payload (they read "exp" and, for inputs, "idx"); only we check it.
//
// Values only; which keys there are, and for how long, is control::Access's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace proa {

struct JwtClaims {
  std::string purpose;                // "aud": what it may be used for. A token for one purpose is refused for others.
  std::string identity;               // "sub": whom or what it speaks for.
  Time issued;                        // "iat", whole seconds on the wire.
  Time expires;                       // "exp", whole seconds on the wire.
  std::optional<std::int64_t> index;  // "idx".

  friend bool operator==(const JwtClaims&, const JwtClaims&) = default;
};

std::string sign_jwt(const JwtClaims& claims, std::uint32_t key_id, BytesView key);

// The key id that the header names. kUnauthenticated if this is no JWT of ours; nothing is checked by it.
Result<std::uint32_t> jwt_key_id(std::string_view token);

// kUnauthenticated, with the reason, unless `token` was signed with `key`, is for `purpose` and is still
// valid at `now`.
Result<JwtClaims> verify_jwt(std::string_view token, BytesView key, std::string_view purpose, Time now);

}  // namespace proa
