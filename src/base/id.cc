// SPDX-License-Identifier: Apache-2.0
#include "base/id.h"

#include <algorithm>
#include <array>

namespace proa {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::string_view kBase62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kCrockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
constexpr std::size_t kBase62Digits = 22;  // 62^22 > 2^128.
constexpr std::size_t kUlidDigits = 26;    // 32^26 = 2^130.
constexpr std::size_t kIndexDigitsMax = 6;  // 62^6 > 2^32.

constexpr std::array<signed char, 256> make_digits(std::string_view alphabet) {
  std::array<signed char, 256> digits{};
  for (auto& digit : digits) digit = -1;
  for (std::size_t i = 0; i < alphabet.size(); ++i) {
    digits[static_cast<unsigned char>(alphabet[i])] = static_cast<signed char>(i);
  }
  return digits;
}
constexpr auto kBase62Values = make_digits(kBase62);
constexpr auto kCrockfordValues = make_digits(kCrockford);

Wide widen(IdBits bits) { return (static_cast<Wide>(bits.high) << 64) | bits.low; }
IdBits narrow(Wide wide) {
  return {static_cast<std::uint64_t>(wide >> 64), static_cast<std::uint64_t>(wide)};
}

Error not_an_id(std::string_view prefix, std::string_view text) {
  std::string message = "'";
  message += text.substr(0, 64);
  message += "' is not an id of the form ";
  message += prefix;
  message += "-…";
  return invalid_argument(std::move(message));
}

void append_base62(std::string& out, Wide value, std::size_t digits) {
  const std::size_t start = out.size();
  out.append(digits, '0');
  for (std::size_t i = digits; i > 0 && value != 0; --i) {
    out[start + i - 1] = kBase62[static_cast<std::size_t>(value % 62)];
    value /= 62;
  }
}

// False if a character is foreign or the value does not fit.
bool read_digits(std::string_view text, const std::array<signed char, 256>& values, unsigned base, Wide& out) {
  constexpr Wide kMax = ~static_cast<Wide>(0);
  Wide value = 0;
  for (const char c : text) {
    const int digit = values[static_cast<unsigned char>(c)];
    if (digit < 0) return false;
    if (value > (kMax - static_cast<unsigned>(digit)) / base) return false;
    value = value * base + static_cast<unsigned>(digit);
  }
  out = value;
  return true;
}

}  // namespace

std::string format_id(std::string_view prefix, IdForm form, IdBits bits) {
  std::string out(prefix);
  out += '-';
  if (form == IdForm::kBase62) {
    append_base62(out, widen(bits), kBase62Digits);
    return out;
  }
  Wide value = widen(bits);
  const std::size_t start = out.size();
  out.append(kUlidDigits, '0');
  for (std::size_t i = kUlidDigits; i > 0; --i) {
    out[start + i - 1] = kCrockford[static_cast<std::size_t>(value & 31)];
    value >>= 5;
  }
  return out;
}

Result<IdBits> parse_id(std::string_view prefix, IdForm form, std::string_view text) {
  if (!text.starts_with(prefix) || text.size() <= prefix.size() || text[prefix.size()] != '-') {
    return not_an_id(prefix, text);
  }
  const std::string_view body = text.substr(prefix.size() + 1);
  Wide value = 0;
  const bool good = form == IdForm::kBase62
                        ? body.size() == kBase62Digits && read_digits(body, kBase62Values, 62, value)
                        : body.size() == kUlidDigits && read_digits(body, kCrockfordValues, 32, value);
  if (!good || value == 0) return not_an_id(prefix, text);
  return narrow(value);
}

IdBits make_id(IdForm form, Random& random, Time now) {
  IdBits bits{random.next(), random.next()};
  if (form == IdForm::kUlid) {
    const auto millis = static_cast<std::uint64_t>(to_micros(now) / 1000);
    bits.high = (millis << 16) | (bits.high & 0xFFFFU);
    constexpr std::uint64_t kLetterV = 27;
    if ((bits.low & 31U) == kLetterV) bits.low ^= 1U;
  }
  if (bits == IdBits{}) bits.low = 1;
  return bits;
}

std::string InputId::text() const {
  std::string out = "in-";
  append_base62(out, widen(call.bits()), kBase62Digits);
  std::size_t digits = 1;
  for (std::uint32_t rest = index / 62; rest != 0; rest /= 62) ++digits;
  append_base62(out, index, digits);
  return out;
}

Result<InputId> InputId::parse(std::string_view text) {
  constexpr std::string_view kPrefix = "in-";
  if (!text.starts_with(kPrefix)) return not_an_id("in", text);
  const std::string_view body = text.substr(kPrefix.size());
  if (body.size() <= kBase62Digits || body.size() > kBase62Digits + kIndexDigitsMax) return not_an_id("in", text);
  Wide call = 0;
  Wide index = 0;
  if (!read_digits(body.substr(0, kBase62Digits), kBase62Values, 62, call) ||
      !read_digits(body.substr(kBase62Digits), kBase62Values, 62, index) || call == 0 || index > 0xFFFFFFFFU) {
    return not_an_id("in", text);
  }
  return InputId{CallId(narrow(call)), static_cast<std::uint32_t>(index)};
}

}  // namespace proa
