// SPDX-License-Identifier: Apache-2.0
#include "base/jwt.h"

#include <gtest/gtest.h>

namespace proa {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

JwtClaims claims() {
  return {.purpose = "auth",
          .identity = "ak-1",
          .issued = from_micros(1000 * kSecond),
          .expires = from_micros(2000 * kSecond)};
}

TEST(Jwt, IsVerifiedWithItsKeyForItsPurposeUntilItExpires) {
  const std::string token = sign_jwt(claims(), 7, "key");
  EXPECT_EQ(jwt_key_id(token).value(), 7U);
  EXPECT_EQ(verify_jwt(token, "key", "auth", from_micros(1999 * kSecond)).value(), claims());
  EXPECT_EQ(verify_jwt(token, "yek", "auth", from_micros(1999 * kSecond)).error().code, Code::kUnauthenticated);
  EXPECT_FALSE(verify_jwt(token, "key", "input", from_micros(1999 * kSecond)).ok());
  EXPECT_FALSE(verify_jwt(token, "key", "auth", from_micros(2000 * kSecond)).ok());
}

TEST(Jwt, CarriesAnIndexAsAnInteger) {
  JwtClaims with = claims();
  with.index = 42;
  const std::string token = sign_jwt(with, 1, "key");
  EXPECT_EQ(verify_jwt(token, "key", "auth", with.issued).value(), with);
  const std::size_t dot = token.find('.');
  const Bytes payload = from_base64url(token.substr(dot + 1, token.rfind('.') - dot - 1)).value();
  EXPECT_EQ(payload, R"({"aud":"auth","sub":"ak-1","iat":1000,"exp":2000,"idx":42})");
}

TEST(Jwt, TakesNoOtherAlgorithm) {
  const std::string payload = to_base64url(R"({"aud":"auth","sub":"ak-1","iat":1000,"exp":2000})");
  const std::string none = to_base64url(R"({"alg":"none","typ":"JWT","kid":"1"})") + '.' + payload + '.';
  EXPECT_FALSE(verify_jwt(none, "key", "auth", from_micros(0)).ok());
  EXPECT_FALSE(jwt_key_id(none).ok());
}

TEST(Jwt, RefusesWhatIsChangedOrCut) {
  const std::string token = sign_jwt(claims(), 1, "key");
  for (std::size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    const auto verified = verify_jwt(changed, "key", "auth", from_micros(0));
    // The last digit of an unpadded encoding has bits that mean nothing; a decoder may take either.
    if (i + 1 != token.size()) {
      EXPECT_FALSE(verified.ok()) << i;
    }
    EXPECT_FALSE(verify_jwt(token.substr(0, i), "key", "auth", from_micros(0)).ok()) << i;
  }
  EXPECT_FALSE(verify_jwt(std::string(10'000, '.'), "key", "auth", from_micros(0)).ok());
}

}  // namespace
}  // namespace proa
