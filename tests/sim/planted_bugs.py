#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the simulator with each planted bug, and without any: it must find each one, and nothing else.

Prints at which seed each was found and by what it was known. Exit status 1 if one was not found, if a patch
has no program, or if the simulator finds fault with the rules as they are.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

RUN_SECONDS_MAX = 120


def run(program: pathlib.Path, seeds: int) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [program, "--seeds", str(seeds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 0, f"did not end within {RUN_SECONDS_MAX} s"
    except OSError as error:
        return 0, f"cannot be run: {error}"
    return done.returncode, done.stdout.decode(errors="replace")


def describe(status: int, output: str) -> str:
    if found := re.search(r"seed (\d+) failed: (.*)", output):
        return f"seed {found[1]:>3}: {found[2]}"
    # A PROA_CHECK, or a crash: the seed is not known, the first line of what it said is.
    line = next((line for line in output.splitlines() if line.strip()), "no output")
    return f"status {status}: {line}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bugs", type=pathlib.Path, required=True)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=200)
    arguments = parser.parse_args()
    names = sorted(patch.stem for patch in arguments.bugs.glob("*.patch"))
    if len(names) < 12:
        print(f"only {len(names)} planted bugs in {arguments.bugs}: at least 12 are wanted")
        return 1
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        runs = {
            name: pool.submit(run, arguments.programs / f"sim-bug-{name}", arguments.seeds)
            for name in ["none", *names]
        }
    missed = []
    for name in names:
        status, output = runs[name].result()
        if status == 0 or "failed:" not in output and status > 0:
            missed.append(name)
            print(f"{name:36} NOT FOUND  {describe(status, output)}")
        else:
            print(f"{name:36} {describe(status, output)}")
    status, output = runs["none"].result()
    if status != 0 or "seeds," not in output:
        print(f"without a bug: {output.strip()}")
        return 1
    print("without a bug: " + output.splitlines()[0])
    if missed:
        print(f"{len(missed)} of {len(names)} planted bugs were not found: strengthen the checks in src/sim/world.cc")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
