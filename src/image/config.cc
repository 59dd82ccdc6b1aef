// SPDX-License-Identifier: Apache-2.0
#include "image/config.h"

namespace proa::image {
namespace {

bool is_named(const std::string& entry, std::string_view name) {
  return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
}

}  // namespace

const char* find_env(const std::vector<std::string>& env, std::string_view name) {
  for (const std::string& entry : env) {
    if (is_named(entry, name)) return entry.c_str() + name.size() + 1;
  }
  return nullptr;
}

void set_env(std::vector<std::string>& env, std::string_view name, std::string_view value) {
  std::string entry = std::string(name) + "=" + std::string(value);
  for (std::string& there : env) {
    if (is_named(there, name)) {
      there = std::move(entry);
      return;
    }
  }
  env.push_back(std::move(entry));
}

}  // namespace proa::image
