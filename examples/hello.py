"""The smallest app: one function, called once and over many inputs."""
import modal

app = modal.App("hello")


@app.function()
def square(x: int) -> int:
    print(f"the square of {x} is on its way")
    return x * x


@app.local_entrypoint()
def main(n: int = 10):
    print("one:", square.remote(n))
    print("many:", list(square.map(range(n))))
