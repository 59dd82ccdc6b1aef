# SPDX-License-Identifier: Apache-2.0
"""The client's own guide, read from end to end: each promise that the other files do not hold already."""
import ast
import re
from pathlib import Path

import pytest

APPS = Path(__file__).parent / "apps"

DRIVER = """
import asyncio, sys, time
import modal, modal.exception
sys.path.insert(0, {apps!r})
from guide import *

def caught(call):
    try:
        return "nothing was raised, but returned: " + repr(call())
    except BaseException as error:
        return type(error).__name__ + ": " + str(error)

with modal.enable_output(), app.run():
{body}
"""


def drive(proa, body: str, **options):
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    done = proa.python(DRIVER.format(apps=str(APPS), body=indented), **options)
    assert done.status == 0, done
    return done


def test_every_way_to_end_is_told_apart(proa):
    done = drive(proa, """
error = None
try:
    do.remote("own error", "because")
except OwnError as raised:
    error = raised
print("own", error.code, error.why)
print("group", caught(lambda: do.remote("group")))
print("lock", caught(lambda: do.remote("lock")))
print("exit", caught(lambda: do.remote("exit")))
print("memory", caught(lambda: hungry.remote()))
print("slow", caught(lambda: too_slow.remote()))
print("enter", caught(lambda: Broken().never.remote()))
items = []
try:
    for item in stumbles.remote_gen():
        items.append(item)
except OwnError as raised:
    items.append(raised.why)
print("generator", items)
""")
    assert "own 7 because" in done.out, done
    assert "group ExceptionGroup: several (2 sub-exceptions)" in done.out, done
    assert "lock TypeError: cannot pickle" in done.out, done
    assert re.search(r"exit RemoteError: .*code 3", done.out), done
    assert re.search(r"memory RemoteError: .*out of memory", done.out), done
    assert re.search(r"slow FunctionTimeoutError: .*2s", done.out), done
    assert done.out.count("an attempt begins") == 2, done
    assert "enter RuntimeError: enter failed" in done.out, done
    assert "generator [1, 'halfway']" in done.out, done


def test_handles_of_calls_wait_poll_gather_and_iterate_in_async_code_too(proa):
    done = drive(proa, """
call = do.spawn("nap", 3)
print("poll", caught(lambda: call.get(timeout=0)).split(":")[0], caught(lambda: call.get(timeout=0.5)).split(":")[0])
print("later", call.get(timeout=60), call.get())
print("gather", modal.FunctionCall.gather(do.spawn("it", 1), do.spawn("it", 2)))
ids = do.remote("ids")
print("ids", ids[0][:3], ids[1][:3], ids[2])
print("function", do.remote("apply", lambda x: x + 1))
async def many():
    results = [await do.remote.aio("it", 3)]
    async def source():
        for x in range(3):
            yield x
    results.append([x async for x in together.map.aio(source())])
    call = await do.spawn.aio("it", 4)
    results.append(await call.get.aio(timeout=60))
    return [results[0], len(results[1]), results[2], await asyncio.gather(*[do.remote.aio("it", i) for i in range(10)])]
print("async", asyncio.run(many()))
print("third time", third_time.remote("a"), list(third_time.map(["b", "c"])), third_time.spawn("d").get(timeout=60))
""")
    assert "poll TimeoutError TimeoutError" in done.out, done
    assert "later 3 3" in done.out, done
    assert "gather [1, 2]" in done.out, done
    assert "ids in- fc- False" in done.out, done
    assert "function 21" in done.out, done
    assert f"async [3, 3, 4, {list(range(10))}]" in done.out, done
    assert "third time 2 [2, 2] 2" in done.out, done


def test_options_of_functions_do_what_they_say(proa):
    done = drive(proa, """
print("surroundings", surroundings.remote())
begun = time.monotonic()
print("together", len(set(together.map([2] * 10))), time.monotonic() - begun < 15)
print("batches", list(in_batches.map(range(8))))
single = [once.remote(i) for i in range(2)]
print("once", len({task for task, _ in single}), {network for _, network in single})
print("options", Model.with_options(env={"SETTING": "other"}, memory=256, max_containers=2)().setting.remote(), Model().setting.remote())
print("stats", do.get_current_stats().backlog)
print("scaled", do.update_autoscaler(max_containers=3, scaledown_window=20).max_containers)
""")
    assert "'ONE': 'env', 'TWO': 'x\\ny \"q\" $HOME', 'KEY': 'env', 'MODAL_TASK_ID': 'ta-" in done.out, done
    assert re.search(r"'MODAL_IMAGE_ID': 'im-\w+', 'MODAL_ENVIRONMENT': 'main', 'MODAL_IS_REMOTE': '1'", done.out), done
    assert re.search(r"'MODAL_CLOUD_PROVIDER': '\w+', 'MODAL_REGION': '\w+'", done.out), done
    assert "together 1 True" in done.out, done
    batches = ast.literal_eval(done.out.split("batches ", 1)[1].splitlines()[0])
    assert [x for x, _ in batches] == list(range(8)) and max(size for _, size in batches) > 1, done
    assert "once 2 {'blocked'}" in done.out, done
    assert "options other None" in done.out, done
    assert "stats 0" in done.out, done
    assert "scaled 3" in done.out, done


def test_classes_enter_take_parameters_and_leave(proa):
    done = drive(proa, """
print("with", Model(name="z", size=3, blob=b"q").about.remote())
print("without", Model().about.remote())
print("multiples", list(Model(size=2).multiples.remote_gen(3)))
print("unknown", caught(lambda: Model(colour=1).about.remote()))
print("wrong type", caught(lambda: Model(size="a").about.remote()))
time.sleep(5)
""")
    assert "with (['base', 'own'], 'z', 3, b'q')" in done.out, done
    assert "without (['base', 'own'], 'n', 1, b'b')" in done.out, done
    assert "multiples [0, 2, 4]" in done.out, done
    assert "unknown InvalidError" in done.out and "wrong type TypeError" in done.out, done
    assert "exit of z" in done.out, done


def test_run_types_arguments_writes_results_and_names_entrypoints(proa, tmp_path):
    guide = str(APPS / "guide.py")
    done = proa.modal("run", f"{guide}::main", "--n", "4", "--ratio", "2.5", "--flag")
    assert done.status == 0 and "main got 4 2.5 True included" in done.out + done.err, done
    assert "rest got ('a', '--b')" in proa.modal("run", f"{guide}::rest", "a", "--b").out
    several = proa.modal("run", guide)
    assert several.status != 0 and "rest / app.rest" in several.out + several.err, several
    result = tmp_path / "result.txt"
    done = proa.modal("run", "-q", "-w", str(result), f"{guide}::do", "--what", "it", "--argument", "written")
    assert done.status == 0 and result.read_text() == "written", done


def test_deployments_are_rolled_back_and_lead_to_other_environments(proa, tmp_path):
    app = tmp_path / "versions.py"
    source = "import modal\napp = modal.App('versions')\n@app.function()\ndef f():\n    return 'VERSION'\n" \
             "@app.function()\ndef there(where):\n    return modal.Function.from_name('versions', 'f', environment_name=where).remote()\n"
    call = "import modal, sys; print('f says', modal.Function.from_name('versions', 'f').remote())"
    for version in ("one", "two"):
        app.write_text(source.replace("VERSION", version))
        assert proa.modal("deploy", str(app), "--tag", f"tag-{version}").status == 0
    assert "f says two" in proa.python(call).out
    history = proa.modal("app", "history", "versions")
    assert "tag-one" in history.out and "tag-two" in history.out, history
    assert proa.modal("app", "rollback", "versions").status == 0
    assert "f says one" in proa.python(call).out
    assert proa.modal("app", "rollback", "versions", "v99").status != 0

    assert proa.modal("environment", "create", "elsewhere").status == 0
    app.write_text(source.replace("VERSION", "far"))
    assert proa.modal("deploy", str(app), "--env", "elsewhere").status == 0
    done = proa.python("import modal; print('across', modal.Function.from_name('versions', 'there').remote('elsewhere'))")
    assert "across far" in done.out, done
    assert "f says far" in proa.python(call, env={"MODAL_ENVIRONMENT": "elsewhere"}).out
    assert proa.modal("environment", "delete", "elsewhere", "--yes").status == 0
    assert proa.modal("app", "stop", "versions", "--yes").status == 0


def test_secrets_with_required_keys_and_of_other_names(proa, tmp_path):
    app = tmp_path / "keys.py"
    app.write_text("import modal, os\napp = modal.App('keys')\n"
                   "@app.function(secrets=[modal.Secret.from_name('guide-keys', required_keys=[os.environ.get('NEED', 'ALPHA')])])\n"
                   "def f():\n    print('alpha is', os.environ['ALPHA'])\n")
    missing = proa.modal("run", str(app))
    assert missing.status != 0 and "guide-keys" in missing.out + missing.err, missing
    assert proa.modal("secret", "create", "guide-keys", "ALPHA=one").status == 0
    done = proa.modal("run", str(app))
    assert done.status == 0 and "alpha is one" in done.out, done
    without = proa.modal("run", str(app), env={"NEED": "BETA"})
    assert without.status != 0 and "BETA" in without.out + without.err, without
    assert proa.modal("secret", "create", "guide-bad", "9-is-no-name=1").status != 0
    assert proa.modal("secret", "delete", "guide-keys", "--yes").status == 0


@pytest.mark.parametrize("code,hint", [
    ("modal.Volume.from_name('v', create_if_missing=True).hydrate()", "VolumeGetOrCreate"),
    ("modal.Dict.from_name('d', create_if_missing=True).put('a', 1)", "DictGetOrCreate"),
    ("modal.Queue.from_name('q', create_if_missing=True).put(1)", "QueueGetOrCreate"),
    ("modal.Sandbox.create('true', app=modal.App.lookup('s', create_if_missing=True))", "Sandbox"),
])
def test_what_is_not_there_is_refused_at_once_and_by_its_name(proa, code, hint):
    done = proa.python("import modal; " + code)
    assert done.status != 0 and hint in done.err and "UnimplementedError" in done.err, done
    assert done.seconds < 15, done
