import os
import subprocess
import sys
from pathlib import Path

import modal

app = modal.App("images")
here = Path(__file__).parent

slim = modal.Image.debian_slim()
with_pip = slim.pip_install("six==1.17.0")
with_uv = slim.uv_pip_install("iniconfig==2.0.0")
with_apt = slim.apt_install("tree")
with_commands = slim.run_commands("echo made by a command > /made.txt", "mkdir -p /srv/data && echo deep > /srv/data/file").env(
    {"GREETING": "it's \"quoted\" $HOME"}).workdir("/srv/data")
with_files = slim.add_local_file(here / "note.txt", "/root/note.txt", copy=True).add_local_dir(here / "folder", "/root/folder")
failing = slim.run_commands("echo about to fail && exit 7")
secret = modal.Secret.from_dict({"SEEN": "in the container only"})


@app.function(image=with_pip)
def pip() -> str:
    import six

    return six.__version__


@app.function(image=with_uv)
def uv() -> str:
    import importlib.metadata

    return importlib.metadata.version("iniconfig")


@app.function(image=with_apt)
def apt() -> str:
    return subprocess.run(["tree", "--version"], capture_output=True, text=True).stdout


@app.function(image=with_commands, secrets=[secret])
def commands() -> dict:
    return {"made": Path("/made.txt").read_text(), "file": Path("file").read_text(), "cwd": os.getcwd(),
            "greeting": os.environ["GREETING"], "secret": os.environ["SEEN"], "python": sys.version}


@app.function(image=with_files)
def files() -> list:
    return [Path("/root/note.txt").read_text(), sorted(p.name for p in Path("/root/folder").iterdir())]


@app.local_entrypoint()
def main():
    print("pip", pip.remote())
    print("uv", uv.remote())
    print("apt", apt.remote())
    print("commands", commands.remote())
    print("files", files.remote())
