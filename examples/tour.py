"""A tour in half a minute: an image with a package in it, a secret, many containers at once, and an error."""
import os
import time

import modal

app = modal.App("tour")
image = modal.Image.debian_slim().pip_install("segno==1.6.6")
secret = modal.Secret.from_dict({"GREETING": "hello from a container"})


@app.function(image=image, secrets=[secret])
def draw(text: str) -> str:
    import segno

    print(os.environ["GREETING"])
    code = segno.make(text, micro=False)
    rows = [list(row) for row in code.matrix_iter(scale=1, border=1)]
    rows.append([0] * len(rows[0]))
    shapes = {(0, 0): " ", (0, 1): "▄", (1, 0): "▀", (1, 1): "█"}
    return "\n".join("".join(shapes[int(bool(a)), int(bool(b))] for a, b in zip(rows[i], rows[i + 1])) for i in range(0, len(rows) - 1, 2))


@app.function()
def estimate(seed: int) -> tuple[str, float]:
    """A share of the work of estimating pi, and which container did it."""
    import random

    points = random.Random(seed)
    begun = time.monotonic()
    hits = tries = 0
    while time.monotonic() - begun < 0.25:
        tries += 1000
        hits += sum(points.random() ** 2 + points.random() ** 2 < 1 for _ in range(1000))
    return os.environ["MODAL_TASK_ID"], 4 * hits / tries


@app.function()
def fail():
    raise ValueError("what goes wrong in a container is an exception here")


@app.local_entrypoint()
def main():
    print(draw.remote("proa"))
    begun = time.monotonic()
    results = list(estimate.map(range(40)))
    containers = {container for container, _ in results}
    print(f"pi is about {sum(pi for _, pi in results) / len(results):.4f}: 40 estimates by {len(containers)} containers in {time.monotonic() - begun:.1f} s")
    try:
        fail.remote()
    except ValueError as error:
        print(f"and errors come back as they are: {error!r}")
