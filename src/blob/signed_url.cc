// SPDX-License-Identifier: Apache-2.0
#include "blob/signed_url.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>

#include "base/check.h"
#include "base/digest.h"

namespace proa::blob {
namespace {

constexpr std::size_t kTargetBytesMax = 2048;
constexpr std::size_t kKeyBytesMin = 32;

std::string_view name_of(UrlMethod method) {
  switch (method) {
    case UrlMethod::kGet: return "GET";
    case UrlMethod::kPut: return "PUT";
    case UrlMethod::kPost: return "POST";
  }
  return "";
}

std::optional<UrlMethod> method_of(std::string_view name) {
  if (name == "GET" || name == "HEAD") return UrlMethod::kGet;
  if (name == "PUT") return UrlMethod::kPut;
  if (name == "POST") return UrlMethod::kPost;
  return std::nullopt;
}

bool is_plain(std::string_view path) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' || c == '-' ||
           c == '.' || c == '_' || c == '~';
  };
  return path.starts_with('/') && std::all_of(path.begin(), path.end(), allowed);
}

std::int64_t seconds_of(Time time) { return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count(); }

// DO NOT CHANGE: URLs live for days. No field can hold the newline that ends it.
Bytes message_of(const UrlGrant& grant) {
  return "proa url 1\n" + std::string(name_of(grant.method)) + "\n" + grant.path + "\n" + std::to_string(grant.part) +
         "\n" + std::to_string(grant.length) + "\n" + std::to_string(seconds_of(grant.expires)) + "\n";
}

template <class Number>
bool read_number(std::string_view text, Number& into) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), into);
  return !text.empty() && failed == std::errc() && end == text.data() + text.size();
}

Error not_ours() { return permission_denied("this URL was not signed here for this request; ask for a new one"); }

}  // namespace

UrlSigner::UrlSigner(std::vector<Bytes> keys) : keys_(std::move(keys)) {
  PROA_CHECK(!keys_.empty());
  for (const Bytes& key : keys_) PROA_CHECK(key.size() >= kKeyBytesMin);
}

std::string UrlSigner::sign(const UrlGrant& grant) const {
  PROA_CHECK(is_plain(grant.path));
  std::string target = grant.path + "?";
  if (grant.part != 0) target += "part=" + std::to_string(grant.part) + "&";
  if (grant.length != 0) target += "length=" + std::to_string(grant.length) + "&";
  target += "expires=" + std::to_string(seconds_of(grant.expires));
  return target + "&signature=" + to_base64url(hmac_sha256(keys_.front(), message_of(grant)).view());
}

Result<UrlGrant> UrlSigner::verify(std::string_view method, std::string_view target, Time now) const {
  const auto known = method_of(method);
  const auto question = target.find('?');
  if (!known || target.size() > kTargetBytesMax || question == std::string_view::npos) return not_ours();
  UrlGrant grant{.method = *known, .path = std::string(target.substr(0, question))};
  if (!is_plain(grant.path)) return not_ours();
  std::int64_t expires = 0;
  std::string_view signature;
  std::string_view rest = target.substr(question + 1);
  while (!rest.empty()) {
    const auto ampersand = rest.find('&');
    const std::string_view field = rest.substr(0, ampersand);
    rest = ampersand == std::string_view::npos ? std::string_view() : rest.substr(ampersand + 1);
    const auto equals = field.find('=');
    if (equals == std::string_view::npos) return not_ours();
    const std::string_view name = field.substr(0, equals);
    const std::string_view value = field.substr(equals + 1);
    if (name == "part") {
      if (!read_number(value, grant.part)) return not_ours();
    } else if (name == "length") {
      if (!read_number(value, grant.length)) return not_ours();
    } else if (name == "expires") {
      // Within what a Time holds.
      if (!read_number(value, expires) || expires < 0 || expires > 9'000'000'000'000) return not_ours();
    } else if (name == "signature") {
      signature = value;
    } else {
      return not_ours();
    }
  }
  grant.expires = Time(std::chrono::seconds(expires));
  const Bytes message = message_of(grant);
  bool signed_here = false;
  for (const Bytes& key : keys_) {
    // As text: base 64 has several spellings of some bytes, and one is enough.
    if (equal_in_constant_time(to_base64url(hmac_sha256(key, message).view()), signature)) signed_here = true;
  }
  if (!signed_here) return not_ours();
  if (grant.expires < now) return permission_denied("this URL has expired; ask for a new one");
  return grant;
}

}  // namespace proa::blob
