#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a machine keeps of STYLE.md: the direction of includes, format, links, and words that do not belong.

  check.py [--root DIR] [--format]     the tree; --format also runs clang-format over all C++
  check.py --self-test                 the checks themselves, on small made-up trees

Prints one line for each thing that is wrong, as file:line: what, and what to do. Exit status 1 if any.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import typing

# Which libraries may be seen, and where: the first pattern that matches an include decides. Rooms end in a
# slash; ".cc" after one means its sources only. What nothing matches (the C++ and C libraries, Linux) is free.
LIBRARIES = [
    (r"\.grpc\.pb\.h$", [], "no generated service is used: the router serves all"),
    (r"\.pb\.h$", ["src/api/", "src/worker/rpc/"], "messages stay at the edge"),
    (r"^google/protobuf/", ["src/api/", "src/worker/rpc/"], "messages stay at the edge"),
    (r"^grpc(pp)?/", [], "gRPC is bytes behind rpc/, which frames them itself"),
    (r"^nghttp2/", ["src/rpc/"], "HTTP/2 is behind rpc/"),
    (r"^asio(\.hpp$|/)", ["src/rt/.cc", "src/rpc/.cc", "src/gateway/.cc"], "sockets are behind rt::Loop"),
    (r"^boost/", ["src/gateway/.cc"], "Beast carries the gateway and nothing else"),
    (r"^sqlite3\.h$", ["src/store/"], "state is behind the Store seam"),
    (r"^libpq", ["src/store/"], "state is behind the Store seam"),
    (r"^archive", ["src/cas/", "src/image/", "src/container/"], "archives are read where trees are made"),
    (r"^openssl/", ["src/base/", "src/rpc/"], "hashes, seals and TLS have one home each"),
    (r"^CLI/", ["src/cli/"], "flags are the command line's"),
    (r"^toml", ["src/config/", "src/app/"], "settings are read in one place"),
]

# Files that may look upwards, each with its reason.
UPWARDS = {
    "src/image/real_build_test.cc": "builds in real containers; no room above image/ has this as its subject",
}

# Built by themselves, or from code that was taken in as it is.
SKIPPED = ("build/", "third_party/", ".git/")
# Text that is looked at for words; the rest is not ours to judge.
TEXT = (".h", ".cc", ".py", ".md", ".cmake", ".sh", ".proto", ".txt", ".json", ".toml")
SOURCES = (".h", ".cc")

# A tree that is handed on says nothing of the machine it was written on.
WORDS = [
    (re.compile(r"(?<![\w.])/work/"), "a path of the machine it was written on"),
    (re.compile(r"/tmp/w/"), "a path of the machine it was written on"),
    (re.compile(r"\bartifactory\b|\bnexus\.[a-z]+\.[a-z]+|\bjfrog\b", re.I), "a private package registry"),
]
PENDING = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|X" + "XX)\\b")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


class Finding(typing.NamedTuple):
    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


def list_files(root: pathlib.Path) -> list[str]:
    """What git knows or would add; without git, all."""
    try:
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True
        ).stdout.decode()
        names = [name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in set(names) if not name.startswith(SKIPPED) and (root / name).is_file())


def read_layers(root: pathlib.Path) -> list[str]:
    """The rooms, lowest first, as src/CMakeLists.txt lists them."""
    text = (root / "src/CMakeLists.txt").read_text()
    return re.findall(r"^\s*add_subdirectory\((\w+)\)", text, re.M)


def allowed_in(file: str, places: list[str]) -> bool:
    for place in places:
        if place.endswith(".cc"):
            if file.startswith(place[:-3]) and file.endswith(".cc"):
                return True
        elif file.startswith(place):
            return True
    return False


def check_includes(file: str, lines: list[str], layers: list[str]) -> typing.Iterator[Finding]:
    room = file.split("/")[1]
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        included = found[1] or found[2]
        for pattern, places, why in LIBRARIES:
            if re.search(pattern, included):
                if not allowed_in(file, places):
                    where = " and ".join(places) or "no room"
                    yield Finding(file, number, f"{included} belongs in {where}: {why}")
                break
        if not found[1] or "/" not in included:
            continue
        target = included.split("/")[0]
        if target not in layers or room not in layers or target == room:
            continue
        if layers.index(target) > layers.index(room) and file not in UPWARDS:
            way = f"go through an interface in {room}/ or below"
            yield Finding(file, number, f"{room}/ may not include {included}: {target}/ is above it; {way}")


def check_source(file: str, text: str, layers: list[str]) -> typing.Iterator[Finding]:
    lines = text.splitlines()
    if not lines or not lines[0].startswith("// SPDX-License-Identifier: Apache-2.0"):
        yield Finding(file, 1, "the first line is to be // SPDX-License-Identifier: Apache-2.0")
    if file.endswith(".h") and not any(line.strip() == "#pragma once" for line in lines):
        yield Finding(file, 1, "a header has #pragma once")
    if file.startswith("src/") and file.count("/") >= 2:
        yield from check_includes(file, lines, layers)


def check_words(file: str, text: str) -> typing.Iterator[Finding]:
    if file.startswith("tests/style/"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if PENDING.search(line) and "docs/" not in line:
            yield Finding(file, number, "what is pending is named with a link into docs/, or done")
        for word, what in WORDS:
            if found := word.search(line):
                yield Finding(file, number, f"'{found[0]}' is {what}")


def check_links(file: str, text: str, root: pathlib.Path) -> typing.Iterator[Finding]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        for found in LINK.finditer(line):
            target = found[1].split("#")[0]
            if not target or re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            base = root if target.startswith("/") else (root / file).parent
            if not (base / target.lstrip("/")).exists():
                yield Finding(file, number, f"the link to {found[1]} leads nowhere")


def check_rooms(root: pathlib.Path, layers: list[str]) -> typing.Iterator[Finding]:
    for room in layers:
        if not (root / "src" / room / "README.md").is_file():
            yield Finding(f"src/{room}", 1, "a room has a README.md: what belongs, what does not, where to look")
    for path in sorted((root / "src").iterdir()):
        if path.is_dir() and path.name not in layers and any(path.rglob("*.cc")):
            yield Finding(f"src/{path.name}", 1, "the room is not in src/CMakeLists.txt, so it has no place in the layers")


def check_format(root: pathlib.Path, files: list[str]) -> typing.Iterator[Finding]:
    program = os.environ.get("CLANG_FORMAT", "clang-format-19")
    sources = [file for file in files if file.endswith(SOURCES)]
    for start in range(0, len(sources), 100):
        batch = sources[start : start + 100]
        try:
            done = subprocess.run([program, "--dry-run", *batch], cwd=root, capture_output=True, check=False)
        except OSError as error:
            yield Finding(program, 1, f"cannot be run: {error}; ./dev setup installs it")
            return
        seen = set()
        for line in done.stderr.decode().splitlines():
            found = re.match(r"(.+?):(\d+):\d+: (?:warning|error): ", line)
            if found and found[1] not in seen:
                seen.add(found[1])
                yield Finding(found[1], int(found[2]), "is not formatted: ./dev fmt")


def check_tree(root: pathlib.Path, with_format: bool) -> list[Finding]:
    files = list_files(root)
    layers = read_layers(root)
    findings = list(check_rooms(root, layers))
    for file in files:
        if not file.endswith(TEXT) and file != "dev":
            continue
        try:
            text = (root / file).read_text()
        except UnicodeDecodeError:
            continue  # Bytes for a test.
        if file.endswith(SOURCES) and file.startswith(("src/", "tests/", "tools/")):
            findings += check_source(file, text, layers)
        findings += check_words(file, text)
        if file.endswith(".md"):
            findings += check_links(file, text, root)
    if with_format:
        findings += check_format(root, files)
    return findings


def self_test() -> None:
    """Each check finds what it is for, and lets pass what is right."""
    good = "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n"
    pending = "TO" + "DO"
    cases = [
        # (file, text, a part of what is said, or "" if all is well)
        ("src/low/a.h", good + '#include "low/b.h"\n#include <vector>\n', ""),
        ("src/low/a.h", good + '#include "high/b.h"\n', "is above it"),
        ("src/high/a.h", good + '#include "low/b.h"\n', ""),
        ("src/low/a.h", "#pragma once\n", "SPDX"),
        ("src/low/a.h", good.replace("#pragma once\n", ""), "pragma once"),
        ("src/low/a.cc", good + "#include <sqlite3.h>\n", "behind the Store seam"),
        ("src/low/a.cc", good + "#include <grpcpp/grpcpp.h>\n", "behind rpc/"),
        ("src/api/a.cc", good + '#include "modal.pb.h"\n', ""),
        ("src/api/a.cc", good + '#include "modal.grpc.pb.h"\n', "no generated service"),
        ("src/rt/a.h", good + "#include <asio.hpp>\n", "behind rt::Loop"),
        ("src/rt/a.cc", good + "#include <asio.hpp>\n", ""),
        ("src/low/a.cc", good + f"// {pending}: later\n", "pending"),
        ("src/low/a.cc", good + f"// {pending}, see docs/design/0001-one-loop-and-a-ledger.md\n", ""),
        ("docs/a.md", "see [there](b.md)\n", ""),
        ("docs/a.md", "see [there](missing.md)\n", "leads nowhere"),
        ("docs/a.md", "see [there](https://example.com/x) and [here](#part)\n", ""),
        ("docs/a.md", "it lies in " + "/work/" + "x\n", "machine"),
    ]
    for file, text, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            rooms = ["low", "rt", "high", "api"]
            for name in rooms:
                (root / "src" / name).mkdir(parents=True)
                (root / "src" / name / "README.md").write_text(f"# {name}\n")
            (root / "src/CMakeLists.txt").write_text("".join(f"add_subdirectory({name})\n" for name in rooms))
            (root / "docs").mkdir()
            (root / "docs/b.md").write_text("# b\n")
            (root / file).write_text(text)
            said = [str(finding) for finding in check_tree(root, False)]
            right = len(said) == 1 and expected in said[0] if expected else not said
            if not right:
                raise SystemExit(f"self-test: {file} with {text!r}: expected {expected!r}, was told {said}")
    print(f"{len(cases)} cases")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--format", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        self_test()
        return 0
    findings = check_tree(arguments.root.resolve(), arguments.format)
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
