// SPDX-License-Identifier: Apache-2.0
//
// The table of all methods of the wires we speak, as data. From it come what the router lets through,
// docs/compatibility.md and the check that nothing is served that is not in it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace proa::api {

enum class Served : std::uint8_t { kYes, kPartly, kNo };
enum class Auth : std::uint8_t { kToken, kNone };  // kNone: anybody may call it.
enum class From : std::uint8_t { kAnywhere, kClients, kContainers };

struct RpcEntry {
  std::string_view service;
  std::string_view name;
  Served served = Served::kNo;
  std::string_view note;  // How, if partly; why, if not.
  Auth auth = Auth::kToken;
  From from = From::kAnywhere;
  // Its effect must not happen twice: the answer is remembered under the caller's key.
  bool idempotent = false;
  // It adds to what is stored: refused while the disk is full.
  bool grows = false;
};

// Only what deserves a word: methods that are not in it are not served.
std::span<const RpcEntry> rpc_table();
const RpcEntry* find_rpc(std::string_view service, std::string_view name);

}  // namespace proa::api
