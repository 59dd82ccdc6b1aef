# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each part, at random instants of a map: every input ends with exactly one result."""
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from proa_testing import CLIENTS

APPS = Path(__file__).parent.parent / "conformance/apps"
KILLS = int(os.environ.get("PROA_KILLS", "6"))  # For each part; PROA_KILLS=30 is the long run.

DRIVER = f"""
import modal, sys, time
sys.path.insert(0, {str(APPS)!r})
square = modal.Function.from_name("killed", "square")
begun = time.monotonic()
round = 0
while time.monotonic() - begun < float(sys.argv[1]):
    n = 300
    results = list(square.map(range(n)))
    assert results == [i * i for i in range(n)], results
    round += 1
print("rounds", round)
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["server", "worker", "launcher", "all"])
def test_a_map_survives_kill_9(own_proa, part):
    proa = own_proa
    deployed = proa.modal("deploy", str(APPS / "basic.py"), "--name", "killed")
    assert deployed.status == 0, deployed
    random.seed(part)
    duration = KILLS * 2.5
    client = subprocess.Popen([str(CLIENTS["1.6.4"] / "bin/python"), "-c", DRIVER, str(duration)],
                              env=proa.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = 0
    while killed < KILLS and client.poll() is None:
        time.sleep(random.uniform(0.5, 3.0))
        if part == "all":
            proa.kill_all()
            proa.start()
            killed += 1
        else:
            killed += proa.kill(part)
    try:
        out, err = client.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        client.kill()
        out, err = client.communicate()
        raise AssertionError(f"the map did not come to an end\n{out}\n{err}\n{proa.log()[-5000:]}") from None
    assert client.returncode == 0, f"{out}\n{err}\n{proa.log()[-5000:]}"
    assert killed == KILLS
    assert int(out.split("rounds ")[1]) >= 1
