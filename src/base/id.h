// SPDX-License-Identifier: Apache-2.0
//
// Ids: 128 random bits and a type. In memory 16 bytes; as text "<prefix>-<body>" with exactly one dash.
//
// The body is 22 base-62 digits, or for tasks and sandboxes of the second kind a ULID's 26 characters
// (clients parse those shapes; see docs/formats/ids.md). DO NOT CHANGE: ids are stored and handed out.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace proa {

enum class IdForm { kBase62, kUlid };

struct IdBits {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend auto operator<=>(const IdBits&, const IdBits&) = default;
};

std::string format_id(std::string_view prefix, IdForm form, IdBits bits);
Result<IdBits> parse_id(std::string_view prefix, IdForm form, std::string_view text);
// Ulids carry the time in their first 48 bits and never end in 'V', which clients take for a mark.
IdBits make_id(IdForm form, Random& random, Time now);

// `Kind` has `static constexpr std::string_view kPrefix` and `static constexpr IdForm kForm`.
template <class Kind>
class Id {
 public:
  Id() = default;  // The empty id: belongs to nothing, prints as "".
  explicit Id(IdBits bits) : bits_(bits) {}

  static Id make(Random& random, Time now) { return Id(make_id(Kind::kForm, random, now)); }
  // kInvalidArgument, naming the text, if it is not an id of this kind.
  static Result<Id> parse(std::string_view text) {
    PROA_TRY(const IdBits bits, parse_id(Kind::kPrefix, Kind::kForm, text));
    return Id(bits);
  }
  std::string text() const { return empty() ? std::string() : format_id(Kind::kPrefix, Kind::kForm, bits_); }
  bool empty() const { return bits_ == IdBits{}; }
  IdBits bits() const { return bits_; }

  friend auto operator<=>(const Id&, const Id&) = default;

 private:
  IdBits bits_;
};

#define PROA_DEFINE_ID(name, prefix, form)               \
  struct name##Kind {                                    \
    static constexpr std::string_view kPrefix = prefix;  \
    static constexpr ::proa::IdForm kForm = form;        \
  };                                                     \
  using name = ::proa::Id<name##Kind>

PROA_DEFINE_ID(AppId, "ap", IdForm::kBase62);
PROA_DEFINE_ID(FunctionId, "fu", IdForm::kBase62);
PROA_DEFINE_ID(DefinitionId, "de", IdForm::kBase62);
PROA_DEFINE_ID(ClassId, "cs", IdForm::kBase62);
PROA_DEFINE_ID(CallId, "fc", IdForm::kBase62);
PROA_DEFINE_ID(TaskId, "ta", IdForm::kUlid);
PROA_DEFINE_ID(ImageId, "im", IdForm::kBase62);
PROA_DEFINE_ID(MountId, "mo", IdForm::kBase62);
PROA_DEFINE_ID(SecretId, "st", IdForm::kBase62);
PROA_DEFINE_ID(VolumeId, "vo", IdForm::kBase62);
PROA_DEFINE_ID(DictId, "di", IdForm::kBase62);
PROA_DEFINE_ID(QueueId, "qu", IdForm::kBase62);
PROA_DEFINE_ID(EnvironmentId, "en", IdForm::kBase62);
PROA_DEFINE_ID(WorkspaceId, "ac", IdForm::kBase62);
PROA_DEFINE_ID(BlobId, "bl", IdForm::kBase62);
PROA_DEFINE_ID(TokenId, "ak", IdForm::kBase62);
PROA_DEFINE_ID(TokenFlowId, "tf", IdForm::kBase62);
PROA_DEFINE_ID(WorkerId, "wo", IdForm::kBase62);

// One input of a call: its call and its place in it. Needs no storage of its own; as text "in-" and the
// call's 22 digits and the index in base 62 (at least one digit).
struct InputId {
  CallId call;
  std::uint32_t index = 0;

  std::string text() const;
  static Result<InputId> parse(std::string_view text);
  friend auto operator<=>(const InputId&, const InputId&) = default;
};

}  // namespace proa

template <class Kind>
struct std::hash<proa::Id<Kind>> {
  std::size_t operator()(const proa::Id<Kind>& id) const noexcept {
    return static_cast<std::size_t>(id.bits().high ^ (id.bits().low * 0x9E3779B97F4A7C15ULL));
  }
};

template <>
struct std::hash<proa::InputId> {
  std::size_t operator()(const proa::InputId& id) const noexcept {
    return std::hash<proa::CallId>()(id.call) ^ (std::size_t{id.index} * 0xC2B2AE3D27D4EB4FULL);
  }
};
