// SPDX-License-Identifier: Apache-2.0
//
// Where the images come from that a FROM or COPY --from names and nobody here built.
//
// The order: an alias of the configuration, the registry, a local stand-in. A stand-in is an image made from a
// distribution's own packages to look like the one that was asked for; its use is said in the build's log.
//
// On the loop.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/codec.h"
#include "base/digest.h"
#include "base/result.h"
#include "image/config.h"
#include "image/recipe.h"
#include "image/step_runner.h"
#include "rt/async.h"

namespace proa::image {

struct BaseRequest {
  std::string reference;  // As written: "python:3.11-slim", "ghcr.io/a/b@sha256:…".
  RegistryAuth auth = RegistryAuth::kPublic;
  std::map<std::string, std::string> credentials;  // The registry secret. Never logged.
  enum class Tags { kCached, kFresh };
  Tags tags = Tags::kCached;  // kFresh: asks the registry again what a tag means.
};

struct BaseImage {
  Digest tree;
  ImageConfig config;
  // Shell commands whose effect is in the tree already, in this order: a Dockerfile that begins with exactly
  // these RUNs need not run them.
  std::vector<std::string> premade;
};

class BaseResolver {
 public:
  virtual ~BaseResolver() = default;
  // kNotFound: nobody has it; the message says who was asked.
  virtual Async<Result<BaseImage>> resolve(BaseRequest request, BuildLog& log) = 0;
};

// Pulls from registries.
class RegistryClient {
 public:
  virtual ~RegistryClient() = default;
  //   kNotFound           the registry does not have it.
  //   kUnavailable        it could not be reached; kUnimplemented: none is configured. Both let a stand-in serve.
  //   kPermissionDenied, kUnauthenticated   it refused.
  virtual Async<Result<BaseImage>> pull(BaseRequest request, BuildLog& log) = 0;
};

// What serves where no registry may be asked.
class NoRegistry final : public RegistryClient {
 public:
  Async<Result<BaseImage>> pull(BaseRequest request, BuildLog& log) override;
};

// A base image that is on this machine. Stored. DO NOT CHANGE tags.
struct BaseRecord {
  std::string name;         // "python-3.11-bookworm".
  std::string description;  // "Debian 12 with its Python 3.11.2".
  // The references it stands in for: patterns (image/glob.h) over canonical_reference().
  std::vector<std::string> stands_for;
  Digest tree;
  ImageConfig config;
  std::vector<std::string> premade;
  bool added = false;  // By somebody, for this machine; the others are made everywhere.

  static void fields(auto& visit, auto& self) {
    visit(1, self.name), visit(2, self.description), visit(3, self.stands_for), visit(4, self.tree);
    visit(5, self.config), visit(6, self.premade), visit(7, self.added);
  }
  friend bool operator==(const BaseRecord&, const BaseRecord&) = default;
};

class BaseCatalog {
 public:
  virtual ~BaseCatalog() = default;
  // In order of preference.
  virtual std::vector<BaseRecord> bases() const = 0;
};

// "docker.io/library/python" → "python:latest"; a digest stays, and a tag beside it goes.
std::string canonical_reference(std::string_view reference);

class OrderedResolver final : public BaseResolver {
 public:
  // `aliases`: pattern over canonical_reference() → name of a base, or another reference.
  OrderedResolver(std::map<std::string, std::string> aliases, RegistryClient& registry, const BaseCatalog& catalog)
      : aliases_(std::move(aliases)), registry_(registry), catalog_(catalog) {}
  Async<Result<BaseImage>> resolve(BaseRequest request, BuildLog& log) override;

 private:
  std::map<std::string, std::string> aliases_;
  RegistryClient& registry_;
  const BaseCatalog& catalog_;
};

}  // namespace proa::image
