# SPDX-License-Identifier: Apache-2.0
"""The pinned client and an older one, each alone and each with the other inside of the container."""
from pathlib import Path

import pytest

APPS = Path(__file__).parent / "apps"
OLD, NEW = "1.5.4", "1.6.4"

# Everything that is called is found by name, so that the caller's version says nothing of the container's.
CALLER = """
import modal
f = lambda name: modal.Function.from_name({app!r}, name)
print("client", modal.__version__)
print("inside", f("client_version").remote())
print("remote", f("square").remote(12))
print("map", list(f("square").map(range(60))) == [i * i for i in range(60)])
call = f("add").spawn(4, 5)
print("spawn", call.get(timeout=60))
print("yielded", list(f("count_up").remote_gen(20)) == list(range(20)))
data = bytes(range(256)) * (12 << 10)
print("large", f("echo").remote(data) == data)
try:
    f("fail").remote("here")
except ValueError as error:
    print("caught", error)
print("nested", f("call_square").remote(6))
"""


@pytest.mark.parametrize("inside", [OLD, NEW])
def test_callers_of_both_versions_find_containers_of_either(proa, inside):
    app = "version-" + inside.replace(".", "-")
    deployed = proa.modal("deploy", str(APPS / "basic.py"), "--name", app, client=inside)
    assert deployed.status == 0, deployed
    for caller in (OLD, NEW):
        done = proa.python(CALLER.format(app=app), client=caller, timeout=120)
        assert done.status == 0, done
        said = dict(line.split(" ", 1) for line in done.out.splitlines())
        assert said == {"client": caller, "inside": inside, "remote": "144", "map": "True", "spawn": "9", "yielded": "True",
                        "large": "True", "caught": "no good: here", "nested": "37"}, done
    assert proa.modal("app", "stop", app, "--yes", client=inside).status == 0


def test_the_older_client_runs_an_app(proa):
    done = proa.modal("run", str(APPS / "basic.py"), "--n", "4", "--name", "older", client=OLD)
    assert done.status == 0, done
    assert "remote: 16" in done.out and "map: [0, 1, 4, 9]" in done.out, done
    assert "stdout says older" in done.out + done.err, done
