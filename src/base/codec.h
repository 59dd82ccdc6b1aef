// SPDX-License-Identifier: Apache-2.0
//
// The encoding of everything we store: tagged fields, unknown tags skipped, so that an old program reads
// what a new one wrote and the other way round. Described in docs/formats/records.md. DO NOT CHANGE.
//
// A record lists its fields once, for both directions:
//
//   struct Point {
//     std::int64_t x = 0;
//     std::string label;
//     static void fields(auto& visit, auto& self) { visit(1, self.x), visit(2, self.label); }
//   };
//   Bytes bytes = encode(point);
//   Result<Point> back = decode<Point>(bytes);
//
// A field at its default value is not written; a missing one keeps the default. Tags are never reused.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/id.h"
#include "base/result.h"

namespace proa {

namespace codec {

struct Entry {
  std::uint32_t tag = 0;
  bool is_bytes = false;
  std::uint64_t number = 0;
  BytesView bytes;
};

void put_varint(Bytes& out, std::uint64_t value);
void put_number(Bytes& out, std::uint32_t tag, std::uint64_t value);
void put_bytes(Bytes& out, std::uint32_t tag, BytesView bytes);
// kDataLoss if `bytes` is not a sequence of whole fields.
Result<std::vector<Entry>> read_entries(BytesView bytes);

constexpr std::uint64_t zigzag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
constexpr std::int64_t unzigzag(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

struct Probe {
  template <class T>
  void operator()(std::uint32_t, T&) {}
};
template <class T>
concept Record = requires(Probe& probe, T& value) { T::fields(probe, value); };
template <class T>
concept Number = std::integral<T> || std::is_enum_v<T>;
template <class T>
concept AnyId = requires(const T& id) {
  { id.bits() } -> std::same_as<IdBits>;
};

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class K, class V>
struct IsMap<std::map<K, V>> : std::true_type {};

template <class K, class V>
struct Pair {
  K key;
  V value;
  static void fields(auto& visit, auto& self) { visit(1, self.key), visit(2, self.value); }
};

template <Number T>
constexpr std::uint64_t number_of(T value) {
  if constexpr (std::is_enum_v<T>) {
    return number_of(static_cast<std::underlying_type_t<T>>(value));
  } else if constexpr (std::signed_integral<T>) {
    return zigzag(value);
  } else {
    return static_cast<std::uint64_t>(value);
  }
}
template <Number T>
constexpr T number_as(std::uint64_t raw) {
  if constexpr (std::is_enum_v<T>) {
    return static_cast<T>(number_as<std::underlying_type_t<T>>(raw));
  } else if constexpr (std::signed_integral<T>) {
    return static_cast<T>(unzigzag(raw));
  } else {
    return static_cast<T>(raw);
  }
}

class Encoder {
 public:
  template <class T>
  void operator()(std::uint32_t tag, const T& value) {
    if constexpr (IsOptional<T>::value) {
      if (value) put(tag, *value);
    } else if constexpr (IsVector<T>::value) {
      for (const auto& item : value) put(tag, item);
    } else if constexpr (IsMap<T>::value) {
      for (const auto& [key, item] : value) {
        put(tag, Pair<std::remove_cvref_t<decltype(key)>, std::remove_cvref_t<decltype(item)>>{key, item});
      }
    } else {
      if (value == T{}) return;
      put(tag, value);
    }
  }

  Bytes take() { return std::move(out_); }

 private:
  template <class T>
  void put(std::uint32_t tag, const T& value) {
    if constexpr (Number<T>) {
      put_number(out_, tag, number_of(value));
    } else if constexpr (std::same_as<T, double>) {
      put_bytes(out_, tag, {reinterpret_cast<const char*>(&value), sizeof value});
    } else if constexpr (std::same_as<T, std::string>) {
      put_bytes(out_, tag, value);
    } else if constexpr (std::same_as<T, Time>) {
      put_number(out_, tag, zigzag(to_micros(value)));
    } else if constexpr (std::same_as<T, Duration>) {
      put_number(out_, tag, zigzag(value.count()));
    } else if constexpr (std::same_as<T, Digest>) {
      put_bytes(out_, tag, value.view());
    } else if constexpr (AnyId<T>) {
      const IdBits bits = value.bits();
      put_bytes(out_, tag, {reinterpret_cast<const char*>(&bits), sizeof bits});
    } else if constexpr (std::same_as<T, InputId>) {
      struct {
        IdBits bits;
        std::uint32_t index;
      } raw{value.call.bits(), value.index};
      put_bytes(out_, tag, {reinterpret_cast<const char*>(&raw), sizeof(IdBits) + sizeof(std::uint32_t)});
    } else {
      static_assert(Record<T>, "a stored type must list its fields");
      Encoder inner;
      T::fields(inner, value);
      put_bytes(out_, tag, inner.take());
    }
  }

  Bytes out_;
};

class Decoder {
 public:
  explicit Decoder(std::vector<Entry> entries) : entries_(std::move(entries)) {}

  template <class T>
  void operator()(std::uint32_t tag, T& value) {
    for (const Entry& entry : entries_) {
      if (entry.tag != tag || !ok_) continue;
      if constexpr (IsOptional<T>::value) {
        get(entry, value.emplace());
      } else if constexpr (IsVector<T>::value) {
        typename T::value_type item{};
        get(entry, item);
        value.push_back(std::move(item));
      } else if constexpr (IsMap<T>::value) {
        Pair<typename T::key_type, typename T::mapped_type> pair{};
        get(entry, pair);
        value.insert_or_assign(std::move(pair.key), std::move(pair.value));
      } else {
        get(entry, value);
      }
    }
  }

  bool ok() const { return ok_; }

 private:
  template <class T>
  void get(const Entry& entry, T& value) {
    if constexpr (Number<T>) {
      if (expect(!entry.is_bytes)) value = number_as<T>(entry.number);
    } else if constexpr (std::same_as<T, double>) {
      if (expect(entry.bytes.size() == sizeof value)) std::memcpy(&value, entry.bytes.data(), sizeof value);
    } else if constexpr (std::same_as<T, std::string>) {
      if (expect(entry.is_bytes)) value.assign(entry.bytes);
    } else if constexpr (std::same_as<T, Time>) {
      if (expect(!entry.is_bytes)) value = from_micros(unzigzag(entry.number));
    } else if constexpr (std::same_as<T, Duration>) {
      if (expect(!entry.is_bytes)) value = Duration(unzigzag(entry.number));
    } else if constexpr (std::same_as<T, Digest>) {
      auto digest = Digest::from_bytes(entry.bytes);
      if (expect(digest.ok())) value = digest.value();
    } else if constexpr (AnyId<T>) {
      IdBits bits;
      if (!expect(entry.bytes.size() == sizeof bits)) return;
      std::memcpy(&bits, entry.bytes.data(), sizeof bits);
      value = T(bits);
    } else if constexpr (std::same_as<T, InputId>) {
      IdBits bits;
      if (!expect(entry.bytes.size() == sizeof bits + sizeof value.index)) return;
      std::memcpy(&bits, entry.bytes.data(), sizeof bits);
      std::memcpy(&value.index, entry.bytes.data() + sizeof bits, sizeof value.index);
      value.call = CallId(bits);
    } else {
      static_assert(Record<T>, "a stored type must list its fields");
      if (!expect(entry.is_bytes)) return;
      auto entries = read_entries(entry.bytes);
      if (!expect(entries.ok())) return;
      Decoder inner(std::move(entries).value());
      T::fields(inner, value);
      ok_ = ok_ && inner.ok();
    }
  }

  bool expect(bool condition) {
    ok_ = ok_ && condition;
    return condition;
  }

  std::vector<Entry> entries_;
  bool ok_ = true;
};

}  // namespace codec

template <codec::Record T>
Bytes encode(const T& record) {
  codec::Encoder encoder;
  T::fields(encoder, record);
  return encoder.take();
}

// kDataLoss if the bytes were not written by encode() of some version of T.
template <codec::Record T>
Result<T> decode(BytesView bytes) {
  PROA_TRY(auto entries, codec::read_entries(bytes));
  codec::Decoder decoder(std::move(entries));
  T record{};
  T::fields(decoder, record);
  if (!decoder.ok()) return Error{Code::kDataLoss, "a stored record has a field of the wrong kind"};
  return record;
}

}  // namespace proa
