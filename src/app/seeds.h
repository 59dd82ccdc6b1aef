// SPDX-License-Identifier: Apache-2.0
//
// Seeds: what a server starts with that nobody uploaded: base images that stand in for a registry's, and the
// mounts that exist for everybody. Both are made by tools/images and lie in a cache directory, an archive and
// a description each; they are taken into the object store when they are first needed. A base that was made anew
// takes the place of the old one at the next lookup.
//
// What the client needs in containers with some Python is made at the end of an image's build, never while a
// container starts: find() has it or says that it is not there.
//
// On the server's loop; archives are read in the pool. One maker for each thing; what cannot be had is remembered as
// such for a minute.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "cas/object_store.h"
#include "control/ledger.h"
#include "control/mounts.h"
#include "image/base_resolver.h"
#include "rt/loop.h"
#include "rt/pool.h"

namespace proa::app {

struct SeedOptions {
  std::string cache_dir;      // As tools/images writes it.
  std::string own_cache_dir;  // Where this process may write, for mounts made on first lookup.
  std::string tools_dir;      // tools/images; "": nothing is made here.
  std::string python = "python3";
};

class Seeds final : public control::GlobalMounts, public image::BaseCatalog, public image::BaseResolver {
 public:
  Seeds(Loop& loop, Pool& pool, cas::ObjectStore& objects, control::Ledger& ledger, Logger& log, SeedOptions options);
  Seeds(const Seeds&) = delete;
  Seeds& operator=(const Seeds&) = delete;

  // Once, before anything else: what was taken in by earlier processes.
  Result<void> load(store::Store& store);

  // --- control::GlobalMounts
  // Makes the client's own mount if need be. What the client needs in containers is only looked for: kUnavailable
  // while it is being made, which begins now; kFailedPrecondition for a minute after that has failed.
  Async<Result<Digest>> find(std::string name) override;
  // The same, and waits until it is made. `log` outlives the call.
  Async<Result<Digest>> make_ready(std::string name, image::BuildLog& log);
  // --- image::BaseCatalog
  std::vector<image::BaseRecord> bases() const override;
  // --- image::BaseResolver: alias, registry, stand-in; bases that are not in the store yet are taken in first.
  Async<Result<image::BaseImage>> resolve(image::BaseRequest request, image::BuildLog& log) override;

 private:
  struct Seed {  // Stored. DO NOT CHANGE tags.
    std::string recipe;
    image::BaseRecord base;  // Of mounts only the tree.
    static void fields(auto& visit, auto& self) { visit(1, self.recipe), visit(2, self.base); }
  };
  struct Failure {
    Error error;
    Time until;
  };
  struct Described {
    std::string archive;  // Whole path.
    Seed seed;
  };
  static Result<Described> describe(const std::string& directory, const std::string& name);
  Async<Result<Digest>> take_in(std::string key, Described described);
  Async<Result<Digest>> make_mount(std::string name);
  Async<> make_in_background(std::string name);
  // The description of a mount in a cache directory.
  Result<Described> describe_mount(const std::string& name) const;
  Async<Result<void>> take_in_bases();
  // What `key` is, made by `recipe` ("" is any). Runs `work` unless it is being run already; then waits for that.
  Async<Result<Digest>> once(std::string key, std::string recipe, Async<Result<Digest>> work);

  Loop& loop_;
  Pool& pool_;
  cas::ObjectStore& objects_;
  control::Ledger& ledger_;
  Logger& log_;
  SeedOptions options_;
  image::NoRegistry no_registry_;
  image::OrderedResolver resolver_;
  std::map<std::string, Seed> taken_;                         // "base/NAME", "mount/NAME".
  std::map<std::string, std::shared_ptr<Signal>> under_way_;  // "base/NAME RECIPE".
  std::map<std::string, Failure> failures_;
  Scope scope_;
};

}  // namespace proa::app
