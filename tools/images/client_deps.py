#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a dependency mount, as `2025.06-cp311-manylinux_2_17-x86_64`: what the official client needs in containers.

The packages that the client's own list for a builder version names (it is in the client's wheel) lie below
/__modal/deps; /pkg/sitecustomize.py appends that to Python's path, after the user's own packages. Only wheels are
fetched and none of their code runs. A pin that cannot be had is replaced by the nearest version that can, and that
is said. Kept in the cache (PROA_CACHE, default ~/.cache/proa) as mounts/NAME.tar with a .json beside it, which it
prints.
"""
import argparse
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import common
from common import Failed, log

RECIPE = "1"
SITECUSTOMIZE = "import sys; sys.path.append('/__modal/deps')\n"
PLATFORMS = {
    "manylinux_2_17-x86_64": ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_12_x86_64",
                              "manylinux2010_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64"],
    "musllinux_1_2-x86_64": ["musllinux_1_2_x86_64", "musllinux_1_1_x86_64"],
}


def applies(marker: str, python: str) -> bool:
    """Whether a requirement's marker holds. The lists use comparisons of python_version joined by `and` alone."""
    version = tuple(int(part) for part in python.split("."))
    for term in filter(None, (term.strip() for term in re.split(r"\band\b", marker))):
        match = re.fullmatch(r"""python_(?:full_)?version\s*(<=|>=|==|!=|<|>)\s*['"]([0-9.]+)['"]""", term.strip("() "))
        if not match:
            raise Failed(f"a condition of the client's list is not understood: '{marker}'")
        other = tuple(int(part) for part in match[2].split("."))[:2]
        holds = {"<": version < other, ">": version > other, "<=": version <= other, ">=": version >= other,
                 "==": version == other, "!=": version != other}[match[1]]
        if not holds:
            return False
    return True


def requirements(wheel: Path, builder: str, python: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        try:
            text = archive.read(f"modal/builder/{builder}.txt").decode()
        except KeyError:
            raise Failed(f"{wheel.name} has no list for the builder version {builder}") from None
    wanted = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        pin, _, marker = line.partition(";")
        if applies(marker, python):
            wanted.append(pin.strip())
    return wanted


def nearest(pin: str, options: list[str]) -> str:
    """Another version of the project that `pin` names: the closest that is no newer, or else the closest newer one."""
    project, _, version = pin.partition("==")
    said = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *options,
                           "--dest", "/nonexistent", f"{project}==0.0.0.dev0"], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    match = re.search(r"from versions: ([^)]*)\)", said)
    versions = [text.strip() for text in match[1].split(",")] if match else []

    def key(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text))

    versions = [text for text in versions if re.fullmatch(r"[0-9]+(\.[0-9]+)*(\.post[0-9]+)?", text)]
    if not versions:
        raise Failed(f"'{pin}' cannot be had, nor any other version of {project}")
    # A post-release of the very version is the same software packed again.
    same = [text for text in versions if text.startswith(version + ".post")]
    older = [text for text in versions if key(text) <= key(version)]
    newer = [text for text in versions if key(text) > key(version)]
    chosen = max(same, key=key) if same else max(older, key=key) if older else min(newer, key=key)
    return f"{project}=={chosen}"


def fetch(pins: list[str], directory: Path, options: list[str]) -> tuple[list[Path], list[str]]:
    """All at once, and one by one only if that fails."""
    notes: list[str] = []
    try:
        return common.pip_download(pins, directory, options), notes
    except Failed:
        for pin in pins:
            try:
                common.pip_download([pin], directory, options)
            except Failed:
                instead = nearest(pin, options)
                notes.append(f"{pin} cannot be had; {instead} stands in for it")
                log(f"      {notes[-1]}")
                common.pip_download([instead], directory, options)
        return sorted(directory.glob("*.whl")), notes


def make(args: argparse.Namespace, out: Path) -> dict:
    work = common.scratch_directory("deps-")
    try:
        log(f"      fetching what the client needs in containers with Python {args.python}")
        client = common.pip_download([f"modal=={args.modal_version}"], work / "client",
                                     ["--python-version", "3.11", "--ignore-requires-python"])[0]
        pins = requirements(client, args.builder, args.python)
        abi = "cp" + args.python.replace(".", "")
        options = ["--python-version", args.python, "--implementation", "cp", "--abi", abi, "--abi", "abi3", "--abi",
                   "none"]
        for platform in [*PLATFORMS[args.platform], "any"]:
            options += ["--platform", platform]
        wheels, notes = fetch(pins, work / "wheels", options)
        target = work / "root/__modal/deps"
        for wheel in wheels:
            common.unpack_wheel(wheel, target)
        python = common.matching_python(args.python)
        if python is not None:
            common.compile_python(python, target, "/__modal/deps")
        else:
            log(f"      no Python {args.python} on this host: the byte code is left out")
        (work / "root/pkg").mkdir()
        (work / "root/pkg/sitecustomize.py").write_text(SITECUSTOMIZE)
        common.tar_of_files(work / "root", out, mtime=1_700_000_000)
        return {"wheels": [wheel.name for wheel in wheels], "notes": notes,
                "compiled_for": [args.python] if python else []}
    finally:
        common.remove_tree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builder", default="2025.06", help="builder version (default: %(default)s)")
    parser.add_argument("--python", required=True, help="series, as 3.11")
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="manylinux_2_17-x86_64")
    parser.add_argument("--modal-version", default="1.6.4", help="client whose list is used (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="make it though it is in the cache")
    args = parser.parse_args()
    for value, shape in [(args.builder, r"20[0-9]{2}\.[0-9]{2}|PREVIEW"), (args.python, r"3\.[0-9]{1,2}"),
                         (args.modal_version, r"[0-9]+(\.[0-9]+){1,3}\w*")]:
        if not re.fullmatch(shape, value):
            raise Failed(f"'{value}' is not such a version")
    name = f"{args.builder}-cp{args.python.replace('.', '')}-{args.platform}"
    recipe = common.digest_of(RECIPE, Path(__file__).read_bytes(), args.modal_version)
    common.answer("mounts", name, recipe, args.again, lambda out: make(args, out))
    return 0


if __name__ == "__main__":
    common.main_of(main)
