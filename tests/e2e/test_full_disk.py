# SPDX-License-Identifier: Apache-2.0
"""A disk that fills up: said at once and in words, nothing lost, and all goes on when there is space again."""
import os
import subprocess
import time
from pathlib import Path

import pytest

from proa_testing import Proa

APPS = Path(__file__).parent.parent / "conformance/apps"

CALLER = """
import modal, sys
square = modal.Function.from_name("full", "square")
print("said", square.remote(int(sys.argv[1])))
"""


@pytest.fixture
def small(tmp_path):
    """A Proa on a tmpfs of its own, which also tries images that the kernel cannot mount from their files."""
    directory = tmp_path / "disk"
    directory.mkdir()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100m,mode=711", "tmpfs", directory], check=True)
    try:
        with Proa(directory=directory) as proa:
            yield proa
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass


def test_a_full_disk_is_said_and_nothing_is_lost(small):
    proa = small
    assert proa.modal("deploy", str(APPS / "basic.py"), "--name", "full").status == 0
    spawned = proa.python("import modal; print(modal.Function.from_name('full', 'square').spawn(12).object_id)")
    assert spawned.status == 0, spawned
    assert "said 49" in proa.python(CALLER.replace("int(sys.argv[1])", "7")).out

    ballast = proa.directory / "fill"
    fill(ballast)
    deadline = time.monotonic() + 10
    while "disk.low" not in proa.log() and time.monotonic() < deadline:
        time.sleep(0.1)
    refused = proa.python(CALLER.replace("int(sys.argv[1])", "8"), timeout=60)
    assert refused.status != 0 and "disk full" in refused.err and str(proa.directory) in refused.err, refused
    assert refused.seconds < 20
    # What asks for nothing new is answered, also by a server that was started on the full disk.
    assert proa.modal("app", "list").status == 0
    proa.kill("server")
    assert proa.modal("app", "list", timeout=60).status == 0, proa.log()[-3000:]

    os.unlink(ballast)
    time.sleep(2)
    again = proa.python(CALLER.replace("int(sys.argv[1])", "9"))
    assert "said 81" in again.out, again
    kept = proa.python(f"import modal; print('kept', modal.FunctionCall.from_id('{spawned.out.strip()}').get(timeout=30))")
    assert "kept 144" in kept.out, kept
