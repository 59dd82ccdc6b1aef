// SPDX-License-Identifier: Apache-2.0
#include "image/builder.h"

#include <algorithm>
#include <optional>

#include "image/planner.h"
#include "image/probe.h"
#include "image/tree_files.h"
#include "image/users.h"

namespace proa::image {
namespace {

using cas::Tree;
using TreePointer = std::shared_ptr<const Tree>;

constexpr std::size_t kAccountFileBytesMax = 4 << 20;
constexpr std::size_t kAptSourcesMax = 64;
constexpr std::size_t kTailBytesMax = 4096;
constexpr std::size_t kTailLinesMax = 20;
constexpr std::size_t kProbeBytesMax = 64 << 10;
constexpr Duration kProbeTimeout = std::chrono::seconds(30);

// What the runtime puts over every root, and what belongs to the kernel: never part of an image.
const std::vector<std::string>& always_hidden() {
  static const std::vector<std::string> paths{"__proa",          "proc",      "sys",         "dev",
                                              "etc/resolv.conf", "etc/hosts", "etc/hostname"};
  return paths;
}

// A tree by its digest; its entries once somebody needed them.
struct Root {
  Digest digest;
  TreePointer tree;
};

Result<Root> put_root(cas::ObjectStore& objects, Tree tree) {
  PROA_TRY(const Digest digest, objects.put_tree(tree));
  return Root{digest, std::make_shared<const Tree>(std::move(tree))};
}

// The text of a small file of an image; empty if it is not there or not a file.
Result<std::string> read_text(const cas::ObjectStore& objects, const Tree& tree, std::string_view path) {
  const cas::TreeEntry* entry = find_through_links(tree, path);
  if (entry == nullptr || entry->kind != cas::EntryKind::kFile || entry->size_bytes == 0) return std::string();
  return objects.read(entry->content, kAccountFileBytesMax);
}

Result<MirrorSettings> mirrors_for(const cas::ObjectStore& objects, const Tree& tree, const BuildMirrors& mirrors) {
  constexpr std::string_view kParts = "etc/apt/sources.list.d/";
  PROA_TRY(const std::string os_release, read_text(objects, tree, "etc/os-release"));
  PROA_TRY(std::string sources, read_text(objects, tree, "etc/apt/sources.list"));
  std::size_t count = 0;
  for (const cas::TreeEntry& entry : tree.entries) {
    if (!entry.path.starts_with(kParts) || entry.kind != cas::EntryKind::kFile || ++count > kAptSourcesMax) continue;
    PROA_TRY(const std::string part, read_text(objects, tree, entry.path));
    sources += part;
  }
  return mirror_settings(mirrors, os_release, sources);
}

// What makes two runs of a command the same. Stored as a digest. DO NOT CHANGE.
struct RunKey {
  Digest tree;
  std::vector<std::string> argv;
  std::string script;
  std::vector<std::string> env;
  std::string workdir;
  std::string user;
  bool network = true;
  std::vector<std::string> secret_keys;
  std::vector<std::string> mounts;

  static void fields(auto& visit, auto& self) {
    visit(1, self.tree), visit(2, self.argv), visit(3, self.script), visit(4, self.env), visit(5, self.workdir);
    visit(6, self.user), visit(7, self.network), visit(8, self.secret_keys), visit(9, self.mounts);
  }
};

struct CopyKey {
  Digest tree;
  Digest from;
  std::vector<std::string> sources;
  std::vector<ContextFile> inline_files;
  std::string destination;
  bool into_directory = false;
  std::string chown;
  std::optional<std::uint32_t> chmod;

  static void fields(auto& visit, auto& self) {
    visit(1, self.tree), visit(2, self.from), visit(3, self.sources), visit(4, self.inline_files);
    visit(5, self.destination), visit(6, self.into_directory), visit(7, self.chown), visit(8, self.chmod);
  }
};

// Passes output on and remembers its end, for the error.
class TailLog final : public BuildLog {
 public:
  explicit TailLog(BuildLog& next) : next_(next) {}
  void write(LogStream stream, std::string_view text) override {
    next_.write(stream, text);
    tail_ += text;
    if (tail_.size() > 2 * kTailBytesMax) tail_.erase(0, tail_.size() - kTailBytesMax);
  }
  std::string last_lines() const {
    std::string_view text = tail_;
    if (text.size() > kTailBytesMax) text.remove_prefix(text.size() - kTailBytesMax);
    while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    std::size_t start = text.size();
    for (std::size_t lines = 0; lines < kTailLinesMax && start != std::string_view::npos && start > 0; ++lines) {
      start = text.rfind('\n', start - 1);
    }
    return std::string(start == std::string_view::npos || start == 0 ? text : text.substr(start + 1));
  }

 private:
  BuildLog& next_;
  std::string tail_;
};

class CaptureLog final : public BuildLog {
 public:
  void write(LogStream stream, std::string_view text) override {
    if (stream == LogStream::kStdout && text_.size() < kProbeBytesMax) text_ += text;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string in_words(Duration duration) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  return std::to_string(seconds) + " s";
}

std::string first_line(const std::string& source) {
  constexpr std::size_t kMax = 300;
  std::string line = source.substr(0, source.find('\n'));
  if (line.size() > kMax) line = line.substr(0, kMax) + "…";
  return line;
}

// The context as one tree: the given one with the inline files laid over it.
Result<Root> make_context(cas::ObjectStore& objects, const Recipe& recipe) {
  Tree base;
  if (recipe.context != Digest{}) {
    PROA_TRY(base, objects.get_tree(recipe.context));
  } else {
    PROA_TRY(base, cas::make_tree({}));
  }
  if (recipe.context_files.empty()) return put_root(objects, std::move(base));
  TreeEditor editor(base);
  for (const ContextFile& file : recipe.context_files) {
    cas::TreeEntry entry;
    entry.path = clean_path(file.name);
    if (entry.path.empty()) return invalid_argument("a context file has no name");
    entry.mode = 0644;
    entry.size_bytes = file.data.size();
    if (!file.data.empty()) {
      PROA_TRY(entry.content, objects.put_bytes(file.data));
    }
    PROA_TRY_VOID(editor.put(std::move(entry), Owner{}));
  }
  PROA_TRY(Tree context, editor.finish());
  return put_root(objects, std::move(context));
}

Result<std::optional<Owner>> find_copy_owner(const cas::ObjectStore& objects, const Tree& tree,
                                             const std::string& chown) {
  if (chown.empty()) return std::optional<Owner>();
  PROA_TRY(const std::string passwd, read_text(objects, tree, "etc/passwd"));
  PROA_TRY(const std::string group, read_text(objects, tree, "etc/group"));
  PROA_TRY(const Account account, find_owner(chown, passwd, group));
  return std::optional<Owner>(Owner{account.uid, account.gid});
}

Result<Root> copy_files(cas::ObjectStore& objects, const Tree& target, const Tree& from, const std::string& from_name,
                        const CopyStep& step) {
  TreeEditor editor(target);
  CopyRequest request;
  request.destination = step.destination;
  request.into_directory = step.into_directory;
  request.mode = step.chmod;
  PROA_TRY(request.owner, find_copy_owner(objects, target, step.chown));
  if (step.sources.size() + step.inline_files.size() > 1 && !step.into_directory) {
    PROA_TRY(const std::string real, editor.resolve(clean_path(step.destination)));
    const cas::TreeEntry* there = editor.at(real);
    if (there == nullptr || there->kind != cas::EntryKind::kDirectory) {
      return invalid_argument("with more than one source the destination must be a directory and end with a /");
    }
  }
  if (!step.sources.empty()) {
    request.from = &from;
    request.from_name = from_name;
    request.sources = step.sources;
    PROA_TRY_VOID(copy_into(editor, request));
  }
  for (const auto& [name, content] : step.inline_files) {
    cas::TreeEntry entry;
    entry.path = clean_path(name);
    entry.mode = 0644;
    entry.size_bytes = content.size();
    if (!content.empty()) {
      PROA_TRY(entry.content, objects.put_bytes(content));
    }
    request.sources = {"/" + entry.path};
    request.from_name = "the heredoc";
    PROA_TRY(const Tree one, cas::make_tree({std::move(entry)}));
    request.from = &one;
    PROA_TRY_VOID(copy_into(editor, request));
  }
  PROA_TRY(Tree result, editor.finish());
  return put_root(objects, std::move(result));
}

}  // namespace

// A build that one or more requests wait for.
struct Builder::Flight final : BuildLog {
  Flight(Loop& loop, Digest flight_key, std::size_t bytes_max)
      : key(flight_key), done(loop), output_bytes_left(bytes_max) {}

  void write(LogStream stream, std::string_view text) override {
    if (output_bytes_left == 0) return;
    if (text.size() >= output_bytes_left) {
      text = text.substr(0, output_bytes_left);
      output_bytes_left = 0;
    } else {
      output_bytes_left -= text.size();
    }
    replay.emplace_back(stream, text);
    for (BuildLog* sink : sinks) sink->write(stream, text);
    if (output_bytes_left == 0) {
      constexpr std::string_view kCut = "\n[the output is too long; the rest is not shown]\n";
      replay.emplace_back(LogStream::kStderr, kCut);
      for (BuildLog* sink : sinks) sink->write(LogStream::kStderr, kCut);
    }
  }

  Digest key;
  Signal done;
  std::optional<Result<ImageRecord>> result;
  std::vector<std::pair<LogStream, std::string>> replay;
  std::size_t output_bytes_left;
  std::vector<BuildLog*> sinks;
  Scope work;
};

// One build, from the recipe's text to a record. Lives in the frame of fly().
class Builder::Build {
 public:
  Build(Builder& builder, std::shared_ptr<const BuildRequest> request, BuildLog& log)
      : builder_(builder),
        loop_(builder.loop_),
        pool_(builder.pool_),
        objects_(builder.objects_),
        request_(std::move(request)),
        log_(log) {}

  Async<Result<ImageRecord>> run() {
    const Recipe& recipe = request_->recipe;
    if (!recipe.build_function.empty())
      co_return unimplemented("a build function is run as a function, not by the builder");
    if (!recipe.volumes.empty()) co_return unimplemented("volumes cannot be used by the commands of a build yet");
    if (recipe.gpu_count > 0) {
      co_return failed_precondition("the build asks for a GPU (" + recipe.gpu_type + "), and builds have none here");
    }
    PROA_CO_TRY(plan_, co_await make_plan());
    for (const PlannedStage& stage : plan_->stages) {
      PROA_CO_TRY_VOID(co_await run_stage(&stage));
    }
    Stage& last = stages_.at(plan_->stages.back().index);
    log("Saving image...\n");
    PROA_CO_TRY(ImageRecord record, co_await finish(last.root, last.state.config, last.runtime));
    record.builder_version = recipe.builder_version;
    co_return record;
  }

  // The record of a tree that is done; asks the interpreter only if it is one that was not met before.
  Async<Result<ImageRecord>> finish(Root root, ImageConfig config, RuntimeInfo known) {
    PROA_CO_TRY(root, co_await load(root));
    struct Facts {
      Digest identity;
      Libc libc;
      bool has_shell;
      std::map<std::string, std::string> packages;
    };
    auto look = [tree = root.tree, config] {
      return Facts{runtime_identity(*tree, config), find_libc(*tree), find_through_links(*tree, "bin/sh") != nullptr,
                   python_packages(*tree)};
    };
    Facts facts = co_await run_in(pool_, loop_, std::move(look));
    ImageRecord record;
    record.tree = root.digest;
    record.config = std::move(config);
    record.python_packages = std::move(facts.packages);
    record.created = loop_.now();
    record.runtime.libc = facts.libc;
    if (facts.identity == Digest{}) co_return record;
    if (known.identity == facts.identity) {
      record.runtime = std::move(known);
    } else if (const auto met = builder_.probes_.find(facts.identity); met != builder_.probes_.end()) {
      record.runtime = met->second;
    } else if (facts.has_shell) {
      PROA_CO_TRY(record.runtime, co_await probe(root.digest, record.config.env, facts.identity));
      record.runtime.libc = facts.libc;
    }
    co_return record;
  }

 private:
  struct Stage {
    Root root;
    StageState state;
    RuntimeInfo runtime;  // Of what it started from.
  };

  void log(const std::string& text) { log_.write(LogStream::kStdout, text); }

  Async<Result<std::shared_ptr<const BuildPlan>>> make_plan() {
    auto work = [request = request_]() -> Result<std::shared_ptr<const BuildPlan>> {
      PROA_TRY(const Dockerfile file, parse_dockerfile(dockerfile_text(request->recipe)));
      PROA_TRY(BuildPlan plan, plan_stages(file, request->recipe.build_args));
      return std::make_shared<const BuildPlan>(std::move(plan));
    };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

  Async<Result<Root>> load(Root root) {
    if (root.tree) co_return root;
    auto work = [&objects = objects_, digest = root.digest]() -> Result<Root> {
      PROA_TRY(Tree tree, objects.get_tree(digest));
      return Root{digest, std::make_shared<const Tree>(std::move(tree))};
    };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

  Async<Result<void>> run_stage(const PlannedStage* stage) {
    log("\n=> Step 0: " + stage->source + "\n");
    PROA_CO_TRY(BaseImage base, co_await start_of(stage));
    Stage& entry = stages_[stage->index];  // Its address stays: std::map.
    entry.root.digest = base.tree;
    if (stage->base_stage) {
      entry.root = stages_.at(*stage->base_stage).root;
      entry.runtime = stages_.at(*stage->base_stage).runtime;
      entry.state.args = stages_.at(*stage->base_stage).state.args;
      entry.state.run_user = stages_.at(*stage->base_stage).state.run_user;
    } else if (const auto parent = request_->parents.find(stage->base); parent != request_->parents.end()) {
      entry.runtime = parent->second.runtime;
    }
    entry.state.config = std::move(base.config);
    auto work = [plan = plan_, stage, state = entry.state, request = request_] {
      return plan_steps(*plan, *stage, state, request->recipe.build_args);
    };
    PROA_CO_TRY(StageSteps steps, co_await run_in(pool_, loop_, std::move(work)));
    entry.state = std::move(steps.end);
    const std::size_t premade = premade_steps(*stage, base.premade);
    for (std::size_t i = 0; i < steps.steps.size(); ++i) {
      const Step& step = steps.steps[i];
      std::string title = "\n=> Step " + std::to_string(i + 1) + ": " + step.source;
      if (i < premade) {
        log(title + "\n(done already in the base image)\n");
        continue;
      }
      auto next = co_await run_step(&step, entry.root, std::move(title));
      if (!next.ok()) co_return in_step(step, next.error());
      entry.root = std::move(next).value();
    }
    co_return Result<void>();
  }

  static Error in_step(const Step& step, const Error& error) {
    return {error.code,
            first_line(step.source) + " (Dockerfile line " + std::to_string(step.line) + "): " + error.message};
  }

  // How many of a stage's first instructions are exactly what its base has done.
  static std::size_t premade_steps(const PlannedStage& stage, const std::vector<std::string>& premade) {
    if (premade.empty() || stage.instructions.size() < premade.size()) return 0;
    for (std::size_t i = 0; i < premade.size(); ++i) {
      const Instruction& instruction = stage.instructions[i];
      const bool same = instruction.keyword == Keyword::kRun && !instruction.exec_form && instruction.flags.empty() &&
                        instruction.heredocs.empty() && instruction.text == premade[i];
      if (!same) return 0;
    }
    return premade.size();
  }

  Async<Result<BaseImage>> start_of(const PlannedStage* stage) {
    if (stage->base_stage) {
      const Stage& earlier = stages_.at(*stage->base_stage);
      BaseImage base;
      base.tree = earlier.root.digest;
      base.config = earlier.state.config;
      co_return base;
    }
    if (stage->base == "scratch") {
      auto work = [&objects = objects_]() -> Result<Digest> {
        PROA_TRY(const Tree empty, cas::make_tree({}));
        return objects.put_tree(empty);
      };
      BaseImage base;
      PROA_CO_TRY(base.tree, co_await run_in(pool_, loop_, std::move(work)));
      co_return base;
    }
    co_return co_await external(stage->base);
  }

  // A parent or a foreign image, by the name that the Dockerfile has for it.
  Async<Result<BaseImage>> external(std::string name) {
    if (const auto parent = request_->parents.find(name); parent != request_->parents.end()) {
      BaseImage base;
      base.tree = parent->second.tree;
      base.config = parent->second.config;
      co_return base;
    }
    if (request_->recipe.parents.contains(name)) {
      co_return failed_precondition("the image behind '" + name + "' is not built");
    }
    if (const auto met = foreign_.find(name); met != foreign_.end()) co_return met->second;
    BaseRequest asked;
    asked.reference = name;
    asked.auth = request_->recipe.registry_auth;
    asked.credentials = request_->registry_credentials;
    if (request_->cache == BuildRequest::Cache::kRefresh) asked.tags = BaseRequest::Tags::kFresh;
    PROA_CO_TRY(BaseImage base, co_await builder_.bases_.resolve(std::move(asked), log_));
    foreign_.emplace(name, base);
    co_return base;
  }

  Async<Result<Root>> run_step(const Step* step, Root root, std::string title) {
    if (const auto* run = std::get_if<RunStep>(&step->what))
      co_return co_await run_command(run, std::move(root), std::move(title));
    if (const auto* copy = std::get_if<CopyStep>(&step->what))
      co_return co_await run_copy(copy, std::move(root), std::move(title));
    log(title + "\n");
    if (const auto* directory = std::get_if<DirectoryStep>(&step->what)) {
      co_return co_await make_directory(directory->path, std::move(root));
    }
    co_return root;
  }

  Async<Result<Root>> make_directory(std::string path, Root root) {
    PROA_CO_TRY(root, co_await load(root));
    auto work = [&objects = objects_, root, path]() -> Result<Root> {
      TreeEditor editor(*root.tree);
      PROA_TRY(const std::string real, editor.resolve(clean_path(path)));
      PROA_TRY_VOID(editor.make_directory(real, Owner{}));
      if (!editor.changed()) return root;
      PROA_TRY(Tree changed, editor.finish());
      return put_root(objects, std::move(changed));
    };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

  // The tree that an earlier build made of a step, if it is still there.
  Async<Result<std::optional<Root>>> remembered(Digest key) {
    std::optional<Root> nothing;
    if (request_->cache == BuildRequest::Cache::kRefresh) co_return nothing;
    PROA_CO_TRY(const std::optional<Digest> tree, co_await builder_.cache_.find(key));
    if (!tree) co_return nothing;
    auto work = [&objects = objects_, digest = *tree] { return objects.has(digest); };
    PROA_CO_TRY(const bool there, co_await run_in(pool_, loop_, std::move(work)));
    if (!there) co_return nothing;
    Root root;
    root.digest = *tree;
    co_return std::optional<Root>(root);
  }

  struct Source {
    Root root;
    std::string name;
  };
  Async<Result<Source>> source_of(Origin origin) {
    Source source;
    switch (origin.kind) {
      case Origin::Kind::kContext: {
        if (!context_) {
          auto work = [&objects = objects_, request = request_] { return make_context(objects, request->recipe); };
          PROA_CO_TRY(context_, co_await run_in(pool_, loop_, std::move(work)));
        }
        source.root = *context_;
        source.name = "the build context";
        break;
      }
      case Origin::Kind::kStage: {
        const auto stage = stages_.find(origin.stage);
        if (stage == stages_.end())
          co_return failed_precondition("stage " + std::to_string(origin.stage) + " was not built");
        source.root = stage->second.root;
        source.name = "stage " + std::to_string(origin.stage);
        break;
      }
      case Origin::Kind::kImage: {
        PROA_CO_TRY(const BaseImage image, co_await external(origin.image));
        source.root.digest = image.tree;
        source.name = "the image " + origin.image;
        break;
      }
    }
    co_return source;
  }

  Async<Result<Root>> run_copy(const CopyStep* step, Root root, std::string title) {
    PROA_CO_TRY(Source source, co_await source_of(step->origin));
    CopyKey parts;
    parts.tree = root.digest;
    parts.from = source.root.digest;
    parts.sources = step->sources;
    for (const auto& [name, content] : step->inline_files) parts.inline_files.push_back({name, content});
    parts.destination = step->destination;
    parts.into_directory = step->into_directory;
    parts.chown = step->chown;
    parts.chmod = step->chmod;
    const Digest key = sha256("proa copy 1\n" + encode(parts));
    PROA_CO_TRY(const std::optional<Root> known, co_await remembered(key));
    if (known) {
      log(title + " (cached)\n");
      co_return *known;
    }
    log(title + "\n");
    PROA_CO_TRY(root, co_await load(root));
    PROA_CO_TRY(source.root, co_await load(source.root));
    auto work = [&objects = objects_, target = root.tree, from = source.root.tree, name = source.name, what = *step] {
      return copy_files(objects, *target, *from, name, what);
    };
    PROA_CO_TRY(Root made, co_await run_in(pool_, loop_, std::move(work)));
    PROA_CO_TRY_VOID(co_await builder_.cache_.remember(key, made.digest));
    co_return made;
  }

  // What a command sees beside the image's own files, and never leaves behind.
  struct Extras {
    std::vector<std::pair<RunMount, Source>> binds;
    std::vector<std::pair<std::string, std::string>> links;  // Path → target: secrets as files.
    std::vector<std::string> directories;
    std::vector<std::string> hidden;
    std::vector<StepFile> files;
    std::vector<std::string> env;
    std::vector<std::string> key;
  };
  Async<Result<Extras>> extras_of(const RunStep* step) {
    Extras extras;
    for (const RunMount& mount : step->mounts) {
      extras.key.push_back(std::to_string(static_cast<int>(mount.kind)) + " " + mount.target + " " + mount.source +
                           " " + mount.id);
      if (!mount.target.empty()) extras.hidden.push_back(clean_path(mount.target));
      if (mount.kind == RunMount::Kind::kEmpty) {
        extras.directories.push_back(mount.target);
      } else if (mount.kind == RunMount::Kind::kBind) {
        PROA_CO_TRY(Source source, co_await source_of(mount.origin));
        PROA_CO_TRY(source.root, co_await load(source.root));
        extras.key.back() += " " + source.root.digest.hex();
        extras.binds.emplace_back(mount, std::move(source));
      } else {
        const auto secret = request_->secrets.find(mount.id);
        if (secret == request_->secrets.end()) {
          if (mount.required)
            co_return failed_precondition("the secret '" + mount.id + "' is required and was not given");
          continue;
        }
        if (!mount.variable.empty()) extras.env.push_back(mount.variable + "=" + secret->second);
        if (mount.target.empty()) continue;
        const std::string name = "secret-" + std::to_string(extras.files.size());
        extras.files.push_back({name, secret->second});
        extras.links.emplace_back(mount.target, std::string(kPrivatePath) + "/" + name);
      }
    }
    co_return extras;
  }

  static Result<Digest> tree_with(cas::ObjectStore& objects, const Root& root, const Extras& extras) {
    if (extras.binds.empty() && extras.links.empty() && extras.directories.empty()) return root.digest;
    TreeEditor editor(*root.tree);
    for (const std::string& directory : extras.directories) {
      PROA_TRY(const std::string real, editor.resolve(clean_path(directory)));
      PROA_TRY_VOID(editor.make_directory(real, Owner{}));
    }
    for (const auto& [mount, source] : extras.binds) {
      CopyRequest request;
      request.from = source.root.tree.get();
      request.from_name = source.name;
      request.sources = {"/" + clean_path(mount.source)};
      request.destination = mount.target;
      PROA_TRY_VOID(copy_into(editor, request));
    }
    for (const auto& [path, target] : extras.links) {
      cas::TreeEntry link;
      link.path = clean_path(path);
      link.kind = cas::EntryKind::kSymlink;
      link.mode = 0777;
      link.target = target;
      PROA_TRY_VOID(editor.put(std::move(link), Owner{}));
    }
    PROA_TRY(const Tree tree, editor.finish());
    return objects.put_tree(tree);
  }

  struct Prepared {
    Digest tree;
    Account account;
    MirrorSettings mirrors;
  };

  Async<Result<Root>> run_command(const RunStep* step, Root root, std::string title) {
    PROA_CO_TRY(Extras extras, co_await extras_of(step));
    RunKey parts;
    parts.tree = root.digest;
    parts.argv = step->argv;
    parts.script = step->script.value_or("");
    parts.env = step->env;
    parts.workdir = step->workdir;
    parts.user = step->user;
    parts.network = step->network;
    parts.secret_keys = request_->recipe.secret_keys;
    parts.mounts = extras.key;
    const Digest key = sha256("proa run 1\n" + encode(parts));
    PROA_CO_TRY(const std::optional<Root> known, co_await remembered(key));
    if (known) {
      log(title + " (cached)\n");
      co_return *known;
    }
    log(title + "\n");
    PROA_CO_TRY(root, co_await load(root));
    auto prepare = [&objects = objects_, config = builder_.config_, root, extras,
                    user = step->user]() -> Result<Prepared> {
      PROA_TRY(const std::string passwd, read_text(objects, *root.tree, "etc/passwd"));
      PROA_TRY(const std::string group, read_text(objects, *root.tree, "etc/group"));
      Prepared prepared;
      PROA_TRY(prepared.account, find_account(user, passwd, group));
      PROA_TRY(prepared.tree, tree_with(objects, root, extras));
      PROA_TRY(prepared.mirrors, mirrors_for(objects, *root.tree, config->mirrors));
      return prepared;
    };
    PROA_CO_TRY(const Prepared prepared, co_await run_in(pool_, loop_, std::move(prepare)));
    StepSpec spec = spec_of(*step, prepared, extras);
    const Duration timeout = spec.timeout;
    TailLog tail(log_);
    PROA_CO_TRY(StepOutcome outcome, co_await builder_.runner_.run(std::move(spec), tail));
    PROA_CO_TRY_VOID(check(outcome, tail, timeout));
    PROA_CO_TRY(Root made, co_await lay_over(std::move(root), std::move(outcome.upper), std::move(extras.hidden)));
    PROA_CO_TRY_VOID(co_await builder_.cache_.remember(key, made.digest));
    co_return made;
  }

  StepSpec spec_of(const RunStep& step, const Prepared& prepared, const Extras& extras) const {
    StepSpec spec;
    spec.tree = prepared.tree;
    spec.argv = step.argv;
    spec.env = step.env;
    spec.workdir = step.workdir;
    spec.uid = prepared.account.uid;
    spec.gid = prepared.account.gid;
    spec.files = extras.files;
    spec.network = step.network;
    spec.timeout = builder_.config_->command_timeout;
    if (step.script) {
      const std::string path = std::string(kPrivatePath) + "/script";
      std::replace(spec.argv.begin(), spec.argv.end(), std::string(kScriptArgument), path);
      spec.files.push_back({"script", *step.script});
    }
    for (const auto& [name, value] : request_->secrets) set_env(spec.env, name, value);
    for (const std::string& entry : extras.env) {
      const auto equals = entry.find('=');
      set_env(spec.env, entry.substr(0, equals), entry.substr(equals + 1));
    }
    const auto add_missing = [&spec](const std::string& name, const std::string& value) {
      if (find_env(spec.env, name) == nullptr) set_env(spec.env, name, value);
    };
    add_missing("HOME", prepared.account.home);
    add_missing("PATH", std::string(kDefaultPath));
    for (const std::string& entry : prepared.mirrors.env) {
      const auto equals = entry.find('=');
      if (equals != std::string::npos) add_missing(entry.substr(0, equals), entry.substr(equals + 1));
    }
    spec.files.insert(spec.files.end(), prepared.mirrors.files.begin(), prepared.mirrors.files.end());
    return spec;
  }

  static Result<void> check(const StepOutcome& outcome, const TailLog& tail, Duration timeout) {
    if (outcome.timed_out) {
      return deadline_exceeded("the command was stopped after " + in_words(timeout) + ". Its last lines:\n" +
                               tail.last_lines());
    }
    if (outcome.code == 0) return {};
    std::string why = "the command ended with exit code " + std::to_string(outcome.code);
    if (outcome.oom) {
      why += ": the kernel ended a process of it because it ran out of memory";
    } else if (outcome.code > 128) {
      why += ": it was ended by signal " + std::to_string(outcome.code - 128);
    } else if (outcome.code == 127) {
      why += ": a program was not found";
    }
    const std::string lines = tail.last_lines();
    return failed_precondition(why + (lines.empty() ? ". It printed nothing." : ". Its last lines:\n" + lines));
  }

 public:
  Async<Result<Root>> lay_over(Root root, Tree upper, std::vector<std::string> hidden) {
    PROA_CO_TRY(root, co_await load(root));
    hidden.insert(hidden.end(), always_hidden().begin(), always_hidden().end());
    auto shared = std::make_shared<const Tree>(std::move(upper));
    auto work = [&objects = objects_, root, shared, hidden]() -> Result<Root> {
      PROA_TRY(const Tree kept, without(*shared, hidden));
      PROA_TRY(Tree whole, cas::overlay(*root.tree, kept));
      return put_root(objects, std::move(whole));
    };
    co_return co_await run_in(pool_, loop_, std::move(work));
  }

 private:
  Async<Result<RuntimeInfo>> probe(Digest tree, std::vector<std::string> env, Digest identity) {
    StepSpec spec;
    spec.tree = tree;
    spec.argv = {"/bin/sh", "-c", std::string(probe_script())};
    spec.env = std::move(env);
    if (find_env(spec.env, "PATH") == nullptr) set_env(spec.env, "PATH", kDefaultPath);
    if (find_env(spec.env, "HOME") == nullptr) set_env(spec.env, "HOME", "/");
    spec.network = false;
    spec.timeout = kProbeTimeout;
    spec.keeps_files = false;
    CaptureLog output;
    const auto outcome = co_await builder_.runner_.run(std::move(spec), output);
    if (!outcome.ok()) co_return outcome.error();
    RuntimeInfo info;
    if (outcome->code != 0 || outcome->timed_out) {
      log_.write(LogStream::kStderr, "The image's Python and C library could not be asked for their versions.\n");
      co_return info;
    }
    info = read_probe(output.text());
    info.identity = identity;
    builder_.probes_.insert_or_assign(identity, info);
    co_return info;
  }

  Builder& builder_;
  Loop& loop_;
  Pool& pool_;
  cas::ObjectStore& objects_;
  std::shared_ptr<const BuildRequest> request_;
  BuildLog& log_;
  std::shared_ptr<const BuildPlan> plan_;
  std::map<int, Stage> stages_;
  std::map<std::string, BaseImage> foreign_;
  std::optional<Root> context_;
};

Builder::Builder(Loop& loop, Pool& pool, cas::ObjectStore& objects, StepRunner& runner, BaseResolver& bases,
                 StepCache& cache, BuilderConfig config)
    : loop_(loop),
      pool_(pool),
      objects_(objects),
      runner_(runner),
      bases_(bases),
      cache_(cache),
      config_(std::make_shared<const BuilderConfig>(std::move(config))) {}

Builder::~Builder() {
  for (const auto& [key, flight] : flights_) flight->work.cancel_all();
}

Async<> Builder::fly(std::shared_ptr<Flight> flight, std::shared_ptr<const BuildRequest> request) {
  Build build(*this, std::move(request), *flight);
  flight->result = co_await build.run();
  flights_.erase(flight->key);
  flight->done.notify();
}

Async<Result<ImageRecord>> Builder::build(BuildRequest request, BuildLog& log) {
  const char refresh = request.cache == BuildRequest::Cache::kRefresh ? 'r' : 'u';
  const Digest key = sha256(std::string("proa build 1\n") + refresh + recipe_key(request.recipe).hex() + request.scope);
  auto& slot = flights_[key];
  const bool first = !slot;
  if (first) slot = std::make_shared<Flight>(loop_, key, config_->output_bytes_max);
  const std::shared_ptr<Flight> flight = slot;
  flight->sinks.push_back(&log);

  // Runs when this request is done or abandoned: the last one to leave an unfinished build ends it.
  struct Leave {
    Builder* builder;
    std::shared_ptr<Flight> flight;
    BuildLog* log;
    ~Leave() {
      auto& sinks = flight->sinks;
      if (const auto mine = std::find(sinks.begin(), sinks.end(), log); mine != sinks.end()) sinks.erase(mine);
      if (!sinks.empty() || flight->result) return;
      builder->flights_.erase(flight->key);
      flight->work.cancel_all();
    }
  };
  const Leave leave{this, flight, &log};

  if (first) {
    flight->work.spawn(fly(flight, std::make_shared<const BuildRequest>(std::move(request))));
  } else {
    for (const auto& [stream, text] : flight->replay) log.write(stream, text);
  }
  while (!flight->result) co_await flight->done.wait();
  co_return *flight->result;
}

Async<Result<ImageRecord>> Builder::commit(ImageRecord parent, cas::Tree upper, std::vector<std::string> hidden,
                                           BuildLog& log) {
  Build build(*this, std::make_shared<const BuildRequest>(), log);
  Root root;
  root.digest = parent.tree;
  PROA_CO_TRY(root, co_await build.lay_over(std::move(root), std::move(upper), std::move(hidden)));
  PROA_CO_TRY(ImageRecord record, co_await build.finish(std::move(root), parent.config, parent.runtime));
  record.builder_version = parent.builder_version;
  co_return record;
}

}  // namespace proa::image
