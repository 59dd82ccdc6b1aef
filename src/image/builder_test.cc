// SPDX-License-Identifier: Apache-2.0
#include "image/builder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "rt/sim/sim_loop.h"

namespace proa::image {
namespace {

using cas::Tree;
using cas::TreeEntry;

class StringLog final : public BuildLog {
 public:
  void write(LogStream, std::string_view part) override { text += part; }
  std::string text;
};

// Runs no containers: a command is answered by what a test says about it.
class FakeRunner final : public StepRunner {
 public:
  FakeRunner(Loop& loop, cas::ObjectStore& objects) : loop_(loop), objects_(objects) {}

  Async<Result<StepOutcome>> run(StepSpec spec, BuildLog& log) override {
    co_await sleep_for(loop_, std::chrono::seconds(1));
    specs.push_back(spec);
    const std::string command = spec.argv.back();
    StepOutcome outcome;
    outcome.upper = cas::make_tree({}).value();
    if (command.find("proa-version") != std::string::npos) {
      ++probes;
      log.write(LogStream::kStdout, "proa-version Python 3.11.2 (main)\nproa-tag cp311\nproa-libc ldd 2.36\n");
      co_return outcome;
    }
    ++runs;
    if (command.starts_with("write ")) {  // write PATH CONTENT
      const auto blank = command.find(' ', 6);
      const std::string content = command.substr(blank + 1);
      TreeEntry entry;
      entry.path = command.substr(6, blank - 6);
      entry.mode = 0644;
      entry.size_bytes = content.size();
      entry.content = objects_.put_bytes(content).value();
      outcome.upper = cas::make_tree({entry}).value();
    } else if (command.starts_with("fail ")) {
      log.write(LogStream::kStdout, "line one\nline ");
      log.write(LogStream::kStderr, "two\n");
      outcome.code = std::atoi(command.c_str() + 5);
      outcome.oom = outcome.code == 137;
    } else if (command == "hang") {
      outcome.timed_out = true;
    }
    log.write(LogStream::kStdout, "ran: " + command + "\n");
    co_return outcome;
  }

  std::vector<StepSpec> specs;
  int runs = 0;
  int probes = 0;

 private:
  Loop& loop_;
  cas::ObjectStore& objects_;
};

class ListCatalog final : public BaseCatalog {
 public:
  std::vector<BaseRecord> bases() const override { return records; }
  std::vector<BaseRecord> records;
};

Async<> keep_result(Builder& builder, BuildRequest request, BuildLog& log, std::optional<Result<ImageRecord>>* out) {
  *out = co_await builder.build(std::move(request), log);
}
Async<> keep_commit(Builder& builder, ImageRecord parent, Tree upper, BuildLog& log,
                    std::optional<Result<ImageRecord>>* out) {
  std::vector<std::string> hidden{"mnt"};
  *out = co_await builder.commit(std::move(parent), std::move(upper), std::move(hidden), log);
}

class BuilderTest : public testing::Test {
 protected:
  BuilderTest() {
    // In memory where there is such a place: the store flushes everything it writes.
    const bool has_shm = std::filesystem::exists("/dev/shm");
    std::string pattern =
        (has_shm ? "/dev/shm" : std::filesystem::temp_directory_path().string()) + "/proa-builder-XXXXXX";
    directory_ = mkdtemp(pattern.data());
    objects_ = cas::ObjectStore::open(directory_ + "/objects").value();
    runner_ = std::make_unique<FakeRunner>(loop_, *objects_);
    BuilderConfig config;
    config.mirrors.pip = {{"index-url", "mirror"}};
    config.mirrors.apt_options = {{"Acquire::Retries", "3"}};
    builder_ = std::make_unique<Builder>(loop_, pool_, *objects_, *runner_, resolver_, cache_, config);

    BaseRecord base;
    base.name = "python-3.11-bookworm";
    base.description = "Debian 12 with its Python 3.11.2";
    base.stands_for = {"python:3.11", "python:3.11.*", "python:3.11-*"};
    base.config.env = {"PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8"};
    base.config.cmd = {"python3"};
    base.premade = {"apt-get update", "pip install --upgrade pip"};
    base.tree = objects_
                    ->put_tree(tree({file("usr/local/bin/python", "python", 0755), file("bin/sh", "sh", 0755),
                                     file("etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:7:8::/home/u:/bin/sh\n"),
                                     file("etc/hosts", "base hosts")}))
                    .value();
    catalog_.records.push_back(base);
    BaseRecord uv;
    uv.name = "uv";
    uv.stands_for = {"ghcr.io/astral-sh/uv:*"};
    uv.tree = objects_->put_tree(tree({file("uv", "uv binary", 0755)})).value();
    catalog_.records.push_back(uv);
  }
  ~BuilderTest() override {
    scope_.cancel_all();
    std::filesystem::remove_all(directory_);
  }

  TreeEntry file(std::string path, std::string_view content, std::uint32_t mode = 0644) {
    TreeEntry entry;
    entry.path = std::move(path);
    entry.mode = mode;
    entry.size_bytes = content.size();
    entry.content = objects_->put_bytes(content).value();
    return entry;
  }
  static Tree tree(std::vector<TreeEntry> entries) { return cas::make_tree(std::move(entries)).value(); }

  static BuildRequest request(std::vector<std::string> lines) {
    BuildRequest made;
    made.recipe.dockerfile_commands = std::move(lines);
    return made;
  }

  Result<ImageRecord> build(BuildRequest what) {
    log_.text.clear();
    std::optional<Result<ImageRecord>> result;
    scope_.spawn(keep_result(*builder_, std::move(what), log_, &result));
    loop_.run_for(std::chrono::hours(1));
    PROA_CHECK(result.has_value());
    return *result;
  }
  std::string text_of(const ImageRecord& record, std::string_view path) {
    const Tree whole = objects_->get_tree(record.tree).value();
    const TreeEntry* entry = cas::find(whole, path);
    if (entry == nullptr) return "(missing)";
    if (entry->kind != cas::EntryKind::kFile) return "(no file)";
    return entry->size_bytes == 0 ? "" : objects_->read(entry->content, 1 << 20).value();
  }

  sim::SimLoop loop_;
  InlinePool pool_;
  std::string directory_;
  std::unique_ptr<cas::ObjectStore> objects_;
  std::unique_ptr<FakeRunner> runner_;
  ListCatalog catalog_;
  NoRegistry registry_;
  OrderedResolver resolver_{{{"alias:*", "python-3.11-bookworm"}}, registry_, catalog_};
  MemoryStepCache cache_;
  std::unique_ptr<Builder> builder_;
  StringLog log_;
  Scope scope_;
};

TEST_F(BuilderTest, AStandInServesAndSaysSo) {
  const auto record =
      build(request({"FROM python:3.11.12-slim-bookworm", "RUN write a 1", "CMD [\"sleep\", \"172800\"]", ""}));
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_EQ(text_of(record.value(), "a"), "1");
  EXPECT_EQ(record.value().config.cmd, (std::vector<std::string>{"sleep", "172800"}));
  EXPECT_EQ(record.value().runtime.python_version_info, "Python 3.11.2 (main)");
  EXPECT_EQ(record.value().runtime.python_tag, "cp311");
  EXPECT_NE(log_.text.find("WARNING: python:3.11.12-slim-bookworm"), std::string::npos);
  EXPECT_NE(log_.text.find("=> Step 1: RUN write a 1\nran: write a 1\n"), std::string::npos) << log_.text;
}

TEST_F(BuilderTest, WhatTheBaseHasDoneIsNotDoneAgain) {
  ASSERT_TRUE(
      build(request({"FROM python:3.11", "RUN apt-get update", "RUN pip install --upgrade pip", "RUN other"})).ok());
  EXPECT_EQ(runner_->runs, 1);
  EXPECT_NE(log_.text.find("done already in the base image"), std::string::npos);
  // Only all of it at the very beginning: an update alone may be wanted for itself.
  ASSERT_TRUE(build(request({"FROM python:3.11", "RUN apt-get update", "RUN apt-get install git"})).ok());
  EXPECT_EQ(runner_->runs, 3);
}

TEST_F(BuilderTest, ABuildThatSharesItsBeginningStartsWhereTheyPart) {
  ASSERT_TRUE(build(request({"FROM python:3.11", "RUN write a 1", "COPY <<f /x", "1", "f", "RUN write b 2"})).ok());
  EXPECT_EQ(runner_->runs, 2);
  const auto record = build(request({"FROM python:3.11", "RUN write a 1", "COPY <<f /x", "1", "f", "RUN write c 3"}));
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(runner_->runs, 3);
  EXPECT_EQ(runner_->probes, 1);
  EXPECT_EQ(text_of(record.value(), "a"), "1");
  EXPECT_EQ(text_of(record.value(), "x"), "1\n");
  EXPECT_EQ(text_of(record.value(), "b"), "(missing)");
  EXPECT_NE(log_.text.find("RUN write a 1 (cached)"), std::string::npos);
  BuildRequest again = request({"FROM python:3.11", "RUN write a 1"});
  again.cache = BuildRequest::Cache::kRefresh;
  ASSERT_TRUE(build(again).ok());
  EXPECT_EQ(runner_->runs, 4);
}

TEST_F(BuilderTest, SecretsAndMirrorsAreThereDuringRunsAndNowhereElse) {
  BuildRequest what = request({"FROM alias:x", "ENV A=1 PIP_INDEX_URL=own", "USER u", "WORKDIR /w",
                               "RUN --mount=type=secret,id=TOKEN write f 1"});
  what.recipe.secret_keys = {"TOKEN"};
  what.secrets = {{"TOKEN", "hush"}};
  const auto record = build(what);
  ASSERT_TRUE(record.ok()) << record.error().message;
  const StepSpec& spec = runner_->specs.front();
  EXPECT_STREQ(find_env(spec.env, "TOKEN"), "hush");
  EXPECT_STREQ(find_env(spec.env, "PIP_INDEX_URL"), "own");
  EXPECT_STREQ(find_env(spec.env, "UV_DEFAULT_INDEX"), "mirror");
  EXPECT_STREQ(find_env(spec.env, "HOME"), "/home/u");
  EXPECT_EQ(spec.uid, 7U);
  EXPECT_EQ(spec.gid, 8U);
  EXPECT_EQ(spec.workdir, "/w");
  ASSERT_EQ(spec.files.size(), 2U);
  EXPECT_EQ(spec.files[0], (StepFile{"secret-0", "hush"}));
  EXPECT_EQ(spec.files[1], (StepFile{"apt.conf", "Acquire::Retries \"3\";\n"}));
  EXPECT_EQ(cas::find(objects_->get_tree(spec.tree).value(), "run/secrets/TOKEN")->target, "/__proa/secret-0");
  EXPECT_EQ(encode(record.value()).find("hush"), std::string::npos);
  EXPECT_EQ(find_env(record.value().config.env, "TOKEN"), nullptr);
  EXPECT_EQ(find_env(record.value().config.env, "UV_DEFAULT_INDEX"), nullptr);
  EXPECT_EQ(text_of(record.value(), "run/secrets/TOKEN"), "(missing)");
  EXPECT_EQ(log_.text.find("hush"), std::string::npos);
  EXPECT_EQ(text_of(record.value(), "w"), "(no file)");
}

TEST_F(BuilderTest, WhatIsNotTheImagesDoesNotStay) {
  const auto record = build(request({"FROM python:3.11", "RUN write etc/hosts generated", "RUN write proc/x 1",
                                     "RUN --mount=type=cache,target=/root/.cache write root/.cache/x 1"}));
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_EQ(text_of(record.value(), "etc/hosts"), "base hosts");
  EXPECT_EQ(text_of(record.value(), "proc/x"), "(missing)");
  EXPECT_EQ(text_of(record.value(), "root/.cache/x"), "(missing)");
}

TEST_F(BuilderTest, FilesComeFromContextStagesAndForeignImages) {
  BuildRequest what = request({"FROM scratch AS one", "COPY /sub/ /from-one/", "FROM python:3.11",
                               "COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv", "COPY --from=one /from-one /here",
                               "COPY --chown=u .requirements.txt /r.txt", "COPY . /"});
  what.recipe.context = objects_->put_tree(tree({file("sub/a", "A"), file("root/main.py", "main")})).value();
  what.recipe.context_files = {{"/.requirements.txt", "six\n"}};
  const auto record = build(what);
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_EQ(text_of(record.value(), ".uv/uv"), "uv binary");
  EXPECT_EQ(text_of(record.value(), "here/a"), "A");
  EXPECT_EQ(text_of(record.value(), "r.txt"), "six\n");
  EXPECT_EQ(text_of(record.value(), "root/main.py"), "main");
  EXPECT_EQ(cas::find(objects_->get_tree(record.value().tree).value(), "r.txt")->uid, 7U);
  EXPECT_EQ(runner_->runs, 0);
}

TEST_F(BuilderTest, AParentsRecordIsTheStart) {
  const auto parent = build(request({"FROM python:3.11", "ENV A=1", "RUN write a 1"}));
  BuildRequest what = request({"FROM base", "RUN write b 2"});
  what.recipe.parents["base"] = ImageId(IdBits{1, 1});
  EXPECT_NE(build(what).error().message.find("the image behind 'base' is not built"), std::string::npos);
  what.parents["base"] = parent.value();
  const auto record = build(what);
  ASSERT_TRUE(record.ok()) << record.error().message;
  EXPECT_STREQ(find_env(record.value().config.env, "A"), "1");
  EXPECT_EQ(text_of(record.value(), "a"), "1");
  EXPECT_EQ(record.value().runtime, parent.value().runtime);
  EXPECT_EQ(runner_->probes, 1);
}

TEST_F(BuilderTest, AFailedCommandIsNamedWithItsLastLines) {
  const auto failed = build(request({"FROM python:3.11", "", "RUN fail 3"}));
  EXPECT_EQ(failed.error().code, Code::kFailedPrecondition);
  EXPECT_EQ(failed.error().message,
            "RUN fail 3 (Dockerfile line 3): the command ended with exit code 3. Its last lines:\nline one\nline "
            "two\nran: fail 3");
  EXPECT_NE(build(request({"FROM python:3.11", "RUN fail 137"})).error().message.find("out of memory"),
            std::string::npos);
  EXPECT_EQ(build(request({"FROM python:3.11", "RUN hang"})).error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(build(request({"FROM python:3.11", "COPY no /"})).error().message,
            "COPY no / (Dockerfile line 2): '/no' is not in the build context");
  EXPECT_NE(build(request({"FROM nosuch:1"}))
                .error()
                .message.find("no base on this machine stands in for it (bases: python-3.11-bookworm, uv)"),
            std::string::npos);
  EXPECT_EQ(build(request({"FROM python:3.11", "USER nobody", "RUN x"})).error().code, Code::kInvalidArgument);
}

TEST_F(BuilderTest, IdenticalBuildsShareOneAndItEndsWithTheLastOfThem) {
  std::optional<Result<ImageRecord>> first;
  std::optional<Result<ImageRecord>> second;
  StringLog second_log;
  auto one = std::make_unique<Scope>();
  Scope two;
  one->spawn(keep_result(*builder_, request({"FROM python:3.11", "RUN write a 1", "RUN write b 2"}), log_, &first));
  loop_.run_for(std::chrono::milliseconds(1500));
  two.spawn(
      keep_result(*builder_, request({"FROM python:3.11", "RUN write a 1", "RUN write b 2"}), second_log, &second));
  EXPECT_EQ(builder_->builds_in_flight(), 1U);
  EXPECT_EQ(second_log.text, log_.text);
  one.reset();
  loop_.run_for(std::chrono::seconds(10));
  EXPECT_FALSE(first.has_value());
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(second->ok());
  EXPECT_EQ(runner_->runs, 2);
  EXPECT_EQ(builder_->builds_in_flight(), 0U);

  auto alone = std::make_unique<Scope>();
  alone->spawn(keep_result(*builder_, request({"FROM python:3.11", "RUN write c 3", "RUN write d 4"}), log_, &first));
  loop_.run_for(std::chrono::milliseconds(1500));
  alone.reset();
  EXPECT_EQ(builder_->builds_in_flight(), 0U);
  loop_.run_for(std::chrono::seconds(10));
  EXPECT_EQ(runner_->runs, 3);
}

TEST_F(BuilderTest, AContainersFilesBecomeAnImage) {
  const auto parent = build(request({"FROM python:3.11"})).value();
  std::optional<Result<ImageRecord>> result;
  scope_.spawn(keep_commit(*builder_, parent,
                           tree({file("weights", "w"), file("mnt/volume", "v"), file("__proa/api", "s")}), log_,
                           &result));
  loop_.run_for(std::chrono::seconds(10));
  ASSERT_TRUE(result.has_value() && result->ok());
  EXPECT_EQ(text_of(result->value(), "weights"), "w");
  EXPECT_EQ(text_of(result->value(), "mnt/volume"), "(missing)");
  EXPECT_EQ(text_of(result->value(), "__proa/api"), "(missing)");
  EXPECT_EQ(result->value().config, parent.config);
}

}  // namespace
}  // namespace proa::image
