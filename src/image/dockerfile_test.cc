// SPDX-License-Identifier: Apache-2.0
#include "image/dockerfile.h"

#include <gtest/gtest.h>

#include <map>

#include "image/glob.h"
#include "image/shell_words.h"

namespace proa::image {
namespace {

using Strings = std::vector<std::string>;

std::vector<Instruction> parse(std::string_view text) {
  auto file = parse_dockerfile(text);
  EXPECT_TRUE(file.ok()) << file.error().message;
  return file.ok() ? std::move(file).value().instructions : std::vector<Instruction>();
}

std::string failure(std::string_view text) {
  const auto file = parse_dockerfile(text);
  EXPECT_FALSE(file.ok()) << text;
  return file.ok() ? std::string() : file.error().message;
}

Result<std::string> expand(std::string_view word, Quotes quotes = Quotes::kRemove) {
  static const std::map<std::string, std::string, std::less<>> kVariables{
      {"X", "value"}, {"EMPTY", ""}, {"PATH", "/usr/bin:/bin"}, {"FILE", "a.tar.gz"}, {"a", "lower"}};
  return expand_word(
      word, '\\',
      [](std::string_view name) {
        const auto found = kVariables.find(name);
        return found == kVariables.end() ? std::nullopt : std::optional(found->second);
      },
      quotes);
}

TEST(ShellWords, VariablesAreReplaced) {
  EXPECT_EQ(expand("/a/$X/b").value(), "/a/value/b");
  EXPECT_EQ(expand("${X}y").value(), "valuey");
  EXPECT_EQ(expand("$Xy").value(), "");
  EXPECT_EQ(expand("/.uv/.venv/bin:$PATH").value(), "/.uv/.venv/bin:/usr/bin:/bin");
  EXPECT_EQ(expand("$").value(), "$");
  EXPECT_EQ(expand("$/x").value(), "$/x");
  EXPECT_EQ(expand("$12").value(), "");
  EXPECT_EQ(expand("a$@b").value(), "ab");
}

TEST(ShellWords, ModifiersOfVariables) {
  EXPECT_EQ(expand("${X:-w}").value(), "value");
  EXPECT_EQ(expand("${NO:-w}").value(), "w");
  EXPECT_EQ(expand("${NO-w}").value(), "w");
  EXPECT_EQ(expand("${EMPTY:-w}").value(), "w");
  EXPECT_EQ(expand("${EMPTY-w}").value(), "");
  EXPECT_EQ(expand("${X:+w}").value(), "w");
  EXPECT_EQ(expand("${EMPTY:+w}").value(), "");
  EXPECT_EQ(expand("${EMPTY+w}").value(), "w");
  EXPECT_EQ(expand("${NO:+w}").value(), "");
  EXPECT_EQ(expand("${NO:-${X}/y}").value(), "value/y");
  EXPECT_EQ(expand("${NO:-\"a b\"}").value(), "a b");
  EXPECT_EQ(expand("${X:?must be set}").value(), "value");
  EXPECT_EQ(expand("${NO:?must be set}").error().message, "NO: must be set");
  EXPECT_EQ(expand("${FILE%.*}").value(), "a.tar");
  EXPECT_EQ(expand("${FILE%%.*}").value(), "a");
  EXPECT_EQ(expand("${FILE#*.}").value(), "tar.gz");
  EXPECT_EQ(expand("${FILE##*.}").value(), "gz");
  EXPECT_EQ(expand("${FILE/a/b}").value(), "b.tar.gz");
  EXPECT_EQ(expand("${FILE//a/b}").value(), "b.tbr.gz");
}

TEST(ShellWords, QuotesAsDockerHasThem) {
  EXPECT_EQ(expand("'$X'").value(), "$X");
  EXPECT_EQ(expand("\"$X\"").value(), "value");
  EXPECT_EQ(expand("'a'\"'\"'b'").value(), "a'b");
  EXPECT_EQ(expand("\"a\\\"b\"").value(), "a\"b");
  EXPECT_EQ(expand("\"a\\nb\"").value(), "a\\nb");
  EXPECT_EQ(expand("a\\ b").value(), "a b");
  EXPECT_EQ(expand("\\$X").value(), "$X");
  EXPECT_EQ(expand("\"\\$X\"").value(), "$X");
  EXPECT_EQ(expand("'it is \"so\"'").value(), "it is \"so\"");
  EXPECT_EQ(expand("a 'b' \"$X\"", Quotes::kLiteral).value(), "a 'b' \"value\"");
}

TEST(ShellWords, BrokenWordsSayWhatIsMissing) {
  EXPECT_NE(expand("'a").error().message.find("single-quote"), std::string::npos);
  EXPECT_NE(expand("\"a").error().message.find("double-quote"), std::string::npos);
  EXPECT_NE(expand("${X").error().message.find("missing '}'"), std::string::npos);
  EXPECT_NE(expand("${X:-a").error().message.find("missing '}'"), std::string::npos);
  EXPECT_FALSE(expand("${}").ok());
  EXPECT_FALSE(expand("${X:}").ok());
  EXPECT_FALSE(expand("${X!y}").ok());
}

TEST(Glob, MatchesAsGoDoes) {
  struct Case {
    const char* pattern;
    const char* text;
    bool matches;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"abc", "abc", true},     {"*", "abc", true},       {"*c", "abc", true},
           {"a*", "ab/c", false},    {"a*/b", "abc/b", true},  {"a*b*c*d*e*/f", "axbxcxdxe/f", true},
           {"a?c", "abc", true},     {"a?c", "a/c", false},    {"[a-c]x", "bx", true},
           {"[^a-c]x", "bx", false}, {"[^a-c]x", "dx", true},  {"a\\*b", "a*b", true},
           {"a\\*b", "axb", false},  {"*.txt", "a.txt", true}, {"*.txt", "a.txt.gz", false},
           {"", "", true},           {"*", "", true},          {"a*a", "aa", true},
           {"[\\]a]", "]", true},    {"*/*", "a/b", true},     {"*/*", "a/b/c", false},
           {"[x-]", "z", false}}) {
    const auto result = glob_match(c.pattern, c.text);
    if (std::string_view(c.pattern) == "[x-]") {
      EXPECT_FALSE(result.ok());
      continue;
    }
    ASSERT_TRUE(result.ok()) << c.pattern;
    EXPECT_EQ(result.value(), c.matches) << c.pattern << " " << c.text;
  }
  EXPECT_FALSE(glob_match("[", "a").ok());
  EXPECT_FALSE(glob_match("a\\", "b").ok());
  EXPECT_FALSE(glob_match("zz[a", "b").ok());
}

// What the official client's methods send; builder 2025.06 and 2024.10.
constexpr std::string_view kClientLines = R"docker(FROM python:3.12.10-slim-bookworm
COPY /modal_requirements.txt /modal_requirements.txt
RUN apt-get update
RUN apt-get install -y gcc gfortran build-essential
RUN pip install --upgrade pip wheel uv
RUN uv pip install --system --compile-bytecode --no-cache --no-deps -r /modal_requirements.txt
RUN rm /modal_requirements.txt
RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections
CMD ["sleep", "172800"]
SHELL ["/usr/local/bin/_dockerfile_shell.sh"]
ENV MAMBA_DOCKERFILE_ACTIVATE=1
RUN micromamba install -n base -y python=3.12 pip -c conda-forge
COPY /python/. /usr/local
RUN ln -s /usr/local/bin/python3 /usr/local/bin/python
ENV TERMINFO_DIRS=/etc/terminfo:/lib/terminfo:/usr/share/terminfo:/usr/lib/terminfo
RUN python -m pip install 'a>=1' b --extra-index-url https://x/y --pre
RUN bash -c "[[ -v GITHUB_TOKEN ]] || (echo 'GITHUB_TOKEN env var not set by provided modal.Secret(s): ' && exit 1)"
RUN python3 -m pip install "git+https://user:$GITHUB_TOKEN@github.com/a/b"
COPY --from=ghcr.io/astral-sh/uv:latest /uv /.uv/uv
COPY /.0_requirements.txt /.uv/0/requirements.txt
RUN /.uv/uv pip install --python $(command -v python) --compile-bytecode six
COPY /.uv.lock /.uv/uv.lock
RUN /.uv/uv sync --project=/.uv --no-install-workspace --compile-bytecode --frozen
ENV PATH=/.uv/.venv/bin:$PATH
RUN cd /tmp/poetry && \ 
  poetry config virtualenvs.create false && \ 
  poetry install --no-root --compile
ENV A=plain B='a'"'"'b' C='with $X blanks'
WORKDIR '/w x'
ENTRYPOINT ["/bin/a \"q\"", "é"]
ENTRYPOINT ["/bin/a "q""]
COPY . /
)docker";

TEST(Dockerfile, AllThatTheOfficialClientSendsIsUnderstood) {
  const auto list = parse(kClientLines);
  ASSERT_EQ(list.size(), 30U);
  EXPECT_EQ(list[8].keyword, Keyword::kCmd);
  EXPECT_TRUE(list[8].exec_form);
  EXPECT_EQ(list[8].words, (Strings{"sleep", "172800"}));
  const Instruction& uv = list[18];
  EXPECT_EQ(*uv.flag("from"), "ghcr.io/astral-sh/uv:latest");
  EXPECT_EQ(uv.words, (Strings{"/uv", "/.uv/uv"}));
  EXPECT_EQ(list[23].pairs, (std::vector<Pair>{{"PATH", "/.uv/.venv/bin:$PATH"}}));
  EXPECT_EQ(list[24].text,
            "cd /tmp/poetry &&   poetry config virtualenvs.create false &&   poetry install --no-root --compile");
  EXPECT_EQ(list[25].pairs, (std::vector<Pair>{{"A", "plain"}, {"B", "'a'\"'\"'b'"}, {"C", "'with $X blanks'"}}));
  EXPECT_EQ(list[26].text, "'/w x'");
  EXPECT_EQ(list[27].words, (Strings{"/bin/a \"q\"", "é"}));
  // Unescaped JSON is no JSON, so it is a shell command, as Docker has it.
  EXPECT_FALSE(list[28].exec_form);
  EXPECT_EQ(list[28].text, "[\"/bin/a \"q\"\"]");
  EXPECT_EQ(list[29].words, (Strings{".", "/"}));
}

TEST(Dockerfile, ContinuationsSkipCommentsAndEmptyLines) {
  const auto list = parse("FROM a\nRUN one \\\n  # a comment\n\n   && two \\\t \n && three\nRUN four \\\\\nRUN five\n");
  ASSERT_EQ(list.size(), 4U);
  EXPECT_EQ(list[1].text, "one    && two  && three");
  EXPECT_EQ(list[1].line, 2);
  EXPECT_EQ(list[2].text, "four \\\\");
  EXPECT_EQ(list[3].line, 8);
}

TEST(Dockerfile, DirectivesCountOnlyAtTheTop) {
  const auto list = parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN dir `\n  c:\\\n");
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[1].text, "dir   c:\\");
  EXPECT_EQ(parse("# a comment\n# escape=`\nFROM a\nRUN x \\\n y\n")[1].text, "x  y");
  EXPECT_NE(failure("# escape=x\nFROM a").find("escape character"), std::string::npos);
  EXPECT_NE(failure("# escape=`\n# escape=`\nFROM a").find("twice"), std::string::npos);
}

TEST(Dockerfile, HeredocsKeepTheirBodies) {
  const auto list = parse(
      "FROM a\nRUN <<EOF\necho $HOME\n# no comment\nEOF\nRUN cat <<-'X' > /f && cat <<Y\n\t\ttabs\n\tX\nsecond\nY\n"
      "COPY <<a.txt <<\"b.txt\" /d/\none $V\na.txt\ntwo $V\nb.txt\nRUN echo $((1<<2)) \"<<no\" <<<here\nCMD x\n");
  ASSERT_EQ(list.size(), 6U);
  ASSERT_EQ(list[1].heredocs.size(), 1U);
  EXPECT_EQ(list[1].heredocs[0].content, "echo $HOME\n# no comment\n");
  EXPECT_TRUE(list[1].heredocs[0].expands);
  EXPECT_EQ(lone_heredoc(list[1].text), "EOF");
  ASSERT_EQ(list[2].heredocs.size(), 2U);
  EXPECT_EQ(list[2].heredocs[0].content, "tabs\n");
  EXPECT_FALSE(list[2].heredocs[0].expands);
  EXPECT_EQ(list[2].heredocs[1].content, "second\n");
  EXPECT_EQ(lone_heredoc(list[2].text), std::nullopt);
  ASSERT_EQ(list[3].heredocs.size(), 2U);
  EXPECT_EQ(list[3].heredocs[0].name, "a.txt");
  EXPECT_FALSE(list[3].heredocs[1].expands);
  EXPECT_TRUE(list[4].heredocs.empty());
  EXPECT_NE(failure("FROM a\nRUN <<EOF\nx\n").find("line 2: the heredoc 'EOF'"), std::string::npos);
}

TEST(Dockerfile, FlagsStandInFront) {
  const auto list = parse(
      "FROM --platform=linux/amd64 a AS B\n"
      "COPY --from=0 --chown=\"1:2\" --chmod=755 --link a b /c/\n"
      "RUN --mount=type=cache,target=/x --network=none pip --version\n"
      "HEALTHCHECK --interval=5s CMD [\"a\"]\nHEALTHCHECK NONE\nONBUILD RUN make\n");
  EXPECT_EQ(list[0].words, (Strings{"a", "AS", "B"}));
  EXPECT_EQ(list[1].flags, (std::vector<Flag>{{"from", "0"}, {"chown", "1:2"}, {"chmod", "755"}, {"link", "true"}}));
  EXPECT_EQ(list[2].text, "pip --version");
  EXPECT_EQ(list[3].words, (Strings{"CMD", "a"}));
  EXPECT_EQ(list[4].words, (Strings{"NONE"}));
  EXPECT_EQ(list[5].text, "RUN make");
  EXPECT_NE(failure("FROM a\nRUN --mont=x y").find("unknown flag --mont"), std::string::npos);
}

TEST(Dockerfile, EnvHasTwoForms) {
  const auto list =
      parse("FROM a\nENV k some  long value\nENV a=1 b=\"x y\" c=d\\ e\nLABEL \"a b\"=c\nARG N\nARG M=1 O\n");
  EXPECT_EQ(list[1].pairs, (std::vector<Pair>{{"k", "some  long value"}}));
  EXPECT_EQ(list[2].pairs, (std::vector<Pair>{{"a", "1"}, {"b", "\"x y\""}, {"c", "d\\ e"}}));
  EXPECT_EQ(list[3].pairs, (std::vector<Pair>{{"\"a b\"", "c"}}));
  EXPECT_EQ(list[4].pairs, (std::vector<Pair>{{"N", std::nullopt}}));
  EXPECT_EQ(list[5].pairs, (std::vector<Pair>{{"M", "1"}, {"O", std::nullopt}}));
}

TEST(Dockerfile, MistakesAreNamedWithTheirLine) {
  EXPECT_EQ(failure("FROM a\n\nFOO x\n"), "Dockerfile line 3: unknown instruction 'FOO'");
  EXPECT_NE(failure("FROM a b\n").find("line 1: FROM requires"), std::string::npos);
  EXPECT_NE(failure("FROM a\nRUN\n").find("line 2: RUN requires"), std::string::npos);
  EXPECT_NE(failure("FROM a\nCOPY x\n").find("at least one source"), std::string::npos);
  EXPECT_NE(failure("FROM a\nSHELL bash\n").find("JSON list"), std::string::npos);
  EXPECT_NE(failure("FROM a\nCMD [\"a\", 1]\n").find("only strings"), std::string::npos);
  EXPECT_NE(failure("FROM a\nENV a\n").find("two arguments"), std::string::npos);
  EXPECT_NE(failure("FROM a\nENV a=1 b\n").find("can't find = in 'b'"), std::string::npos);
  EXPECT_NE(failure("FROM a AS 1x\n").find("no name for a build stage"), std::string::npos);
  EXPECT_NE(failure("FROM a\nONBUILD FROM b\n").find("ONBUILD trigger"), std::string::npos);
  EXPECT_FALSE(parse_dockerfile(std::string_view("FROM a\0b", 8)).ok());
}

TEST(Dockerfile, EmptyItemsLineEndsAndCaseDoNotMatter) {
  const auto list = parse("\xEF\xBB\xBF\r\nfrom a\r\n\r\nrun  x \\\r\n y\r\n\n");
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[1].text, "x  y");
  EXPECT_TRUE(parse("").empty());
}

}  // namespace
}  // namespace proa::image
