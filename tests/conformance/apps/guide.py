# SPDX-License-Identifier: Apache-2.0
"""What the client's guide promises of functions and classes, each in a few lines. Few functions, as each is a container."""
import os
import sys
import time

import modal
import modal.exception

app = modal.App("guide")
other = modal.App("guide-included")


class OwnError(Exception):
    def __init__(self, code, why):
        super().__init__(code, why)
        self.code = code
        self.why = why


@other.function()
def included() -> str:
    return "included"


app.include(other)


@app.function()
def do(what: str, argument=None):
    """Ways to end, and what a function can ask of its surroundings."""
    if what == "own error":
        raise OwnError(7, argument)
    if what == "group":
        raise ExceptionGroup("several", [ValueError(1), KeyError("k")])
    if what == "exit":
        os._exit(3)
    if what == "lock":
        import threading
        return threading.Lock()
    if what == "ids":
        return modal.current_input_id(), modal.current_function_call_id(), modal.is_local()
    if what == "apply":
        return argument(20)
    if what == "nap":
        time.sleep(argument)
    return argument


@app.function(timeout=2, retries=1)
def too_slow():
    print("an attempt begins", flush=True)
    time.sleep(60)


@app.function(memory=(128, 300))
def hungry():
    return len(bytearray(900 << 20))


@app.function(retries=modal.Retries(max_retries=2, backoff_coefficient=1.0, initial_delay=1.0), max_containers=1)
def third_time(key: str) -> int:
    path = f"/tmp/{key}"
    before = int(open(path).read()) if os.path.exists(path) else 0
    with open(path, "w") as file:
        file.write(str(before + 1))
    if before < 2:
        raise ValueError(f"attempt {before}")
    return before


@app.function(name="another-name", env={"ONE": "env", "KEY": "env"}, secrets=[modal.Secret.from_dict({"KEY": "secret", "TWO": "x\ny \"q\" $HOME"})])
def surroundings() -> dict:
    names = ("ONE", "TWO", "KEY", "MODAL_TASK_ID", "MODAL_IMAGE_ID", "MODAL_ENVIRONMENT", "MODAL_IS_REMOTE", "MODAL_CLOUD_PROVIDER", "MODAL_REGION")
    return {name: os.environ.get(name) for name in names}


@app.function(max_containers=1)
@modal.concurrent(max_inputs=10)
def together(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["MODAL_TASK_ID"]


@app.function(max_containers=1)
@modal.batched(max_batch_size=4, wait_ms=500)
def in_batches(xs: list) -> list:
    return [(x, len(xs)) for x in xs]


@app.function(single_use_containers=True, block_network=True)
def once(_: int) -> tuple:
    import socket
    try:
        socket.create_connection(("1.1.1.1", 53), 3).close()
        network = "there"
    except OSError:
        network = "blocked"
    return os.environ["MODAL_TASK_ID"], network


@app.function()
def stumbles():
    yield 1
    raise OwnError(1, "halfway")


class Base:
    @modal.enter()
    def base_enter(self):
        self.log = ["base"]


@app.cls(scaledown_window=2, max_containers=1)
class Model(Base):
    name: str = modal.parameter(default="n")
    size: int = modal.parameter(default=1)
    blob: bytes = modal.parameter(default=b"b")

    @modal.enter()
    async def enter(self):
        self.log.append("own")

    @modal.method()
    def about(self):
        return self.log, self.name, self.size, self.blob

    @modal.method()
    def multiples(self, n: int):
        for i in range(n):
            yield i * self.size

    @modal.method()
    def setting(self):
        return os.environ.get("SETTING")

    @modal.exit()
    def leave(self):
        print(f"exit of {self.name}", flush=True)


@app.cls(startup_timeout=20)
class Broken:
    @modal.enter()
    def enter(self):
        raise RuntimeError("enter failed")

    @modal.method()
    def never(self):
        return 1


@app.local_entrypoint()
def main(n: int, ratio: float = 1.5, flag: bool = False):
    print("main got", n, ratio, flag, included.remote(), file=sys.stderr)


@app.local_entrypoint()
def rest(*arguments):
    print("rest got", arguments)
