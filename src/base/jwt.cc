// SPDX-License-Identifier: Apache-2.0
#include "base/jwt.h"

#include <charconv>

#include "base/digest.h"
#include "base/log.h"

namespace proa {
namespace {

constexpr std::size_t kTokenBytesMax = 4096;
constexpr std::string_view kHeaderStart = R"({"alg":"HS256","typ":"JWT","kid":")";
constexpr std::string_view kHeaderEnd = R"("})";

std::int64_t seconds(Time time) { return to_micros(time) / 1'000'000; }

Error refused(std::string why) { return unauthenticated("the token is not accepted: " + std::move(why)); }

struct Parts {
  std::string_view header;
  std::string_view payload;
  std::string_view signature;
};

Result<Parts> split(std::string_view token) {
  const std::size_t first = token.find('.');
  const std::size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (token.size() > kTokenBytesMax || second == std::string_view::npos) return refused("it is not a JWT");
  if (token.find('.', second + 1) != std::string_view::npos) return refused("it is not a JWT");
  return Parts{token.substr(0, first), token.substr(first + 1, second - first - 1), token.substr(second + 1)};
}

// Reads what sign_jwt() wrote: a flat object, its members in one order. Only called on signed text.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}
  bool literal(std::string_view expected) {
    if (!text_.starts_with(expected)) return false;
    text_.remove_prefix(expected.size());
    return true;
  }
  bool string(std::string& out) {
    if (!literal("\"")) return false;
    while (!text_.empty() && text_.front() != '"') {
      char next = text_.front();
      text_.remove_prefix(1);
      if (next == '\\') {
        // Purposes and identities are our own ids and words, so only these two need escaping.
        if (text_.empty() || (text_.front() != '"' && text_.front() != '\\')) return false;
        next = text_.front();
        text_.remove_prefix(1);
      }
      out += next;
    }
    return literal("\"");
  }
  bool number(std::int64_t& out) {
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), out);
    if (error != std::errc()) return false;
    text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
    return true;
  }
  bool done() const { return text_.empty(); }

 private:
  std::string_view text_;
};

}  // namespace

std::string sign_jwt(const JwtClaims& claims, std::uint32_t key_id, BytesView key) {
  std::string header(kHeaderStart);
  header += std::to_string(key_id);
  header += kHeaderEnd;
  std::string payload = R"({"aud":)" + json_quote(claims.purpose) + R"(,"sub":)" + json_quote(claims.identity);
  payload += R"(,"iat":)" + std::to_string(seconds(claims.issued));
  payload += R"(,"exp":)" + std::to_string(seconds(claims.expires));
  if (claims.index) payload += R"(,"idx":)" + std::to_string(*claims.index);
  payload += '}';
  std::string token = to_base64url(header) + '.' + to_base64url(payload);
  token += '.' + to_base64url(hmac_sha256(key, token).view());
  return token;
}

Result<std::uint32_t> jwt_key_id(std::string_view token) {
  PROA_TRY(const Parts parts, split(token));
  const auto header = from_base64url(parts.header);
  if (!header.ok()) return refused("it is not a JWT");
  const std::string_view text = *header;
  if (!text.starts_with(kHeaderStart) || !text.ends_with(kHeaderEnd)) return refused("another server made it");
  std::uint32_t id = 0;
  const char* const from = text.data() + kHeaderStart.size();
  const char* const to = text.data() + text.size() - kHeaderEnd.size();
  if (from >= to) return refused("another server made it");
  const auto [end, error] = std::from_chars(from, to, id);
  if (error != std::errc() || end != to) return refused("another server made it");
  return id;
}

Result<JwtClaims> verify_jwt(std::string_view token, BytesView key, std::string_view purpose, Time now) {
  PROA_TRY_VOID(jwt_key_id(token));
  PROA_TRY(const Parts parts, split(token));
  const auto signature = from_base64url(parts.signature);
  const BytesView covered = token.substr(0, parts.header.size() + 1 + parts.payload.size());
  if (!signature.ok() || !equal_in_constant_time(*signature, hmac_sha256(key, covered).view())) {
    return refused("its signature is wrong");
  }
  PROA_TRY(const Bytes payload, from_base64url(parts.payload));
  Reader reader(payload);
  JwtClaims claims;
  std::int64_t issued = 0;
  std::int64_t expires = 0;
  bool whole = reader.literal(R"({"aud":)") && reader.string(claims.purpose) && reader.literal(R"(,"sub":)") &&
               reader.string(claims.identity) && reader.literal(R"(,"iat":)") && reader.number(issued) &&
               reader.literal(R"(,"exp":)") && reader.number(expires);
  if (whole && reader.literal(R"(,"idx":)")) {
    std::int64_t index = 0;
    whole = reader.number(index);
    claims.index = index;
  }
  if (!whole || !reader.literal("}") || !reader.done()) return refused("another program made it");
  claims.issued = from_micros(issued * 1'000'000);
  claims.expires = from_micros(expires * 1'000'000);
  if (claims.purpose != purpose) return refused("it is for another purpose");
  if (claims.expires <= now) return refused("it has expired");
  return claims;
}

}  // namespace proa
