#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what users wait for, each beside its floor in the same run, and writes the table in SPECIFICATION.md.

Everything is done by the official client against a Proa of its own in real containers. Machines differ by factors and are
shared: the ratio to the floor is what counts, so floors are taken between the measurements and not before them.
"""
import argparse
import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "bench"))

from proa_testing import CLIENTS, Proa  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass
class Row:
    what: str
    measured: str
    floor: str
    ratio: str
    goal: str


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: list[float], unit: float = 1e3, name: str = "ms") -> str:
    return f"p50 {statistics.median(values) * unit:.1f}, p90 {quantile(values, .9) * unit:.1f}, p99 {quantile(values, .99) * unit:.1f} {name}"


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(pid: int) -> float:
    return sum(map(int, stat(pid)[11:13])) / TICKS


def ended_children_seconds(pid: int) -> float:
    return sum(map(int, stat(pid)[13:15])) / TICKS


def resident_bytes(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def containers(proa: Proa) -> list[int]:
    """The processes that run user code in this Proa's containers."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(stat(int(entry.name))[1])
            except OSError:
                pass
    found, launcher = [], proa.child("launcher")
    for pid in parents:
        above = parents[pid]
        while above in parents and above != launcher:
            above = parents[above]
        try:
            # Slots that are prepared for what comes descend from it too.
            if above == launcher and b"_container_entrypoint" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


class Cpu:
    """CPU seconds of our processes, of containers and of this client, from its making on."""

    def __init__(self, proa: Proa):
        self.proa = proa
        self.before = self.now()

    def now(self) -> dict[str, float]:
        ours = {name: cpu_seconds(self.proa.child(name)) for name in ("server", "worker", "launcher")}
        inside = ended_children_seconds(self.proa.child("launcher"))
        for pid in containers(self.proa):
            try:
                inside += cpu_seconds(pid) + ended_children_seconds(pid)
            except OSError:
                pass
        return ours | {"containers": inside, "client": time.process_time()}

    def spent(self) -> dict[str, float]:
        return {name: value - self.before[name] for name, value in self.now().items()}


def wait_until_no_container(proa: Proa, timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while containers(proa) and time.monotonic() < deadline:
        time.sleep(0.1)


def cold_starts(bench, proa: Proa, rounds: int) -> list[Row]:
    bench.begun.remote()  # The image is there from now on.
    times, passes, entries = [], [], []
    for _ in range(rounds):
        wait_until_no_container(proa)
        asked = time.time()
        times.append(bench.begun.remote() - asked)
        floor = bench.floors.remote(3)
        passes += floor["pass"]
        entries += floor["entry"]
    ratio = statistics.median(times) / statistics.median(entries)
    return [Row("cold start: call to first line of user code, image cached", spread(times), f"a fresh Python that imports the entry point, in a container: {spread(entries)}; "
                f"`python -c pass` there: {spread(passes)}", f"{ratio:.2f} ×", "plain ≤ 1.3 ×; from a template ≤ 1/3; prepared ≤ 1/12")]


def warm_calls(bench, rounds: int) -> list[Row]:
    bench.nothing.remote(0)
    times, floors = [], []
    for i in range(rounds):
        started = time.perf_counter()
        bench.nothing.remote(i)
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
        bench.nothing.get_current_stats()
        floors.append(time.perf_counter() - started)
    return [Row("warm call, round trip", spread(times), f"one read-only call of the same client: {spread(floors)}", f"{statistics.median(times) / statistics.median(floors):.1f} ×",
                "≤ 1 ms more than a relay")]


def maps(bench, proa: Proa, inputs: int) -> list[Row]:
    list(bench.nothing.map(range(500)))  # Containers are there.
    cpu = Cpu(proa)
    started = time.perf_counter()
    results = list(bench.nothing.map(range(inputs)))
    seconds = time.perf_counter() - started
    assert results == list(range(inputs))
    spent = {name: value / inputs * 1e6 for name, value in cpu.spent().items()}
    ours = sum(spent[name] for name in ("server", "worker", "launcher"))
    ceiling = os.cpu_count() / (spent["client"] + spent["containers"]) * 1e6
    rate = inputs / seconds
    detail = ", ".join(f"{name} {value:.0f}" for name, value in spent.items())
    return [Row(f"map of {inputs:,} no-ops", f"{rate:.0f}/s", f"{ceiling:.0f}/s: cores ÷ CPU that client and containers take for an input", f"{rate / ceiling:.0%}", "≥ 85 %"),
            Row("CPU for each mapped input", f"{ours:.0f} µs in our processes", f"µs: {detail}", "", "≤ 300 µs")]


def bursts(bench, proa: Proa, count: int) -> list[Row]:
    wait_until_no_container(proa)
    started = time.time()
    seen = list(bench.together.map(range(count)))
    last = max(at for _, at in seen) - started
    used = len({container for container, _ in seen})
    floor = bench.floors.remote(5)
    each = statistics.median(floor["entry"])
    return [Row(f"{count} inputs of 3 s at once", f"the last begins after {last:.1f} s, in {used} containers", f"{count} plain starts on {os.cpu_count()} cores: {count * each / os.cpu_count():.1f} s",
                f"{last / (count * each / os.cpu_count()):.2f} ×", "≤ 1/3 ×")]


def commands(proa: Proa, rounds: int) -> list[Row]:
    hello = ROOT / "examples/hello.py"
    assert proa.modal("run", str(hello)).status == 0
    times, floors = [], []
    for _ in range(rounds):
        done = proa.modal("run", str(hello))
        assert done.status == 0, done
        times.append(done.seconds)
        done = proa.python("import modal")
        floors.append(done.seconds)
    more = statistics.median(times) - statistics.median(floors)
    return [Row("second `modal run examples/hello.py`, whole command", spread(times, 1, "s"), f"starting Python and importing the client: {spread(floors, 1, 's')}", f"{more:.1f} s more", "≤ 1 s more")]


def idle(proa: Proa) -> list[Row]:
    wait_until_no_container(proa)
    sizes = {name: resident_bytes(proa.child(name)) / 1e6 for name in ("server", "worker", "launcher")}
    return [Row("memory at rest, after all of the above", f"{sizes['server'] + sizes['worker']:.0f} MB", ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()), "", "server + worker ≤ 150 MB")]


def machine() -> str:
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{os.cpu_count()} cores, {memory} GiB, Linux {platform.release().split('-')[0]}"


def table(rows: list[Row], load: float, command: str) -> str:
    lines = [f"{datetime.date.today().isoformat()}, {machine()}, release build, load before the run {load:.1f}. `{command}`", "",
             "| what | measured | floor, in the same run | ratio | goal |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {row.what} | {row.measured} | {row.floor} | {row.ratio} | {row.goal} |" for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--write", action="store_true", help="put the table into SPECIFICATION.md")
    parser.add_argument("--only", choices=["cold", "warm", "map", "burst", "command", "idle"], action="append", help="these rows alone; may be repeated")
    args = parser.parse_args()
    python = CLIENTS["1.6.4"] / "bin/python"
    if Path(sys.executable).resolve() != python.resolve() or Path(sys.prefix) != CLIENTS["1.6.4"]:
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    share = 10 if args.quick else 1
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with Proa() as proa:
        for name in list(os.environ):
            if name.startswith("MODAL_"):
                del os.environ[name]
        os.environ.update(proa.settings())
        os.environ["MODAL_CONFIG_PATH"] = str(proa.directory / "modal.toml")
        import app as bench

        with bench.app.run():
            steps = {"cold": lambda: cold_starts(bench, proa, 20 // share), "warm": lambda: warm_calls(bench, 500 // share), "map": lambda: maps(bench, proa, 10_000 // share),
                     "burst": lambda: bursts(bench, proa, 50 // share)}
            for name, step in steps.items():
                if not args.only or name in args.only:
                    print(f"{name} …", file=sys.stderr, flush=True)
                    rows += step()
        if not args.only or "command" in args.only:
            rows += commands(proa, 10 // share or 1)
        if not args.only or "idle" in args.only:
            rows += idle(proa)
    text = table(rows, load, " ".join(["./dev bench", *sys.argv[1:]]))
    print(text)
    if args.write:
        path = ROOT / "SPECIFICATION.md"
        before, _, rest = path.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
