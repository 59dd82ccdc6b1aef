// SPDX-License-Identifier: Apache-2.0
//
// USER and --chown: names of users and groups as numbers, by an image's own /etc/passwd and /etc/group.
//
// Pure, any thread; the files are foreign text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace proa::image {

struct Account {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string home = "/";
  friend bool operator==(const Account&, const Account&) = default;
};

// `spec` is "", name, uid, name:group, uid:gid or any mix. A uid that the image does not know has group 0 (as
// Docker has it) and home "/".
//   kInvalidArgument  a name that is not in the files, or a number above 65,535 (what a container maps).
Result<Account> find_account(std::string_view spec, std::string_view passwd, std::string_view group);

// The same for --chown: without a group it is the same number as the user's (as Docker has it for numbers),
// or the user's own group for a name.
Result<Account> find_owner(std::string_view spec, std::string_view passwd, std::string_view group);

}  // namespace proa::image
