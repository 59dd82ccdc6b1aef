# SPDX-License-Identifier: Apache-2.0
"""kill -9 of each part, at random instants of a map: every input ends with exactly one result."""
import os
import random
import re
import subprocess
import time

import pytest

from proa_testing import CLIENTS

KILLS = int(os.environ.get("PROA_KILLS", "6"))  # For each part; PROA_KILLS=30 is the long run.

APP = """
import time
import modal

app = modal.App("killed")

@app.function()
def square(round: int, x: int) -> int:
    print(f"ran {round} {x} at {time.time():.3f}", flush=True)
    return x * x
"""

# Says when it had each result: from then on the input must not run again.
DRIVER = """
import modal, sys, time
square = modal.Function.from_name("killed", "square")
begun = time.monotonic()
round = 0
while time.monotonic() - begun < float(sys.argv[1]):
    n = 300
    seen = {}
    for i, result in zip(range(n), square.starmap((round, i) for i in range(n))):
        assert result == i * i, (i, result)
        print(f"had {round} {i} at {time.time():.3f}", flush=True)
    round += 1
print("rounds", round)
"""


def times(text: str, word: str) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    for round, index, at in re.findall(rf"^{word} (\d+) (\d+) at ([0-9.]+)$", text, re.M):
        found.setdefault((int(round), int(index)), []).append(float(at))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", ["server", "worker", "launcher", "all"])
def test_a_map_survives_kill_9(own_proa, part, tmp_path):
    proa = own_proa
    (tmp_path / "killed_app.py").write_text(APP)
    deployed = proa.modal("deploy", str(tmp_path / "killed_app.py"))
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
    rounds = int(out.split("rounds ")[1])
    assert rounds >= 1
    # Lines that were in a container when it was killed are gone with it; those that are there tell of every run.
    had = times(out, "had")
    ran = times(proa.modal("app", "logs", "killed", "--tail", "20000", timeout=120).out, "ran")
    assert len(had) == rounds * 300
    assert len(ran) > len(had) / 2, f"{len(ran)} of {len(had)} inputs have a line in the log"
    again = {key: (at, had[key]) for key, runs in ran.items() for at in runs if key in had and at > had[key][0]}
    assert not again, f"ran after their result was there: {again}"
