# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in user code and around it: a clear error at the client, within seconds."""
import textwrap

import pytest

APP = """
import modal, os, signal, sys, time
app = modal.App("errors")

@app.function(memory=(128, 256))
def eat():
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)))

@app.function()
def crash():
    import ctypes
    ctypes.string_at(0)

@app.function()
def leave():
    os._exit(3)

@app.function(timeout=2)
def slow():
    time.sleep(60)

@app.function()
def fine(x):
    return x

@app.function(retries=2)
def third_time():
    path = "/tmp/never-shared"
    raise RuntimeError("always")
"""


@pytest.fixture
def app(tmp_path):
    path = tmp_path / "errors_app.py"
    path.write_text(APP)
    return path


def call(proa, app, function, *arguments):
    return proa.modal("run", f"{app}::{function}", *arguments, timeout=120)


def test_out_of_memory_is_named_with_the_limit(proa, app):
    done = call(proa, app, "eat")
    assert done.status != 0
    assert "out of memory" in (done.out + done.err).lower() and "256" in done.out + done.err, done
    assert done.seconds < 60


def test_a_segmentation_fault_is_named(proa, app):
    done = call(proa, app, "crash")
    assert done.status != 0 and "SIGSEGV" in done.out + done.err, done


def test_an_exit_is_named_with_its_status(proa, app):
    done = call(proa, app, "leave")
    assert done.status != 0 and "code 3" in done.out + done.err, done


def test_a_timeout_is_a_timeout(proa, app):
    done = call(proa, app, "slow")
    assert done.status != 0 and "timeout" in (done.out + done.err).lower(), done
    assert done.seconds < 60


def test_an_import_error_reaches_the_client(proa, tmp_path):
    path = tmp_path / "broken_app.py"
    path.write_text(textwrap.dedent("""
        import modal
        app = modal.App("broken")
        if not modal.is_local():
            import a_package_that_is_not_there

        @app.function()
        def f():
            pass
        """))
    done = proa.modal("run", f"{path}::f", timeout=120)
    assert done.status != 0 and "a_package_that_is_not_there" in done.out + done.err, done


def test_a_message_that_is_too_large_is_refused(proa, tmp_path):
    path = tmp_path / "large_app.py"
    path.write_text("import modal\napp = modal.App('large')\nblob = b'x' * (20 << 20)\n"
                    "@app.function(serialized=True)\ndef f():\n    return len(blob)\n")
    done = proa.modal("run", f"{path}::f", timeout=120)
    assert done.status != 0 and done.seconds < 60, done


def test_a_server_that_is_not_there_is_said_to_be_unreachable(proa, app):
    done = proa.modal("app", "list", env={"MODAL_SERVER_URL": "http://127.0.0.1:1"}, timeout=150)
    assert done.status != 0
