// SPDX-License-Identifier: Apache-2.0
#include "image/users.h"

#include <array>
#include <charconv>
#include <optional>

namespace proa::image {
namespace {

// Containers have 65,536 ids of their own.
constexpr std::uint32_t kIdMax = 65535;

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<std::uint32_t> checked(std::uint64_t id, std::string_view spec) {
  if (id > kIdMax) {
    return invalid_argument("'" + std::string(spec) + "': ids in a container end at 65535");
  }
  return static_cast<std::uint32_t>(id);
}

using Fields = std::array<std::string_view, 7>;

// Calls `use` with the fields of each line that has at least `least` of them, until it returns true.
template <class Use>
bool for_each_line(std::string_view text, std::size_t least, const Use& use) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    Fields fields;
    std::size_t count = 0;
    while (count < fields.size()) {
      const auto colon = line.find(':');
      fields[count++] = line.substr(0, colon);
      if (colon == std::string_view::npos) break;
      line.remove_prefix(colon + 1);
    }
    if (count >= least && use(fields)) return true;
  }
  return false;
}

enum class GroupDefault { kZero, kSameNumber };

Result<Account> find(std::string_view spec, std::string_view passwd, std::string_view group, GroupDefault fallback) {
  const auto colon = spec.find(':');
  std::string_view user = spec.substr(0, colon);
  const std::string_view wanted_group = colon == std::string_view::npos ? std::string_view() : spec.substr(colon + 1);
  if (user.empty()) user = "0";
  const auto user_number = number(user);
  Account account;
  if (user_number) {
    PROA_TRY(account.uid, checked(*user_number, spec));
    if (fallback == GroupDefault::kSameNumber) account.gid = account.uid;
    if (account.uid == 0) account.home = "/root";
  }
  std::optional<Error> bad;
  const bool known = for_each_line(passwd, 6, [&](const Fields& fields) {
    const auto uid = number(fields[2]);
    const auto gid = number(fields[3]);
    if (!uid || !gid || (user_number ? *uid != *user_number : fields[0] != user)) return false;
    if (*uid > kIdMax || *gid > kIdMax) {
      bad = invalid_argument("'" + std::string(spec) + "': ids in a container end at 65535");
      return true;
    }
    account.uid = static_cast<std::uint32_t>(*uid);
    if (!user_number || fallback == GroupDefault::kZero) account.gid = static_cast<std::uint32_t>(*gid);
    account.home = fields[5].starts_with('/') ? std::string(fields[5]) : "/";
    return true;
  });
  if (bad) return *bad;
  if (!known && !user_number) {
    return invalid_argument("the image has no user '" + std::string(user) + "' in /etc/passwd");
  }
  if (wanted_group.empty()) return account;
  if (const auto gid = number(wanted_group)) {
    PROA_TRY(account.gid, checked(*gid, spec));
    return account;
  }
  const bool found = for_each_line(group, 3, [&](const Fields& fields) {
    const auto gid = number(fields[2]);
    if (fields[0] != wanted_group || !gid || *gid > kIdMax) return false;
    account.gid = static_cast<std::uint32_t>(*gid);
    return true;
  });
  if (!found) return invalid_argument("the image has no group '" + std::string(wanted_group) + "' in /etc/group");
  return account;
}

}  // namespace

Result<Account> find_account(std::string_view spec, std::string_view passwd, std::string_view group) {
  return find(spec, passwd, group, GroupDefault::kZero);
}

Result<Account> find_owner(std::string_view spec, std::string_view passwd, std::string_view group) {
  return find(spec, passwd, group, GroupDefault::kSameNumber);
}

}  // namespace proa::image
