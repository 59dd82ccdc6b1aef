#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a stand-in for the image that holds uv alone (/uv and /uvx), from uv's wheel.

What `COPY --from=…/uv:VERSION /uv …` of a Dockerfile finds where no container registry is. Kept in the cache
(PROA_CACHE, default ~/.cache/proa) as bases/uv-VERSION.tar with a .json beside it, which it prints.
"""
import argparse
import re
import shutil
import sys
from pathlib import Path

import common
from common import Failed, log

RECIPE = "1"
PLATFORM = ["--platform", "manylinux_2_17_x86_64", "--platform", "manylinux_2_28_x86_64", "--implementation", "py",
            "--python-version", "3.11"]


def make(version: str, out: Path) -> dict:
    work = common.scratch_directory("uv-")
    try:
        log("      fetching uv")
        wheel = common.pip_download(["uv" if version == "latest" else f"uv=={version}"], work / "wheel", PLATFORM)[0]
        got = wheel.name.split("-")[1]
        common.unpack_wheel(wheel, work / "files", scripts=True)
        root = work / "root"
        root.mkdir()
        for name in ("uv", "uvx"):
            shutil.copyfile(work / "files/bin" / name, root / name)
            (root / name).chmod(0o755)
        common.tar_of_files(root, out, mtime=1_700_000_000)
        return {
            "format": "proa base 1",
            "aliases": [f"ghcr.io/astral-sh/uv:{got}"] + (["ghcr.io/astral-sh/uv:latest"] if version == "latest" else []),
            "alias_patterns": [],
            "stand_in_for": f"ghcr.io/astral-sh/uv:{got}",
            "warning": f"the image of uv is stood in for by uv {got} from its wheel",
            "extra_commands": [],
            "config": {"env": {}, "cmd": [], "entrypoint": ["/uv"], "workdir": "/", "user": ""},
            "metadata": {},
        }
    finally:
        common.remove_tree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="latest", help="as 0.9.1, or latest (default)")
    parser.add_argument("--again", action="store_true", help="make it though it is in the cache")
    args = parser.parse_args()
    if not re.fullmatch(r"latest|[0-9]+(\.[0-9]+){1,2}", args.version):
        raise Failed(f"'{args.version}' is not a version of uv")
    recipe = common.digest_of(RECIPE, Path(__file__).read_bytes())
    common.answer("bases", f"uv-{args.version}", recipe, args.again, lambda out: make(args.version, out))
    return 0


if __name__ == "__main__":
    common.main_of(main)
