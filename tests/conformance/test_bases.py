# SPDX-License-Identifier: Apache-2.0
"""Base images: one that was added from a Python of this machine, and what builds promise whatever they start from."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from proa_testing import PROGRAM, Proa

# Where a Python of this series may be, as tools lay it out.
PLACES = ["/root/.pyenv/versions/{}.*", "/opt/pyenv/versions/{}.*", "/opt/python/{}*", "/root/.local/share/uv/python/cpython-{}.*-linux-x86_64-gnu",
          "/opt/conda/envs/py{}"]

APP = '''
import modal

image = modal.Image.debian_slim(python_version="{series}").pip_install("six==1.17.0")
app = modal.App("on-an-added-base")


@app.function(image=image)
def about():
    import ctypes, six, sqlite3, ssl, subprocess, sys, zlib
    made = subprocess.run(["python", "-m", "pip", "--version"], capture_output=True, text=True).stdout
    return {{"version": sys.version, "prefix": sys.prefix, "six": six.__version__, "ssl": ssl.OPENSSL_VERSION, "pip": made}}


@app.local_entrypoint()
def main():
    import json
    print("about", json.dumps(about.remote()))
'''

USER_APP = '''
import modal

base = modal.Image.debian_slim().dockerfile_commands(
    "RUN useradd --uid 1234 someone", "USER someone", "RUN id -u > /tmp/as-whom.txt")
image = base.run_commands("id -u > /as-whom-next.txt")
app = modal.App("with-a-user")


@app.function(image=image)
def who():
    import os
    return os.getuid(), open("/tmp/as-whom.txt").read().strip(), open("/as-whom-next.txt").read().strip()


@app.local_entrypoint()
def main():
    print("who", who.remote())
'''

HUNGRY_APP = '''
import modal

image = modal.Image.debian_slim().run_commands("python -c 'x = b\\"x\\" * ({bytes})'")
app = modal.App("hungry")


@app.function(image=image)
def f():
    pass


@app.local_entrypoint()
def main():
    f.remote()
'''


def prefix_of(series: str) -> Path | None:
    home = str(Path.home())
    for place in [pattern.replace("/root", home, 1) for pattern in PLACES] + PLACES:
        for path in sorted(Path("/").glob(place.format(series).lstrip("/"))):
            if (path / f"bin/python{series}").exists():
                return path
    return None


def proa_image(cache: Path, *arguments, timeout=280) -> subprocess.CompletedProcess:
    return subprocess.run([str(PROGRAM), "image", "base", *arguments, "--cache-dir", str(cache)], capture_output=True, text=True,
                          timeout=timeout, check=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of its own, that begins with what the shared one has."""
    shared = Path(os.environ.get("PROA_CACHE") or "/var/cache/proa")
    if not (shared / "bases/default-3.11-bookworm.json").exists():
        pytest.skip(f"{shared} has no bases; tools/images/ensure makes them")
    own = Path("/var/tmp") / f"proa-cache-{os.getpid()}"
    for part in ("bases", "mounts"):
        (own / part).mkdir(parents=True)
        for path in (shared / part).iterdir():
            try:
                os.link(path, own / part / path.name)
            except OSError:
                shutil.copyfile(path, own / part / path.name)
    if (shared / "mirrors.json").exists():
        shutil.copyfile(shared / "mirrors.json", own / "mirrors.json")
    yield own
    shutil.rmtree(own, ignore_errors=True)


@pytest.mark.timeout(580)
def test_a_base_from_a_python_of_this_machine_is_found_by_a_running_server(cache, tmp_path, monkeypatch):
    series = "3.12"
    prefix = prefix_of(series)
    if prefix is None:
        pytest.skip(f"this machine has no Python {series} by pyenv, uv or conda")
    monkeypatch.setenv("PROA_CACHE", str(cache))
    app = tmp_path / "on_added_base.py"
    app.write_text(APP.format(series=series))
    with Proa() as proa:
        without = proa.modal("run", str(app), timeout=120)
        assert without.status != 0, without
        assert "python:3.12" in without.out + without.err and "bases:" in without.out + without.err, without

        added = proa_image(cache, "add", "--python", str(prefix))
        assert added.returncode == 0, added
        assert "answers to python:3.12-slim-bookworm" in added.stdout, added
        listed = json.loads(proa_image(cache, "list", "--json").stdout)
        (mine,) = [base for base in listed if base["name"].startswith("default-3.12")]
        assert "python:3.12-slim" in mine["aliases"], mine

        done = proa.modal("run", str(app), timeout=280)
        assert done.status == 0, done
        about = json.loads(done.out.split("about ", 1)[1].splitlines()[0])
        assert about["version"].startswith(mine["metadata"]["python_version"] + " "), about
        assert about["prefix"] == "/usr/local" and about["six"] == "1.17.0" and about["ssl"].startswith("OpenSSL"), about
        assert re.search(r"from /usr/local/lib/python3\.12/site-packages/pip ", about["pip"]), about
        # The recipe's first commands are in the base; what the client needs was made by the build.
        everything = done.out + done.err
        assert "done already in the base image" in everything, done
        assert "Preparing what the client needs in this image (2025.06-cp312" in everything, done

        again = proa_image(cache, "add", "--python", str(prefix))
        assert again.returncode == 0 and "it is there already" in again.stderr, again


@pytest.mark.parametrize("what,hint", [("missing", "is not there"), ("file", "directory above its bin"), ("venv", "virtual environment"), ("empty", "has no bin/python3.N")])
def test_what_is_no_prefix_is_refused_with_a_sentence(cache, tmp_path, what, hint):
    path = tmp_path / what
    if what == "file":
        path.write_text("")
    elif what == "venv":
        path.mkdir()
        (path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    elif what == "empty":
        path.mkdir()
    done = proa_image(cache, "add", "--python", str(path))
    assert done.returncode == 1 and hint in done.stderr and "Traceback" not in done.stderr, done


def test_functions_run_as_root_and_commands_as_the_user_of_their_own_dockerfile(proa, tmp_path):
    app = tmp_path / "with_user.py"
    app.write_text(USER_APP)
    done = proa.modal("run", str(app), timeout=200)
    assert done.status == 0, done
    assert "who (0, '1234', '0')" in done.out, done


def test_a_command_that_needs_too_much_memory_ends_and_says_so(proa, tmp_path):
    total = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
    app = tmp_path / "hungry.py"
    app.write_text(HUNGRY_APP.format(bytes=min(max(total // 2, 1 << 30), 64 << 30) + (256 << 20)))
    done = proa.modal("run", str(app), timeout=200)
    everything = done.out + done.err
    assert done.status != 0, done
    if "MemoryError" in everything:
        pytest.skip("the machine does not promise so much memory")
    assert "MiB of memory on this machine" in everything and "ran out of memory" in everything, done
