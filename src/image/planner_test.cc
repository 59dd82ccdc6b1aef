// SPDX-License-Identifier: Apache-2.0
#include "image/planner.h"

#include <gtest/gtest.h>

namespace proa::image {
namespace {

using Strings = std::vector<std::string>;
using Args = std::map<std::string, std::string>;

Result<BuildPlan> stages(std::string_view text, const Args& args = {}) {
  PROA_TRY(const Dockerfile file, parse_dockerfile(text));
  return plan_stages(file, args);
}

Result<StageSteps> last_stage(std::string_view text, const Args& args = {}, ImageConfig base = {}) {
  PROA_TRY(const BuildPlan plan, stages(text, args));
  return plan_steps(plan, plan.stages.back(), StageState{std::move(base), {}, {}}, args);
}

template <class What>
What step(const Result<StageSteps>& steps, std::size_t index) {
  EXPECT_TRUE(steps.ok()) << steps.error().message;
  return std::get<What>(steps.value().steps.at(index).what);
}

std::string env_of(const std::vector<std::string>& env, std::string_view name) {
  const char* value = find_env(env, name);
  return value == nullptr ? "(unset)" : value;
}

TEST(Stages, OnlyThoseThatTheLastOneNeedsAreKept) {
  const auto plan = stages(
      "FROM a AS Build\nFROM b AS unused\nFROM build AS child\nFROM scratch\nCOPY --from=child /x /\n"
      "RUN --mount=type=bind,from=0,target=/m ls\nCOPY --from=alpine:3 /y /\n");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  ASSERT_EQ(plan.value().stages.size(), 3U);
  EXPECT_EQ(plan.value().stages[0].base, "a");
  EXPECT_EQ(plan.value().stages[1].base_stage, 0);
  EXPECT_EQ(plan.value().stages[2].base, "scratch");
  EXPECT_EQ(plan.value().stages_in_file, 4);
}

TEST(Stages, FromSeesGlobalArgsOnly) {
  const std::string text = "ARG V=1\nARG IMAGE=py:$V\nFROM $IMAGE-${NO:-slim}\nARG V\nENV X=$V Y=$IMAGE\n";
  EXPECT_EQ(stages(text).value().stages[0].base, "py:1-slim");
  EXPECT_EQ(stages(text, {{"V", "2"}}).value().stages[0].base, "py:2-slim");
  const auto steps = last_stage(text, {{"V", "2"}});
  EXPECT_EQ(env_of(steps.value().end.config.env, "X"), "2");
  EXPECT_EQ(env_of(steps.value().end.config.env, "Y"), "");
}

TEST(Stages, MistakesNameTheirLine) {
  EXPECT_EQ(stages("RUN x\nFROM a\n").error().message,
            "Dockerfile line 1: no build stage yet: the first instruction is FROM");
  EXPECT_EQ(stages("# only\n").error().message, "the Dockerfile has no FROM");
  EXPECT_NE(stages("FROM $NO\n").error().message.find("should not be blank"), std::string::npos);
  EXPECT_EQ(stages("FROM --platform=linux/arm64 a\n").error().code, Code::kUnimplemented);
  EXPECT_NE(stages("FROM a\nCOPY --from=3 /x /\n").error().message.find("line 2: --from=3"), std::string::npos);
}

TEST(Steps, ConfigIsFollowed) {
  ImageConfig base;
  base.env = {"PATH=/usr/bin"};
  base.cmd = {"old"};
  base.workdir = "/base";
  const auto steps = last_stage(
      "FROM base\nENV PATH=/.uv/.venv/bin:$PATH A='$PATH' B=\"x y\"\nENV A=new C=$A\nWORKDIR rel\nWORKDIR '/w "
      "x'\nWORKDIR sub\n"
      "ENTRYPOINT [\"/e\"]\nUSER ${NOBODY:-1000}:5\nEXPOSE 80 $B/udp 80/tcp\nLABEL a=$B \"b c\"=d\nVOLUME /data "
      "/a\nSTOPSIGNAL SIGINT\n"
      "HEALTHCHECK CMD curl x\nONBUILD RUN make\nMAINTAINER me\n",
      {}, base);
  ASSERT_TRUE(steps.ok()) << steps.error().message;
  const ImageConfig& config = steps.value().end.config;
  EXPECT_EQ(env_of(config.env, "PATH"), "/.uv/.venv/bin:/usr/bin");
  EXPECT_EQ(env_of(config.env, "A"), "new");
  EXPECT_EQ(env_of(config.env, "C"), "$PATH");
  EXPECT_EQ(config.workdir, "/w x/sub");
  EXPECT_EQ(step<DirectoryStep>(steps, 2).path, "/base/rel");
  EXPECT_EQ(config.entrypoint, (Strings{"/e"}));
  EXPECT_TRUE(config.cmd.empty());
  EXPECT_EQ(config.user, "1000:5");
  EXPECT_EQ(config.exposed_ports, (Strings{"80/tcp", "x y/udp"}));
  EXPECT_EQ(config.labels, (Args{{"a", "x y"}, {"b c", "d"}}));
  EXPECT_EQ(config.volumes, (Strings{"/a", "/data"}));
  EXPECT_EQ(config.healthcheck, (Strings{"CMD-SHELL", "curl x"}));
  EXPECT_EQ(config.onbuild, (Strings{"RUN make"}));
}

TEST(Steps, CommandsRunAsTheUserOfTheirOwnDockerfile) {
  ImageConfig base;
  base.user = "mambauser";
  const auto steps = last_stage("FROM base\nRUN one\nUSER 1000\nRUN two\n", {}, base);
  ASSERT_TRUE(steps.ok()) << steps.error().message;
  EXPECT_EQ(step<RunStep>(steps, 0).user, "");
  EXPECT_EQ(step<RunStep>(steps, 2).user, "1000");
  EXPECT_EQ(steps.value().end.config.user, "1000");
  EXPECT_EQ(last_stage("FROM base\nRUN one\n", {}, base).value().end.config.user, "mambauser");
}

TEST(Steps, ACommandOfTheSameStageSurvivesItsEntrypoint) {
  EXPECT_EQ(last_stage("FROM a\nCMD [\"x\"]\nENTRYPOINT [\"e\"]\n").value().end.config.cmd, (Strings{"x"}));
  EXPECT_EQ(last_stage("FROM a\nSHELL [\"bash\", \"-c\"]\nCMD x y\n").value().end.config.cmd,
            (Strings{"bash", "-c", "x y"}));
}

TEST(Steps, RunSeesArgsButVariablesWin) {
  const auto steps = last_stage("FROM a\nARG X=1\nARG Y=2\nENV Y=3\nRUN echo $X\nRUN [\"a\", \"$X\"]\n",
                                {{"Y", "9"}, {"HTTP_PROXY", "p"}, {"OTHER", "o"}});
  const auto run = step<RunStep>(steps, 3);
  EXPECT_EQ(run.argv, (Strings{"/bin/sh", "-c", "echo $X"}));
  EXPECT_EQ(env_of(run.env, "X"), "1");
  EXPECT_EQ(env_of(run.env, "Y"), "3");
  EXPECT_EQ(env_of(run.env, "HTTP_PROXY"), "p");
  EXPECT_EQ(env_of(run.env, "OTHER"), "(unset)");
  EXPECT_EQ(env_of(run.env, "PATH"), kDefaultPath);
  EXPECT_EQ(step<RunStep>(steps, 4).argv, (Strings{"a", "$X"}));
  EXPECT_EQ(env_of(steps.value().end.config.env, "X"), "(unset)");
}

TEST(Steps, HeredocsBecomeScripts) {
  const auto steps = last_stage(
      "FROM a\nRUN <<EOF\necho 1\necho 2\nEOF\nRUN cat <<X >/f\nb\nX\nRUN <<E\n#!/usr/bin/env python3\nprint(1)\nE\n");
  EXPECT_EQ(step<RunStep>(steps, 0).argv, (Strings{"/bin/sh", "-c", "echo 1\necho 2\n"}));
  EXPECT_EQ(step<RunStep>(steps, 1).argv, (Strings{"/bin/sh", "-c", "cat <<X >/f\nb\nX"}));
  EXPECT_EQ(step<RunStep>(steps, 2).argv, (Strings{"/usr/bin/env", "python3", "{script}"}));
  EXPECT_EQ(step<RunStep>(steps, 2).script, "#!/usr/bin/env python3\nprint(1)\n");
}

TEST(Steps, CopyHasItsPathsFilledIn) {
  const auto steps = last_stage(
      "FROM a\nENV D=dest\nWORKDIR /w\nCOPY --chown=1:2 --chmod=0755 $D/a* \"b\" $D/\nCOPY . .\nCOPY --from=img:1 /x "
      "y\n"
      "COPY <<a <<'b' /d/\nv=$D \"q\"\na\nv=$D\nb\n");
  const auto first = step<CopyStep>(steps, 2);
  EXPECT_EQ(first.sources, (Strings{"dest/a*", "b"}));
  EXPECT_EQ(first.destination, "/w/dest");
  EXPECT_TRUE(first.into_directory);
  EXPECT_EQ(first.chown, "1:2");
  EXPECT_EQ(first.chmod, 0755U);
  const auto here = step<CopyStep>(steps, 3);
  EXPECT_EQ(here.destination, "/w");
  EXPECT_TRUE(here.into_directory);
  const auto foreign = step<CopyStep>(steps, 4);
  EXPECT_EQ(foreign.origin, (Origin{Origin::Kind::kImage, 0, "img:1"}));
  EXPECT_EQ(foreign.destination, "/w/y");
  EXPECT_FALSE(foreign.into_directory);
  const auto heredocs = step<CopyStep>(steps, 5);
  ASSERT_EQ(heredocs.inline_files.size(), 2U);
  EXPECT_EQ(heredocs.inline_files[0].second, "v=dest \"q\"\n");
  EXPECT_EQ(heredocs.inline_files[1].second, "v=$D\n");
}

TEST(Steps, MountsOfRun) {
  const auto run =
      step<RunStep>(last_stage("FROM a\nRUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=T,env=TOK "
                               "--mount=type=secret,id=S,required --mount=source=x,target=y --network=none z\n"),
                    0);
  ASSERT_EQ(run.mounts.size(), 4U);
  EXPECT_EQ(run.mounts[0].kind, RunMount::Kind::kEmpty);
  EXPECT_EQ(run.mounts[1].variable, "TOK");
  EXPECT_TRUE(run.mounts[1].target.empty());
  EXPECT_EQ(run.mounts[2].target, "/run/secrets/S");
  EXPECT_TRUE(run.mounts[2].required);
  EXPECT_EQ(run.mounts[3].target, "/y");
  EXPECT_FALSE(run.network);
}

TEST(Steps, WhatCannotBeDoneIsSaid) {
  for (const char* line : {"ADD https://x/y /", "ADD a.tar.gz /", "COPY --exclude=*.md . /", "RUN --mount=type=ssh x",
                           "RUN --security=insecure x", "RUN --network=host x", "COPY --chmod=u+x a /b"}) {
    const auto steps = last_stage(std::string("FROM a\n") + line + "\n");
    ASSERT_FALSE(steps.ok()) << line;
    EXPECT_EQ(steps.error().code, Code::kUnimplemented) << line;
    EXPECT_TRUE(steps.error().message.starts_with("Dockerfile line 2: ")) << steps.error().message;
  }
}

TEST(Steps, TriggersOfTheBaseRunFirst) {
  ImageConfig base;
  base.onbuild = {"RUN first", "ENV A=1"};
  const auto steps = last_stage("FROM base\nRUN second\n", {}, base);
  EXPECT_EQ(step<RunStep>(steps, 0).argv.back(), "first");
  EXPECT_EQ(step<RunStep>(steps, 2).argv.back(), "second");
  EXPECT_TRUE(steps.value().end.config.onbuild.empty());
}

}  // namespace
}  // namespace proa::image
