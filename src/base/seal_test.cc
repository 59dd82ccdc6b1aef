// SPDX-License-Identifier: Apache-2.0
#include "base/seal.h"

#include <gtest/gtest.h>

namespace proa {
namespace {

const Bytes kKey(kSealKeyBytes, 'k');

TEST(Seal, GivesBackWhatWasSealed) {
  SeededRandom random(1);
  for (const Bytes& plain : {Bytes(), Bytes("x"), Bytes(100'000, '\0')}) {
    const Bytes sealed = seal(kKey, "st-1", plain, random);
    EXPECT_EQ(sealed.size(), plain.size() + 29);
    EXPECT_EQ(unseal(kKey, "st-1", sealed).value(), plain);
  }
}

TEST(Seal, TheSameTextSealedTwiceDiffers) {
  SeededRandom random(1);
  EXPECT_NE(seal(kKey, "", "text", random), seal(kKey, "", "text", random));
}

TEST(Seal, OpensOnlyWithItsKeyItsRecordAndUnchanged) {
  SeededRandom random(1);
  const Bytes sealed = seal(kKey, "st-1", "text", random);
  EXPECT_EQ(unseal(Bytes(kSealKeyBytes, 'j'), "st-1", sealed).error().code, Code::kDataLoss);
  EXPECT_EQ(unseal(kKey, "st-2", sealed).error().code, Code::kDataLoss);
  for (std::size_t i = 0; i < sealed.size(); ++i) {
    Bytes changed = sealed;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(unseal(kKey, "st-1", changed).ok()) << i;
    EXPECT_FALSE(unseal(kKey, "st-1", BytesView(sealed).substr(0, i)).ok()) << i;
  }
}

}  // namespace
}  // namespace proa
