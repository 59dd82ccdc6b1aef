# SPDX-License-Identifier: Apache-2.0
"""What people see in a browser: logging in, and the page of an app. Opened in a real one."""
import contextlib
import fcntl
import http.cookiejar
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from proa_testing import CLIENTS, PROGRAM, Failed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Tab:
    """A page that is open in a browser; `problems` are errors of its scripts and of its policy."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self.browser, self.session, self.problems = browser, session, []

    def call(self, method: str, **parameters):
        return self.browser.call(method, parameters, self.session)

    def run(self, script: str):
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in done:
            raise Failed(f"{script} failed in the browser: {done['exceptionDetails']}")
        return done["result"].get("value")

    def text(self, selector: str = "body") -> str:
        return self.run(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''")

    def wait_for(self, selector: str, part: str, timeout: float = 30.0) -> str:
        deadline = time.monotonic() + timeout
        while True:
            found = self.text(selector)
            if part in found:
                return found
            if time.monotonic() > deadline:
                raise Failed(f"{selector} does not show {part!r} after {timeout} s; it shows:\n{found}\n--- the page\n{self.text()}\n--- problems\n{self.problems}")
            time.sleep(0.1)


class Browser:
    """Chromium without a window, driven through its debugging pipe: JSON messages, each ended by a NUL."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="proa-browser-")
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Above the numbers that the browser wants them under.
        high_in, high_out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_in, theirs_out))
        arguments = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server", "--disable-dev-shm-usage",
                     f"--user-data-dir={self.directory}", "--remote-debugging-pipe", "about:blank"]
        self.log = open(Path(self.directory) / "log", "wb")
        self.process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{high_in} 4>&{high_out} {high_in}<&- {high_out}>&-', "browser", *arguments],
                                        pass_fds=(high_in, high_out), stdout=self.log, stderr=self.log)
        for fd in (theirs_in, theirs_out, high_in, high_out):
            os.close(fd)
        self.out, self.into = ours_in, ours_out
        self.buffer = b""
        self.last_id = 0
        self.tabs: dict[str, Tab] = {}

    def call(self, method: str, parameters: dict | None = None, session: str | None = None, timeout: float = 60.0):
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout
        while True:
            answer = self.read(deadline, method)
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise Failed(f"the browser refuses {method}: {answer['error']}")
                return answer["result"]
            self.note(answer)

    def read(self, deadline: float, method: str) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.out], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self.out, 1 << 20) if ready else b""
            if not piece:
                raise Failed(f"the browser does not answer {method}; it says:\n{(Path(self.directory) / 'log').read_text(errors='replace')[-3000:]}")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def note(self, event: dict) -> None:
        tab = self.tabs.get(event.get("sessionId", ""))
        if tab is None:
            return
        if event["method"] == "Runtime.exceptionThrown":
            tab.problems.append(event["params"]["exceptionDetails"])
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error" and "favicon" not in event["params"]["entry"].get("url", ""):
            tab.problems.append(event["params"]["entry"])

    def open(self, url: str) -> Tab:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        for domain in ("Runtime", "Log", "Page"):
            tab.call(f"{domain}.enable")
        tab.call("Page.navigate", url=url)
        return tab

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "chromium is not installed: ./dev setup"
    running = Browser()
    yield running
    running.close()


class Client:
    """A process of the official client that goes on while the test looks at pages."""

    def __init__(self, proa, *arguments, env=None, without=()) -> None:
        settings = {name: value for name, value in proa.environment().items() if name not in without}
        # What it would open, this test opens.
        settings |= {"BROWSER": "/bin/true", "PYTHONUNBUFFERED": "1"} | (env or {})
        self.process = subprocess.Popen([str(CLIENTS["1.6.4"] / "bin/modal"), *arguments], env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def read(self, timeout: float) -> bool:
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        piece = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
        self.said += piece.decode(errors="replace")
        return bool(piece)

    def wait_for(self, pattern: str, timeout: float = 90.0) -> str:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.said)):
            if time.monotonic() > deadline or (not self.read(1.0) and self.process.poll() is not None):
                raise Failed(f"the client does not say {pattern!r}; it says:\n{self.said}")
        return found.group(1)

    def finish(self, timeout: float = 90.0) -> int:
        deadline = time.monotonic() + timeout
        while self.process.poll() is None or self.read(0.1):
            self.read(0.2)
            if time.monotonic() > deadline:
                raise Failed(f"the client does not end; it says:\n{self.said}")
        return self.process.returncode


@contextlib.contextmanager
def login(proa, tmp_path):
    """`modal token new` with nothing but the server's address: the client, the page's address and the code to compare."""
    env = {"MODAL_CONFIG_PATH": str(tmp_path / "modal.toml")}
    with Client(proa, "token", "new", "--profile", "fresh", env=env, without=("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")) as client:
        yield client, client.wait_for(r"(http://\S+/login/tf-[0-9A-Za-z]{22})"), client.wait_for(r"code: ([A-Z0-9]{4}-[A-Z0-9]{4})")


def login_code(proa, *arguments, **options):
    directory = str(proa.directory / "data") if proa else "/var/tmp/proa-is-not-here"
    return subprocess.run([str(PROGRAM), "login-code", "--data-dir", directory, *arguments], capture_output=True, text=True, timeout=30, **options)


class Reader:
    """Pages by HTTP alone, with cookies as a browser keeps them."""

    def __init__(self) -> None:
        handler = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(handler, urllib.request.ProxyHandler({}))

    def ask(self, url: str, form: dict | None = None, headers: dict | None = None):
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with self.opener.open(urllib.request.Request(url, data, headers or {}), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def form(self, url: str) -> dict:
        status, page = self.ask(url)
        assert status == 200, page
        return {"form": re.search(r'name="form" value="([^"]+)"', page).group(1)}


def test_a_login_is_approved_in_the_browser_with_a_one_time_code(proa, browser, tmp_path):
    with login(proa, tmp_path) as (client, url, code):
        given = login_code(proa)
        assert given.returncode == 0, given
        assert re.fullmatch(r"[A-Z0-9]{4}-[A-Z0-9]{4}-[A-Z0-9]{4}\n", given.stdout), given
        tab = browser.open(url)
        tab.wait_for("h1", "Log in to Proa")
        assert tab.text("#code") == code
        tab.run("document.querySelector('input[name=code]').value = 'AAAA-AAAA-AAAA'; document.querySelector('form button').click()")
        tab.wait_for("#problem", "not valid")
        tab.run(f"document.querySelector('input[name=code]').value = {given.stdout.strip()!r}; document.querySelector('form button').click()")
        tab.wait_for("h1", "The login is approved")
        assert client.finish() == 0, client.said
    config = tmp_path / "modal.toml"
    assert "[fresh]" in config.read_text()
    # The token that was made is one that works.
    env = {name: value for name, value in proa.environment().items() if not name.startswith("MODAL_TOKEN")}
    env |= {"MODAL_CONFIG_PATH": str(config), "MODAL_PROFILE": "fresh"}
    done = subprocess.run([str(CLIENTS["1.6.4"] / "bin/modal"), "app", "list"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    assert [entry for entry in tab.problems if "401" not in str(entry)] == []


def test_a_login_is_approved_with_a_token_and_with_nothing_less(proa, tmp_path):
    settings = proa.settings()
    right = {"token_id": settings["MODAL_TOKEN_ID"], "token_secret": settings["MODAL_TOKEN_SECRET"]}
    with login(proa, tmp_path) as (client, url, _):
        reader = Reader()
        form = reader.form(url)
        assert reader.ask(url, form | right | {"token_secret": "as-wrong"})[0] == 401
        assert reader.ask(url, form | right, {"Origin": "http://elsewhere.example"})[0] == 403
        assert reader.ask(url, form | right, {"Sec-Fetch-Site": "cross-site"})[0] == 403
        assert reader.ask(url, right)[0] == 403, "without the form's own field"
        assert Reader().ask(url, form | right)[0] == 403, "from a browser that was not shown the form"
        assert client.process.poll() is None
        status, page = reader.ask(url, form | right)
        assert status == 200 and "approved" in page, page
        assert client.finish() == 0, client.said
        assert reader.ask(url)[0] == 404, "a login is approved once"
    assert Reader().ask(f"{proa.url}/login/tf-0123456789012345678901")[0] == 404


def test_login_code_says_what_stands_in_the_way(proa, tmp_path):
    missing = login_code(None)
    assert missing.returncode == 1 and missing.stdout == "" and "no server runs on /var/tmp/proa-is-not-here" in missing.stderr, missing
    # A stranger on this machine: the program is put where they may run it.
    program = proa.directory / "proa-for-strangers"
    shutil.copy(PROGRAM, program)
    program.chmod(0o755)
    stranger = subprocess.run([str(program), "login-code", "--data-dir", str(proa.directory / "data")], user=65534, group=65534, extra_groups=[],
                              cwd="/", capture_output=True, text=True, timeout=30)
    assert stranger.returncode == 1 and stranger.stdout == "" and "you may not open" in stranger.stderr, stranger


ASKS = """
import asyncio, sys
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

class Raw(CodecBase):
    __content_subtype__ = "proto"
    def encode(self, message, message_type):
        return message
    def decode(self, data, message_type):
        return data

async def ask(metadata=None, **where):
    channel = Channel(codec=Raw(), **where)
    try:
        answer = await UnaryUnaryMethod(channel, "/proa.local.v1.Local/LoginCode", bytes, bytes)(b"", metadata=metadata, timeout=10)
        return "answered " + str(len(answer) > 0)
    except GRPCError as error:
        return error.status.name
    finally:
        channel.close()

async def main():
    print(await ask(host="127.0.0.1", port=int(sys.argv[1])))
    print(await ask(path=sys.argv[2], metadata={"x-proa-task": "ta-01M87NY5CXD9WG0X5XGMXZNH1Z"}))
    print(await ask(path=sys.argv[2]))

asyncio.run(main())
"""


def test_login_codes_are_given_on_the_server_s_own_socket_and_to_no_container(proa):
    asked = [str(CLIENTS["1.6.4"] / "bin/python"), "-c", ASKS, proa.url.rsplit(":", 1)[1], str(proa.directory / "data/run/server.sock")]
    done = proa.command(asked, "1.6.4", 60, None, None, None)
    assert done.out.split("\n")[:3] == ["PERMISSION_DENIED", "PERMISSION_DENIED", "answered True"], done


SPEAKER = """
import time
import modal

app = modal.App("paged")


@app.function()
def speak(lines: int):
    for number in range(lines):
        print(f"\\x1b[32mline\\x1b[0m {number} <b>of</b> {lines}")
        time.sleep(0.25)


@app.local_entrypoint()
def main():
    speak.remote(24)
"""


def test_the_page_of_a_run_shows_what_runs_and_its_log_as_it_grows(proa, browser, tmp_path):
    path = tmp_path / "speaker.py"
    path.write_text(SPEAKER)
    with Client(proa, "run", str(path)) as client:
        url = client.wait_for(r"View run at (http://\S+)")
        address, key = url.split("?key=")
        assert Reader().ask(address)[0] == 401, "without the key"
        assert Reader().ask(f"{address}?key={key[:-1]}{'A' if key[-1] != 'A' else 'B'}")[0] == 401
        assert Reader().ask(f"{address}/live?after=0")[0] == 401
        tab = browser.open(url)
        tab.wait_for("h1", "paged")
        assert tab.run("location.href") == address, "the key is not left in the address"
        tab.wait_for("#functions", "speak", 60)
        tab.wait_for("#log", "line 2 <b>of</b> 24", 60)
        assert tab.run("document.querySelectorAll('#log b').length") == 0
        assert tab.run("getComputedStyle(document.querySelector('#log .c2')).color") != tab.run("getComputedStyle(document.querySelector('#log')).color")
        tab.wait_for("#state", "running")
        tab.wait_for("#containers", "ta-")
        tab.wait_for("#calls", "under way")
        assert "line 23" not in tab.text("#log"), "the page is looked at while the app runs"
        assert client.finish() == 0, client.said
        tab.wait_for("#log", "line 23 <b>of</b> 24")
        tab.wait_for("#state", "stopped")
        tab.wait_for("#calls", "done")
        lines = re.findall(r"line (\d+) <b>of", tab.text("#log"))
        assert lines == [str(number) for number in range(24)], "each line once, in order"
    assert tab.problems == []
    # Looked at again, it is all there from the start.
    again = browser.open(address)
    again.wait_for("#log", "line 23 <b>of</b> 24")
    again.wait_for("#note", "The app has stopped")
    assert again.problems == []


def test_the_page_of_a_deployment_is_where_deploy_says(proa, tmp_path):
    path = tmp_path / "speaker.py"
    path.write_text(SPEAKER)
    done = proa.modal("deploy", str(path), "--name", "paged-deployment")
    assert done.status == 0, done
    url = re.search(r"View Deployment: (http://\S+)", done.out + done.err)
    assert url, done
    status, page = Reader().ask(url.group(1))
    assert status == 200 and "paged-deployment" in page and "deployed" in page, page
    assert proa.modal("app", "stop", "paged-deployment", "--yes").status == 0
