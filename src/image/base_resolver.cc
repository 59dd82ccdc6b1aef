// SPDX-License-Identifier: Apache-2.0
#include "image/base_resolver.h"

#include <algorithm>
#include <optional>

#include "image/glob.h"

namespace proa::image {
namespace {

bool matches(const std::string& pattern, const std::string& reference) {
  const auto match = glob_match(pattern, reference);
  return match.ok() && match.value();
}

BaseImage image_of(BaseRecord record) { return {record.tree, std::move(record.config), std::move(record.premade)}; }

std::string names_of(const std::vector<BaseRecord>& bases) {
  std::string names;
  for (const BaseRecord& base : bases) names += (names.empty() ? "" : ", ") + base.name;
  return names.empty() ? "none" : names;
}

}  // namespace

std::string canonical_reference(std::string_view reference) {
  for (const std::string_view prefix : {"docker.io/", "index.docker.io/", "registry-1.docker.io/"}) {
    if (reference.starts_with(prefix)) {
      reference.remove_prefix(prefix.size());
      break;
    }
  }
  if (reference.starts_with("library/")) reference.remove_prefix(std::string_view("library/").size());
  std::string out(reference);
  const auto slash = out.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  const auto digest = out.find('@', name);
  const auto tag = out.find(':', name);
  if (digest != std::string::npos) {
    if (tag < digest) out.erase(tag, digest - tag);
  } else if (tag == std::string::npos) {
    out += ":latest";
  }
  return out;
}

Async<Result<BaseImage>> NoRegistry::pull(BaseRequest, BuildLog&) {
  co_return unimplemented("no registry is configured");
}

Async<Result<BaseImage>> OrderedResolver::resolve(BaseRequest request, BuildLog& log) {
  std::string canonical = canonical_reference(request.reference);
  for (const auto& [pattern, target] : aliases_) {
    if (!matches(pattern, canonical)) continue;
    for (BaseRecord& base : catalog_.bases()) {
      if (base.name != target) continue;
      log.write(LogStream::kStdout, request.reference + " is configured to be the base '" + base.name + "'\n");
      co_return image_of(std::move(base));
    }
    log.write(LogStream::kStdout, request.reference + " is configured to be " + target + "\n");
    request.reference = target;
    canonical = canonical_reference(target);
    break;
  }

  const std::string reference = request.reference;
  Result<BaseImage> pulled = co_await registry_.pull(std::move(request), log);
  if (pulled.ok()) co_return pulled;
  const Error& error = pulled.error();
  const bool stand_in_may_serve =
      error.code == Code::kNotFound || error.code == Code::kUnavailable || error.code == Code::kUnimplemented;
  if (!stand_in_may_serve) co_return Error{error.code, "image '" + reference + "': " + error.message};

  std::vector<BaseRecord> bases = catalog_.bases();
  // A base that is called just so comes before one with a pattern that fits.
  const auto called = [&](const std::string& name) { return name == canonical; };
  const auto fits = [&](const std::string& pattern) { return matches(pattern, canonical); };
  const auto answers = [](const auto& how) {
    return [&how](const BaseRecord& base) { return std::any_of(base.stands_for.begin(), base.stands_for.end(), how); };
  };
  auto found = std::find_if(bases.begin(), bases.end(), answers(called));
  if (found == bases.end()) found = std::find_if(bases.begin(), bases.end(), answers(fits));
  if (found != bases.end()) {
    log.write(LogStream::kStderr, "WARNING: " + reference + " is not to be had from a registry (" + error.message +
                                      "); the stand-in '" + found->name + "' is used instead: " + found->description +
                                      ". It is not the same image.\n");
    co_return image_of(std::move(*found));
  }
  co_return not_found("image '" + reference + "' cannot be had: " + error.message +
                      ", and no base on this machine stands in for it (bases: " + names_of(bases) +
                      "). Use a base that is here, or make one of a Python of this machine: `proa image base add --python PREFIX`.");
}

}  // namespace proa::image
