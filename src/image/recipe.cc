// SPDX-License-Identifier: Apache-2.0
#include "image/recipe.h"

#include <algorithm>
#include <tuple>

namespace proa::image {

std::string dockerfile_text(const Recipe& recipe) {
  std::string text;
  for (const std::string& command : recipe.dockerfile_commands) {
    text += command;
    text += '\n';
  }
  return text;
}

Digest recipe_key(const Recipe& recipe) {
  Recipe canonical = recipe;
  std::sort(
      canonical.context_files.begin(), canonical.context_files.end(),
      [](const ContextFile& a, const ContextFile& b) { return std::tie(a.name, a.data) < std::tie(b.name, b.data); });
  std::sort(canonical.secret_keys.begin(), canonical.secret_keys.end());
  canonical.secret_keys.erase(std::unique(canonical.secret_keys.begin(), canonical.secret_keys.end()),
                              canonical.secret_keys.end());
  // The first bytes separate these digests from those of anything else that is hashed here.
  return sha256("proa recipe 1\n" + encode(canonical));
}

}  // namespace proa::image
