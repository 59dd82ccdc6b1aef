import os
import sys
import time

import modal

app = modal.App("basic")


@app.function()
def square(x: int) -> int:
    return x * x


@app.function()
def add(x: int, y: int = 1) -> int:
    return x + y


@app.function()
def talk(text: str) -> str:
    print(f"stdout says {text}")
    print(f"stderr says {text}", file=sys.stderr)
    return text.upper()


@app.function()
def fail(text: str):
    raise ValueError(f"no good: {text}")


@app.function()
def where(_: int) -> str:
    time.sleep(0.05)
    return os.environ["MODAL_TASK_ID"]


@app.function()
def count_up(n: int):
    for i in range(n):
        yield i


@app.function()
def echo(data: bytes) -> bytes:
    return data


@app.function()
def call_square(x: int) -> int:
    return square.remote(x) + 1


@app.function()
def client_version() -> str:
    return modal.__version__


@app.function()
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.local_entrypoint()
def main(n: int = 3, name: str = "world"):
    print("remote:", square.remote(n))
    print("map:", list(square.map(range(n))))
    print("name:", talk.remote(name))
