// SPDX-License-Identifier: Apache-2.0
//
// Builds with real containers, as root: what the official client's image methods send, on a base of
// tools/images. Needs that base in the cache (tools/images/ensure makes it) and, for packages, a network.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cas/import.h"
#include "container/layer_stream.h"
#include "container/test_machine.h"
#include "image/builder.h"

namespace proa::image {
namespace {

using container::TestMachine;

class PrintingLog final : public BuildLog {
 public:
  void write(LogStream, std::string_view part) override {
    text += part;
    std::fwrite(part.data(), 1, part.size(), stdout);
  }
  std::string text;
};

Async<> copy_out(RealLoop& loop, int fd, LogStream stream, BuildLog& log, int* open) {
  WatchedFd pipe(loop, fd);
  while (true) {
    auto piece = co_await pipe.read_some(64 << 10);
    if (!piece.ok() || piece->empty()) break;
    log.write(stream, *piece);
  }
  --*open;
}

// Runs steps in this process, as a worker does for its server.
class ContainerRunner final : public StepRunner {
 public:
  explicit ContainerRunner(TestMachine& machine) : machine_(machine) {}

  Async<Result<StepOutcome>> run(StepSpec spec, BuildLog& log) override {
    container::SlotSpec slot_spec;
    slot_spec.network = spec.network ? container::Network::kInternet : container::Network::kNone;
    PROA_CO_TRY(container::Slot slot, co_await machine_.runtime().prepare(slot_spec));
    container::TaskSpec task;
    task.trees = {spec.tree};
    task.argv = spec.argv;
    task.env = spec.env;
    task.working_directory = spec.workdir;
    task.uid = spec.uid;
    task.gid = spec.gid;
    task.hostname = "build";
    for (const StepFile& file : spec.files) task.files.push_back({file.name, file.content});
    int open = 2;
    Scope pumps;
    pumps.spawn(copy_out(machine_.loop(), slot.stdout_pipe.release(), LogStream::kStdout, log, &open));
    pumps.spawn(copy_out(machine_.loop(), slot.stderr_pipe.release(), LogStream::kStderr, log, &open));
    ++runs;
    const auto started = co_await machine_.runtime().start(slot.id, std::move(task));
    StepOutcome outcome;
    if (started.ok()) {
      PROA_CO_TRY(const container::Exit exit, co_await machine_.runtime().wait(slot.id));
      outcome.code = exit.code;
      outcome.oom = exit.oom;
      while (open > 0) co_await sleep_for(machine_.loop(), std::chrono::milliseconds(2));
      if (exit.code == 0 && spec.keeps_files) {
        PROA_CO_TRY(const OwnedFd stream, co_await machine_.runtime().export_upper(slot.id));
        PROA_CO_TRY(const cas::Tree lower, machine_.objects().get_tree(spec.tree));
        PROA_CO_TRY(outcome.upper, container::read_layer(stream.get(), lower, machine_.objects(), {}));
      }
    }
    PROA_CO_TRY_VOID(co_await machine_.runtime().remove(slot.id));
    if (!started.ok()) co_return started.error();
    co_return outcome;
  }

  int runs = 0;

 private:
  TestMachine& machine_;
};

class OneBase final : public BaseCatalog {
 public:
  std::vector<BaseRecord> bases() const override { return records; }
  std::vector<BaseRecord> records;
};

std::string cache_directory() {
  if (const char* set = std::getenv("PROA_CACHE")) return set;
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "/root") + "/.cache/proa";
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A base of tools/images, taken into the machine's objects once.
Result<BaseRecord> take_in(TestMachine& machine, const std::string& name) {
  const std::string bases = cache_directory() + "/bases/";
  const auto json = nlohmann::json::parse(read_file(bases + name + ".json"), nullptr, false);
  if (!json.is_object()) return not_found("there is no " + bases + name + ".json: run tools/images/ensure");
  BaseRecord base;
  base.name = name;
  base.description = json.value("warning", "");
  base.stands_for = json["aliases"].get<std::vector<std::string>>();
  for (const std::string pattern : json["alias_patterns"]) base.stands_for.push_back(pattern);
  for (const auto& [key, value] : json["config"]["env"].items())
    base.config.env.push_back(key + "=" + value.get<std::string>());
  base.config.cmd = json["config"]["cmd"].get<std::vector<std::string>>();
  for (const std::string command : json["extra_commands"]) base.premade.push_back(command.substr(4));
  const std::string archive = json["archive"];
  const std::string note = machine.objects().directory() + "/../test-" + archive;
  if (auto known = Digest::from_hex(read_file(note)); known.ok() && machine.objects().get_tree(*known).ok()) {
    base.tree = *known;
    return base;
  }
  PROA_TRY(const OwnedFd fd, open_file(AT_FDCWD, bases + archive, O_RDONLY));
  PROA_TRY(const cas::Tree tree, cas::import_archive(machine.objects(), fd.get(), {}));
  PROA_TRY(base.tree, machine.objects().put_tree(tree));
  std::ofstream(note) << base.tree.hex();
  return base;
}

BuildMirrors host_mirrors() {
  std::string text;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(
      popen("python3 '" PROA_SOURCE_DIR "/tools/images/host_settings.py' 2>/dev/null", "r"), &pclose);
  std::array<char, 4096> buffer{};
  while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe.get()))
    text.append(buffer.data(), got);
  BuildMirrors mirrors = read_mirrors(text).value();
  if (!mirrors.ca_bundle_path.empty()) mirrors.ca_bundle = read_file(mirrors.ca_bundle_path);
  return mirrors;
}

Async<Result<ImageRecord>> build_now(Builder& builder, BuildRequest request, BuildLog& log) {
  co_return co_await builder.build(std::move(request), log);
}

class RealBuild : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (TestMachine::obstacle().empty()) shared_ = new Shared();
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  void SetUp() override {
    if (shared_ == nullptr) GTEST_SKIP() << TestMachine::obstacle();
    if (!shared_->obstacle.empty()) GTEST_SKIP() << shared_->obstacle;
  }

  struct Shared {
    Shared() {
      for (const char* name : {"default-3.11-bookworm", "uv-latest"}) {
        auto base = take_in(machine, name);
        if (base.ok()) {
          catalog.records.push_back(*base);
        } else {
          obstacle = base.error().message;
        }
      }
      BuilderConfig config;
      config.mirrors = host_mirrors();
      builder = std::make_unique<Builder>(machine.loop(), pool, machine.objects(), runner, resolver, cache, config);
    }
    TestMachine machine;
    ThreadPool pool{2};
    OneBase catalog;
    NoRegistry registry;
    OrderedResolver resolver{{}, registry, catalog};
    MemoryStepCache cache;
    ContainerRunner runner{machine};
    std::unique_ptr<Builder> builder;
    std::string obstacle;
  };

  Result<ImageRecord> build(BuildRequest request) {
    return shared_->machine.wait_for(build_now(*shared_->builder, std::move(request), log_));
  }
  // One layer on another, as the client sends them.
  Result<ImageRecord> layer(const ImageRecord& parent, std::vector<std::string> commands) {
    return build(layer_request(parent, std::move(commands)));
  }
  static BuildRequest layer_request(const ImageRecord& parent, std::vector<std::string> commands) {
    BuildRequest request;
    request.recipe.dockerfile_commands = std::move(commands);
    request.recipe.dockerfile_commands.insert(request.recipe.dockerfile_commands.begin(), "FROM base");
    request.recipe.parents["base"] = ImageId(IdBits{1, 1});
    request.parents["base"] = parent;
    return request;
  }
  Result<ImageRecord> debian_slim() {
    BuildRequest request;
    request.recipe.dockerfile_commands = {
        "FROM python:3.11.12-slim-bookworm",
        "RUN apt-get update",
        "RUN apt-get install -y gcc gfortran build-essential",
        "RUN pip install --upgrade pip wheel uv",
        "RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections",
        "CMD [\"sleep\", \"172800\"]"};
    return build(request);
  }
  std::string text_of(const ImageRecord& record, std::string_view path) {
    const cas::Tree tree = shared_->machine.objects().get_tree(record.tree).value();
    const cas::TreeEntry* entry = cas::find(tree, path);
    return entry == nullptr ? "(missing)" : shared_->machine.objects().read(entry->content, 1 << 20).value();
  }

  static Shared* shared_;
  PrintingLog log_;
};
RealBuild::Shared* RealBuild::shared_ = nullptr;

TEST_F(RealBuild, DebianSlimIsThereAtOnceAndKnowsItsPython) {
  const auto record = debian_slim();
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_EQ(record.value().runtime.python_tag, "cp311");
  EXPECT_TRUE(record.value().runtime.python_version_info.starts_with("Python 3.11."))
      << record.value().runtime.python_version_info;
  EXPECT_EQ(record.value().runtime.libc, Libc::kGlibc);
  EXPECT_TRUE(record.value().python_packages.contains("pip"));
  EXPECT_NE(log_.text.find("WARNING"), std::string::npos);
}

TEST_F(RealBuild, CommandsSeeTheirEnvironmentAndLeaveOnlyFiles) {
  BuildRequest request = layer_request(
      debian_slim().value(),
      {"ENV GREETING='it'\"'\"'s $X'", "WORKDIR '/w x'", "RUN pwd > where && echo \"$GREETING $TOKEN\" > said",
       "RUN <<EOF", "rm /usr/bin/gcc", "chmod 700 /etc/passwd", "mv /usr/share/perl /usr/share/moved || true", "EOF",
       "SHELL [\"/bin/bash\", \"-c\"]", "RUN [[ -v TOKEN ]] && id -u > uid", "USER nobody",
       "RUN id -u > /tmp/uid; touch /root/x 2>/dev/null; true"});
  request.secrets = {{"TOKEN", "hush"}};
  request.recipe.secret_keys = {"TOKEN"};
  const auto record = build(request);
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_EQ(text_of(record.value(), "w x/where"), "/w x\n");
  EXPECT_EQ(text_of(record.value(), "w x/said"), "it's $X hush\n");
  EXPECT_EQ(text_of(record.value(), "w x/uid"), "0\n");
  EXPECT_EQ(text_of(record.value(), "tmp/uid"), "65534\n");
  EXPECT_EQ(text_of(record.value(), "usr/bin/gcc"), "(missing)");
  EXPECT_EQ(text_of(record.value(), "root/x"), "(missing)");
  const cas::Tree tree = shared_->machine.objects().get_tree(record.value().tree).value();
  EXPECT_EQ(cas::find(tree, "etc/passwd")->mode, 0700U);
  EXPECT_NE(text_of(record.value(), "etc/passwd").find("root:"), std::string::npos);
  for (const cas::TreeEntry& entry : tree.entries) {
    EXPECT_FALSE(entry.path.starts_with("__proa") || entry.path.starts_with("proc/") || entry.path.starts_with("dev/"))
        << entry.path;
  }
}

TEST_F(RealBuild, PackagesAreInstalled) {
  const auto record = layer(debian_slim().value(), {"RUN python -m pip install six"});
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_TRUE(record.value().python_packages.contains("six"));
  const auto uv =
      layer(record.value(), {"COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv",
                             "RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode idna"});
  ASSERT_TRUE(uv.ok()) << uv.error().message;
  EXPECT_TRUE(uv.value().python_packages.contains("six"));
  EXPECT_TRUE(uv.value().python_packages.contains("idna"));
  const auto apt = layer(record.value(), {"RUN apt-get update", "RUN apt-get install -y tree", "RUN tree --version"});
  ASSERT_TRUE(apt.ok()) << apt.error().message;
  EXPECT_NE(text_of(apt.value(), "usr/bin/tree"), "(missing)");
}

TEST_F(RealBuild, AFailureTellsWhatHappened) {
  const auto failed = layer(debian_slim().value(), {"RUN echo about to fail; exit 7"});
  EXPECT_EQ(failed.error().message,
            "RUN echo about to fail; exit 7 (Dockerfile line 2): the command ended with exit code 7. Its last "
            "lines:\nabout to fail");
  EXPECT_NE(layer(debian_slim().value(), {"RUN nosuchprogram"}).error().message.find("exit code 127"),
            std::string::npos);
  EXPECT_FALSE(layer(debian_slim().value(), {"RUN [\"/nosuch\"]"}).ok());
}

}  // namespace
}  // namespace proa::image
