// SPDX-License-Identifier: Apache-2.0
//
// Seal: AES-256-GCM for what is kept secret at rest. A sealed text can be opened only with the same key and
// the same associated data (as the id of the record that holds it), so that it cannot be moved to another.
//
// Form: one byte 1, a nonce of 12 bytes, the ciphertext, a tag of 16 bytes. Stored. DO NOT CHANGE.
#pragma once

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace proa {

constexpr std::size_t kSealKeyBytes = 32;

// `random` must be fit for keys: a nonce is never used twice with one key. `key` has kSealKeyBytes.
Bytes seal(BytesView key, BytesView associated, BytesView plain, Random& random);

// kDataLoss if the key or the associated data is another, or the bytes were changed.
Result<Bytes> unseal(BytesView key, BytesView associated, BytesView sealed);

}  // namespace proa
