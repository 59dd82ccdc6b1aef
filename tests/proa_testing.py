# SPDX-License-Identifier: Apache-2.0
"""A running Proa as a Python object, and the official client against it, in processes of its own."""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(os.environ.get("PROA_PROGRAM", ROOT / "build/release/bin/proa"))
CLIENTS = {"1.6.4": ROOT / "build/venv", "1.5.4": ROOT / "build/venv-1.5.4"}


class Failed(AssertionError):
    pass


@dataclass
class Finished:
    """What a client process left behind."""

    status: int
    out: str
    err: str
    seconds: float

    def __str__(self) -> str:
        return f"exit status {self.status} after {self.seconds:.1f} s\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass
class Proa:
    """`proa up` on a directory of its own. Use as a context manager; stop() leaves nothing running."""

    directory: Path = None
    arguments: list = field(default_factory=list)
    url: str = ""
    process: subprocess.Popen = None
    listen: str = "127.0.0.1:0"

    def __post_init__(self):
        if self.directory is None:
            # Not below a home directory: the server runs as a user who may not enter those.
            self.directory = Path(tempfile.mkdtemp(prefix="proa-test-", dir="/var/tmp"))
            os.chmod(self.directory, 0o711)
        self.log_path = self.directory / "up.log"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, timeout: float = 60.0) -> None:
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [str(PROGRAM), "up", "--data-dir", str(self.directory / "data"), "--listen", self.listen, *self.arguments],
            stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        line = self._first_line(timeout)
        if not line.startswith("ready "):
            raise Failed(f"proa up said {line!r} instead of being ready; its log:\n{self.log()[-4000:]}")
        self.url = line.split()[1]
        # The same port after a restart, as with a real one.
        self.listen = self.url.partition("://")[2]

    def _first_line(self, timeout: float) -> str:
        readable, _, _ = select.select([self.process.stdout], [], [], timeout)
        return self.process.stdout.readline().strip() if readable else "nothing"

    def stop(self, timeout: float = 30.0) -> int:
        if self.process is None or self.process.poll() is not None:
            return 0 if self.process is None else self.process.returncode
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"proa up did not stop within {timeout} s; its log:\n{self.log()[-4000:]}")

    def kill_all(self) -> None:
        """kill -9 of the supervisor; the kernel ends its children with it, at once but not before this returns."""
        self.process.kill()
        self.process.wait()

    def child(self, name: str) -> int | None:
        """The pid of the supervisor's child `server`, `worker` or `launcher`, if it runs."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in path.read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if name == "launcher" and command[0].endswith(b"/proa-launcher"):
                return int(pid)
            if len(command) > 1 and command[1] == name.encode():
                return int(pid)
        return None

    def kill(self, name: str) -> bool:
        pid = self.child(name)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def settings(self) -> dict:
        text = (self.directory / "data/client.env").read_text()
        return dict(re.findall(r"^export (\w+)='([^']*)'", text, re.M))

    def environment(self, client: str = "1.6.4") -> dict:
        """Of a client process: nothing of the tester's own configuration."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "PROA_"))}
        return keep | self.settings() | {
            "MODAL_CONFIG_PATH": str(self.directory / "modal.toml"),
            "PATH": f"{CLIENTS[client]}/bin:{os.environ['PATH']}",
            "COLUMNS": "200",
        }

    def modal(self, *arguments, client="1.6.4", timeout=180.0, cwd=None, env=None, input=None) -> Finished:
        """Runs `modal ARGUMENTS…` and waits for it."""
        return self.command([str(CLIENTS[client] / "bin/modal"), *arguments], client, timeout, cwd, env, input)

    def python(self, code: str, client="1.6.4", timeout=180.0, cwd=None, env=None) -> Finished:
        return self.command([str(CLIENTS[client] / "bin/python"), "-c", code], client, timeout, cwd, env, None)

    def command(self, argv, client, timeout, cwd, env, input) -> Finished:
        begun = time.monotonic()
        try:
            done = subprocess.run(argv, env=self.environment(client) | (env or {}), cwd=cwd, timeout=timeout, text=True,
                                  capture_output=True, input=input)
        except subprocess.TimeoutExpired as late:
            out = (late.stdout or b"").decode(errors="replace") if isinstance(late.stdout, bytes) else (late.stdout or "")
            err = (late.stderr or b"").decode(errors="replace") if isinstance(late.stderr, bytes) else (late.stderr or "")
            raise Failed(f"{' '.join(map(str, argv))} took more than {timeout} s\n--- stdout\n{out}\n--- stderr\n{err}\n"
                         f"--- log of proa\n{self.log()[-6000:]}") from None
        return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)

    def json(self, *arguments, **options):
        done = self.modal(*arguments, "--json", **options)
        assert done.status == 0, done
        return json.loads(done.out)

