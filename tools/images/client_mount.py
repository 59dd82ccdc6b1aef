#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the mount `modal-client-mount-VERSION`: the official client as containers see it, below /pkg.

Holds modal, modal_proto, modal_version and synchronicity, as the wheels have them, less tests. Runs no code of the
wheels. Kept in the cache (PROA_CACHE, default ~/.cache/proa) as mounts/modal-client-mount-VERSION.tar with a .json
beside it, which it prints.

Byte code is not in it: one mount serves every Python. --compile-for adds that of some, so that a container need not
compile 500 files before its first line; it is put where each of them looks and nobody else does.
"""
import argparse
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import common
from common import Failed, log

RECIPE = "1"
# What each wheel gives to /pkg; a package or a module.
PARTS = {"modal": ["modal", "modal_proto", "modal_version"], "synchronicity": ["synchronicity"]}


def requirement(wheel: Path, name: str) -> str:
    """What `wheel` asks for of the project `name`, as pip writes it."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(member for member in archive.namelist() if member.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    for line in text.splitlines():
        match = re.match(rf"Requires-Dist:\s*({name})\s*\(?([^;)]*)\)?\s*(;.*)?$", line, re.IGNORECASE)
        if match:
            return match[1] + match[2].replace(" ", "")
    raise Failed(f"the wheel {wheel.name} does not say which {name} it wants")


def make(version: str, pythons: list[str], out: Path) -> dict:
    work = common.scratch_directory("client-")
    try:
        log(f"      fetching the official client {version}")
        # Any platform and Python: these wheels are pure Python, or pip says that they are not.
        options = ["--python-version", "3.11", "--ignore-requires-python"]
        wheels = common.pip_download([f"modal=={version}"], work / "modal", options)
        wanted = requirement(wheels[0], "synchronicity")
        wheels += common.pip_download([wanted], work / "synchronicity", options)
        for wheel in wheels:
            common.unpack_wheel(wheel, work / "site")
        package = work / "root/pkg"
        package.mkdir(parents=True)
        for parts in PARTS.values():
            for part in parts:
                if (work / "site" / part).is_dir():
                    shutil.copytree(work / "site" / part, package / part)
                elif (work / "site" / f"{part}.py").is_file():
                    shutil.copyfile(work / "site" / f"{part}.py", package / f"{part}.py")
                else:
                    raise Failed(f"the client {version} has no '{part}'; this tool does not know its layout")
        for path in sorted(package.rglob("*"), reverse=True):
            if path.is_dir() and path.name in ("test", "tests", "__pycache__"):
                common.remove_tree(path)
            elif path.suffix == ".pyi" or path.name == ".DS_Store":
                path.unlink()
        compiled = []
        for series in pythons:
            python = common.matching_python(series)
            if python is None:
                log(f"      no Python {series} on this host: its byte code is left out of the client mount")
                continue
            common.compile_python(python, package, "/pkg")
            compiled.append(series)
        common.tar_of_files(work / "root", out, mtime=1_700_000_000)
        return {"wheels": sorted(wheel.name for wheel in wheels), "compiled_for": compiled}
    finally:
        common.remove_tree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modal-version", required=True)
    parser.add_argument("--compile-for", default="3.11,3.13", help="Python series, with commas (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="make it though it is in the cache")
    args = parser.parse_args()
    # The version comes from a client's request: it names a file and a requirement.
    if not re.fullmatch(r"[0-9]+(\.[0-9]+){1,3}((a|b|rc|\.dev|\.post)[0-9]+)*", args.modal_version):
        raise Failed(f"'{args.modal_version}' is not a version of the client")
    pythons = [series for series in args.compile_for.split(",") if series]
    name = f"modal-client-mount-{args.modal_version}"
    recipe = common.digest_of(RECIPE, Path(__file__).read_bytes(), ",".join(pythons))
    common.answer("mounts", name, recipe, args.again, lambda out: make(args.modal_version, pythons, out))
    return 0


if __name__ == "__main__":
    common.main_of(main)
