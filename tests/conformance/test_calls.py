# SPDX-License-Identifier: Apache-2.0
"""Calls of every form, by the official client, in real containers."""
from pathlib import Path

import pytest

APPS = Path(__file__).parent / "apps"

# Every function of the app is used by one driver process, to pay for its start once.
DRIVER = """
import modal, sys
sys.path.insert(0, {apps!r})
from basic import *
with app.run():
{body}
"""


def drive(proa, body: str, **options) -> str:
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    done = proa.python(DRIVER.format(apps=str(APPS), body=indented), **options)
    assert done.status == 0, done
    return done.out


def test_run_calls_a_function_and_prints_its_result_and_logs(proa):
    done = proa.modal("run", str(APPS / "basic.py"), "--n", "4", "--name", "proa")
    assert done.status == 0, done
    assert "remote: 16" in done.out, done
    assert "map: [0, 1, 4, 9]" in done.out, done
    assert "stdout says proa" in done.out + done.err, done


def test_run_of_one_function_with_arguments(proa):
    done = proa.modal("run", f"{APPS / 'basic.py'}::talk", "--text", "alone")
    assert done.status == 0, done
    assert "stdout says alone" in done.out + done.err, done


def test_remote_spawn_starmap_and_for_each(proa):
    out = drive(proa, """
print("remote", add.remote(2, y=3))
call = add.spawn(4, 5)
print("spawn", call.get(timeout=60))
print("starmap", list(add.starmap([(1, 2), (3, 4)])))
square.for_each(range(5))
print("unordered", sorted(square.map(range(20), order_outputs=False)))
print("kwargs", list(add.map([1, 2], kwargs={"y": 10})))
""")
    assert "remote 5" in out
    assert "spawn 9" in out
    assert "starmap [3, 7]" in out
    assert f"unordered {sorted(i * i for i in range(20))}" in out
    assert "kwargs [11, 12]" in out


def test_exceptions_come_back_with_their_type_and_traceback(proa):
    out = drive(proa, """
import traceback
try:
    fail.remote("here")
except ValueError as error:
    print("caught", error)
    print("".join(traceback.format_exception(error)))
results = list(fail.map(["a", "b"], return_exceptions=True))
print("returned", [type(each).__name__ for each in results])
""")
    assert "caught no good: here" in out
    assert "/root/basic.py" in out and "in fail" in out
    assert out.count("ValueError") >= 3


def test_map_of_ten_thousand_comes_back_whole_and_in_order(proa):
    out = drive(proa, """
results = list(square.map(range(10_000)))
print("right", results == [i * i for i in range(10_000)])
""", timeout=280)
    assert "right True" in out


def test_map_runs_in_several_containers(proa):
    out = drive(proa, "print('containers', len(set(where.map(range(200)))))")
    assert int(out.split("containers ")[1].split()[0]) > 1, out


def test_generators_stream(proa):
    out = drive(proa, "print('yielded', list(count_up.remote_gen(50)))")
    assert f"yielded {list(range(50))}" in out


@pytest.mark.parametrize("megabytes", [3, 50])
def test_large_arguments_and_results(proa, megabytes):
    out = drive(proa, f"""
import hashlib, os
data = os.urandom({megabytes} << 20)
print("same", echo.remote(data) == data)
call = echo.spawn(data[:20_000])
print("spawned", call.get() == data[:20_000])
""", timeout=280)
    assert "same True" in out
    assert "spawned True" in out


def test_containers_call_other_functions(proa):
    out = drive(proa, "print('nested', call_square.remote(6))")
    assert "nested 37" in out


def test_calls_can_be_cancelled(proa):
    out = drive(proa, """
import time
call = sleep.spawn(100)
time.sleep(2)
call.cancel()
begun = time.monotonic()
try:
    call.get(timeout=60)
except Exception as error:
    print("ended with", type(error).__name__, time.monotonic() - begun < 30)
""")
    assert "ended with" in out and "True" in out


def test_deployed_functions_are_found_by_name_from_another_process(proa):
    deployed = proa.modal("deploy", str(APPS / "basic.py"), "--name", "basic-deployed")
    assert deployed.status == 0, deployed
    done = proa.python("""
import modal
square = modal.Function.from_name("basic-deployed", "square")
print("remote", square.remote(12))
print("map", list(square.map(range(5))))
call = square.spawn(5)
again = modal.FunctionCall.from_id(call.object_id)
print("again", again.get(timeout=60))
""")
    assert done.status == 0, done
    assert "remote 144" in done.out
    assert "map [0, 1, 4, 9, 16]" in done.out
    assert "again 25" in done.out
    # Once more, over the running one: the same function, its new code.
    assert proa.modal("deploy", str(APPS / "basic.py"), "--name", "basic-deployed").status == 0
    assert "remote 9" in proa.python("import modal; print('remote', modal.Function.from_name('basic-deployed', 'square').remote(3))").out
    assert proa.modal("app", "stop", "basic-deployed", "--yes").status == 0


def test_an_unknown_function_is_said_to_be_unknown(proa):
    done = proa.python("import modal; modal.Function.from_name('no-such-app', 'f').remote()")
    assert done.status != 0
    assert "no-such-app" in done.err, done
