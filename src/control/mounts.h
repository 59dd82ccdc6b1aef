// SPDX-License-Identifier: Apache-2.0
//
// Mounts: sets of files that are laid into containers, and which content a workspace may use.
//
// Bytes are shared between workspaces, rights are not: a workspace may use content that it has uploaded
// itself, and whether something exists is answered from its own rows only. A mount is a tree in the content
// store; two mounts with the same files are the same tree.
//
// The bytes are in a ContentStore, the mounts that everybody may use come from GlobalMounts. On the
// server's loop. Pointers are valid until the next call that changes mounts.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/digest.h"
#include "base/result.h"
#include "cas/tree.h"
#include "control/apps.h"
#include "control/environments.h"
#include "control/keys.h"
#include "control/ledger.h"
#include "control/secrets.h"
#include "rt/loop.h"

namespace proa::control {

// Where bytes lie. Everything that is put is checked against its digest first and durable when put.
class ContentStore {
 public:
  virtual ~ContentStore() = default;
  // The size of each object, in the order asked for; nothing for those that are not there.
  virtual Async<Result<std::vector<std::optional<std::uint64_t>>>> sizes(std::vector<Digest> objects) = 0;
  // kInvalidArgument if the bytes have another digest.
  virtual Async<Result<void>> put_bytes(Digest expected, Bytes bytes) = 0;
  // Takes the bytes over from an uploaded blob, which is gone afterwards; answers their number. kInvalidArgument, kNotFound.
  virtual Async<Result<std::uint64_t>> put_blob(Digest expected, BlobId blob) = 0;
  // kNotFound if the tree names an object that is not there.
  virtual Async<Result<Digest>> put_tree(cas::Tree tree) = 0;
};

// Mounts that exist for everybody, as the client's own packages.
class GlobalMounts {
 public:
  virtual ~GlobalMounts() = default;
  // The digest of the tree; made now if it has to be. kNotFound, with what to do about it.
  virtual Async<Result<Digest>> find(std::string name) = 0;
};

// Stored. DO NOT CHANGE numbers.
enum class MountKind : std::uint8_t { kAnonymous = 1, kEphemeral = 2, kDeployed = 3, kGlobal = 4 };

struct Mount {
  MountId id;
  MountKind kind = MountKind::kAnonymous;
  EnvironmentId environment;  // Of deployed and ephemeral ones.
  AppId app;                  // Of anonymous ones.
  std::string name;           // Of deployed and global ones.
  Digest tree;
  Time created;

  // Tells sets of files apart: it depends on their names, contents and modes only.
  std::string checksum() const { return tree.hex(); }
  static void fields(auto& visit, auto& self) {
    visit(1, self.id), visit(2, self.kind), visit(3, self.environment), visit(4, self.app), visit(5, self.name);
    visit(6, self.tree), visit(7, self.created);
  }
  friend bool operator==(const Mount&, const Mount&) = default;
};

struct MountFile {
  std::string path;  // Absolute, as the container sees it.
  Digest content;
  std::uint32_t mode = 0644;
};

struct MountRequest {
  Creation creation = Creation::kAnonymous;
  bool global = false;
  EnvironmentId environment;
  AppId app;
  std::string name;
  std::vector<MountFile> files;
};

class Mounts final : public EnvironmentListener, public AppListener {
 public:
  struct Config {
    std::size_t files_max = 200'000;          // In one mount.
    std::size_t inline_bytes_max = 64 << 20;  // Of content that comes in a message.
    std::size_t mounts_max = 500'000;
  };

  Mounts(Loop& loop, Random& random, Ledger& ledger, ContentStore& content, GlobalMounts& global, WorkspaceId workspace,
         Config config);
  Mounts(const Mounts&) = delete;
  Mounts& operator=(const Mounts&) = delete;

  // Once, before anything else.
  Result<void> load(store::Store& store);

  // Those of `contents` that the workspace has not uploaded, or that are not there any more.
  Async<Result<std::vector<Digest>>> missing(std::vector<Digest> contents);
  // Takes content in and gives the workspace the right to it. kInvalidArgument if it is not what it is said
  // to be, kResourceExhausted.
  Async<Result<void>> put(Digest content, Bytes bytes);
  Async<Result<void>> put_blob(Digest content, BlobId blob);
  bool may_use(const Digest& content) const { return contents_.contains(content); }
  // The right to content that came in another way (as an uploaded build context).
  void grant(const Digest& content, std::uint64_t size_bytes);

  //   kNotFound            no such mount; a file was never uploaded.
  //   kAlreadyExists       it is there and was to be made.
  //   kInvalidArgument     a path that cannot be, or that occurs twice with different contents.
  //   kPermissionDenied    a global mount was to be made.
  Async<Result<MountId>> get_or_create(MountRequest request);
  // A tree of files that the workspace may use. Same errors.
  Async<Result<Digest>> make_tree(std::vector<MountFile> files);
  const Mount* find(MountId mount) const;
  Result<const Mount*> require(MountId mount) const;

  void environment_removed(EnvironmentId environment) override;
  void function_changed(FunctionId) override {}
  void app_stopping(AppId) override {}
  void app_forgotten(AppId app) override;

 private:
  using Name = std::pair<EnvironmentId, std::string>;

  Async<Result<MountId>> get_global(std::string name);
  MountId add(Mount mount);
  void erase(MountId mount);

  Loop& loop_;
  Random& random_;
  Ledger& ledger_;
  ContentStore& content_;
  GlobalMounts& global_;
  WorkspaceId workspace_;
  Config config_;
  std::unordered_map<Digest, std::uint64_t> contents_;  // Sizes of what the workspace may use.
  std::unordered_map<MountId, Mount> mounts_;
  std::map<Name, MountId> by_name_;
  std::map<std::string, MountId> global_by_name_;
  std::map<std::pair<AppId, Digest>, MountId> of_app_;
};

}  // namespace proa::control
