# SPDX-License-Identifier: Apache-2.0
"""What bench/run.py calls."""
import os
import subprocess
import sys
import time

import modal

app = modal.App("bench")


@app.function(scaledown_window=2)
def begun() -> float:
    return time.time()


@app.function(scaledown_window=2)
def nothing(x: int) -> int:
    return x


@app.function(scaledown_window=2)
def floors(rounds: int) -> dict:
    """In a container: how long a fresh Python takes, and one that imports what runs functions. Seconds, sorted."""
    def take(code: str) -> list[float]:
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
        return sorted(times)

    return {"pass": take("pass"), "entry": take("import modal._container_entrypoint")}


@app.function(cpu=0.02, memory=64)
def together(_: int) -> tuple[str, float]:
    """Which container, and when it was there."""
    at = time.time()
    time.sleep(3)
    return os.environ["MODAL_TASK_ID"], at
