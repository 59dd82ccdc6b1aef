// SPDX-License-Identifier: Apache-2.0
#include "control/mounts.h"

#include <algorithm>

namespace proa::control {
namespace {

using store::Table;

// The value of a kContent row.
struct Content {
  std::uint64_t size_bytes = 0;
  static void fields(auto& visit, auto& self) { visit(1, self.size_bytes); }
};

}  // namespace

Mounts::Mounts(Loop& loop, Random& random, Ledger& ledger, ContentStore& content, GlobalMounts& global,
               WorkspaceId workspace, Config config)
    : loop_(loop),
      random_(random),
      ledger_(ledger),
      content_(content),
      global_(global),
      workspace_(workspace),
      config_(config) {}

Result<void> Mounts::load(store::Store& store) {
  Result<void> result;
  const Bytes own = key_of(workspace_);
  PROA_TRY_VOID(store.load(Table::kContent, [&](BytesView key, BytesView value) {
    if (!key.starts_with(own)) return;
    const auto digest = Digest::from_bytes(key.substr(own.size()));
    const auto content = decode<Content>(value);
    if (!digest.ok() || !content.ok()) {
      result = Error{Code::kDataLoss, "a stored row of contents cannot be read"};
      return;
    }
    contents_[*digest] = content->size_bytes;
  }));
  PROA_TRY_VOID(store.load(Table::kMount, [&](BytesView, BytesView value) {
    const auto mount = decode<Mount>(value);
    if (!mount.ok()) {
      result = mount.error();
      return;
    }
    if (mount->kind == MountKind::kDeployed) by_name_[{mount->environment, mount->name}] = mount->id;
    if (mount->kind == MountKind::kGlobal) global_by_name_[mount->name] = mount->id;
    if (mount->kind == MountKind::kAnonymous) of_app_[{mount->app, mount->tree}] = mount->id;
    mounts_[mount->id] = *mount;
  }));
  return result;
}

// --- Contents -------------------------------------------------------------------------------------------------

Async<Result<std::vector<Digest>>> Mounts::missing(std::vector<Digest> contents) {
  std::vector<Digest> absent;
  std::vector<Digest> known;
  for (const Digest& content : contents) (may_use(content) ? known : absent).push_back(content);
  if (known.empty()) co_return absent;
  PROA_CO_TRY(const auto sizes, co_await content_.sizes(known));
  for (std::size_t i = 0; i < known.size(); ++i) {
    if (!sizes[i]) absent.push_back(known[i]);
  }
  co_return absent;
}

void Mounts::grant(const Digest& content, std::uint64_t size_bytes) {
  const auto [item, is_new] = contents_.emplace(content, size_bytes);
  if (is_new) ledger_.put(Table::kContent, key_of(workspace_) + key_of(content), Content{size_bytes});
}

Async<Result<void>> Mounts::put(Digest content, Bytes bytes) {
  if (bytes.size() > config_.inline_bytes_max) {
    co_return resource_exhausted("A file of " + std::to_string(bytes.size()) + " bytes does not go in one message; " +
                                 std::to_string(config_.inline_bytes_max) + " are allowed: upload it as a blob");
  }
  const std::uint64_t size = bytes.size();
  PROA_CO_TRY_VOID(co_await content_.put_bytes(content, std::move(bytes)));
  grant(content, size);
  co_return Result<void>();
}

Async<Result<void>> Mounts::put_blob(Digest content, BlobId blob) {
  const Result<std::uint64_t> size = co_await content_.put_blob(content, blob);
  if (size.ok()) {
    grant(content, *size);
    co_return Result<void>();
  }
  if (size.error().code != Code::kNotFound) co_return size.error();
  // A repeat of what worked before finds no blob any more.
  PROA_CO_TRY(const auto missing, co_await this->missing({content}));
  if (!missing.empty()) co_return size.error();
  co_return Result<void>();
}

// --- Mounts ---------------------------------------------------------------------------------------------------

Async<Result<Digest>> Mounts::make_tree(std::vector<MountFile> files) {
  if (files.size() > config_.files_max) {
    co_return resource_exhausted("A mount has at most " + std::to_string(config_.files_max) + " files, not " +
                                 std::to_string(files.size()) + ": put big data sets into a volume");
  }
  std::vector<cas::TreeEntry> entries;
  entries.reserve(files.size());
  for (MountFile& file : files) {
    if (!file.path.starts_with('/')) {
      co_return invalid_argument("The path '" + file.path.substr(0, 200) + "' of a mounted file is not absolute");
    }
    const auto size = contents_.find(file.content);
    if (size == contents_.end()) {
      co_return not_found("The content of '" + file.path.substr(0, 200) + "' (sha256 " + file.content.hex() +
                          ") was not uploaded");
    }
    cas::TreeEntry entry{.path = file.path.substr(1),
                         .kind = cas::EntryKind::kFile,
                         .mode = file.mode & 07777U,
                         .size_bytes = size->second};
    if (entry.mode == 0) entry.mode = 0644;
    if (entry.size_bytes != 0) entry.content = file.content;
    entries.push_back(std::move(entry));
  }
  PROA_CO_TRY(cas::Tree tree, cas::make_tree(std::move(entries)));
  co_return co_await content_.put_tree(std::move(tree));
}

MountId Mounts::add(Mount mount) {
  mount.id = MountId::make(random_, loop_.now());
  mount.created = loop_.now();
  ledger_.put(Table::kMount, key_of(mount.id), mount);
  mounts_[mount.id] = mount;
  return mount.id;
}

Async<Result<MountId>> Mounts::get_global(std::string name) {
  PROA_CO_TRY(const Digest tree, co_await global_.find(name));
  const auto found = global_by_name_.find(name);
  if (found != global_by_name_.end() && mounts_.at(found->second).tree == tree) co_return found->second;
  // What used to have the name stays: functions that were declared with it go on using it.
  const MountId id = add({.kind = MountKind::kGlobal, .name = name, .tree = tree});
  global_by_name_[std::move(name)] = id;
  co_return id;
}

Async<Result<MountId>> Mounts::get_or_create(MountRequest request) {
  const bool named = request.creation != Creation::kAnonymous && request.creation != Creation::kEphemeral;
  if (request.global) {
    if (request.creation == Creation::kLookup) co_return co_await get_global(std::move(request.name));
    co_return permission_denied("The mount '" + request.name +
                                "' was not made: mounts for everybody come with the server");
  }
  const Name name{request.environment, request.name};
  if (named) {
    PROA_CO_TRY_VOID(check_object_name("Mount name", request.name));
    const auto found = by_name_.find(name);
    if (found != by_name_.end()) {
      if (request.creation == Creation::kFailIfExists)
        co_return already_exists("Mount '" + request.name + "' already exists");
      if (request.creation != Creation::kOverwrite) co_return found->second;
    } else if (request.creation == Creation::kLookup) {
      co_return not_found("Mount '" + request.name + "' not found");
    }
  }
  if (mounts_.size() >= config_.mounts_max) {
    co_return resource_exhausted("The mount was not made: there are " + std::to_string(mounts_.size()) +
                                 ", the configured limit");
  }
  PROA_CO_TRY(const Digest tree, co_await make_tree(std::move(request.files)));
  if (request.creation == Creation::kAnonymous) {
    // The same files for the same app are the same mount, so that a redeploy that changes nothing is seen to
    // change nothing.
    const auto same = of_app_.find({request.app, tree});
    if (same != of_app_.end()) co_return same->second;
    const MountId id = add({.kind = MountKind::kAnonymous, .app = request.app, .tree = tree});
    of_app_[{request.app, tree}] = id;
    co_return id;
  }
  if (!named) co_return add({.kind = MountKind::kEphemeral, .environment = request.environment, .tree = tree});
  // Somebody else may have made it while the tree was written.
  const auto found = by_name_.find(name);
  if (found != by_name_.end()) {
    if (request.creation == Creation::kFailIfExists)
      co_return already_exists("Mount '" + request.name + "' already exists");
    if (request.creation == Creation::kCreateIfMissing || mounts_.at(found->second).tree == tree)
      co_return found->second;
  }
  const MountId id =
      add({.kind = MountKind::kDeployed, .environment = request.environment, .name = request.name, .tree = tree});
  by_name_[name] = id;
  co_return id;
}

const Mount* Mounts::find(MountId mount) const {
  const auto found = mounts_.find(mount);
  return found == mounts_.end() ? nullptr : &found->second;
}

Result<const Mount*> Mounts::require(MountId mount) const {
  const Mount* const found = find(mount);
  if (found == nullptr) return not_found("Mount '" + mount.text() + "' not found");
  return found;
}

void Mounts::erase(MountId mount) {
  mounts_.erase(mount);
  ledger_.erase(Table::kMount, key_of(mount));
}

void Mounts::environment_removed(EnvironmentId environment) {
  std::vector<MountId> gone;
  for (const auto& [id, mount] : mounts_) {
    const bool in_it = mount.kind == MountKind::kDeployed || mount.kind == MountKind::kEphemeral;
    if (in_it && mount.environment == environment) gone.push_back(id);
  }
  for (const MountId id : gone) {
    by_name_.erase({environment, mounts_.at(id).name});
    erase(id);
  }
}

void Mounts::app_forgotten(AppId app) {
  const auto from = of_app_.lower_bound({app, Digest()});
  auto to = from;
  for (; to != of_app_.end() && to->first.first == app; ++to) erase(to->second);
  of_app_.erase(from, to);
}

}  // namespace proa::control
