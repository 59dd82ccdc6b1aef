# SPDX-License-Identifier: Apache-2.0
"""What the tools of this directory share: the cache, commands, chroots, archives. Standard library only."""
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import host_settings

# Where a chroot finds the mirror settings; the same path that builds have.
MIRRORS_DIRECTORY = "/__modal/mirrors"
DOCKER_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    """Says for a person what was wanted and what stood in the way."""


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main_of(main) -> None:
    try:
        sys.exit(main())
    except Failed as failure:
        log(f"error: {failure}")
        sys.exit(1)
    except OSError as failure:
        log(f"error: {failure.strerror or failure}" + (f": {failure.filename}" if failure.filename else ""))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def cache_directory(kind: str) -> Path:
    root = Path(os.environ.get("PROA_CACHE") or Path.home() / ".cache" / "proa")
    directory = root / kind
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def making(kind: str, name: str):
    """One maker of a thing at a time, over all checkouts; whoever waited finds it made."""
    with open(cache_directory("locks") / f"{kind}-{name}", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"      another process is making {name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def drop_outdated(kind: str, name: str, keep: Path) -> None:
    """Removes the archives of earlier recipes."""
    for path in cache_directory(kind).glob(f"{name}-????????????.tar*"):
        if path != keep and path.name != keep.name:
            path.unlink(missing_ok=True)


def scratch_directory(prefix: str) -> Path:
    """A new directory beside the cache, since it may become as big as what ends up there."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=cache_directory("tmp")))


def remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def run(command: list[str], what: str, **options) -> str:
    """Runs it and gives its standard output; a failure shows the end of what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False, **options)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise Failed(f"{what} failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise Failed(f"the program '{program}' is needed; install the Debian package '{package}'")


class Chroot:
    """Runs commands in a root directory, with the host's network and mirrors, and leaves no trace of them there.

    Needs root, or root of a user namespace. Each command has a mount and a pid namespace of its own, so that
    nothing stays mounted and nothing stays running, however it ends.
    """

    def __init__(self, root: Path):
        self.root = root
        self.settings = host_settings.collect()
        self.env = {"PATH": DOCKER_PATH, "LANG": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive",
                    "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1",
                    **host_settings.environment(self.settings, MIRRORS_DIRECTORY)}

    def __enter__(self):
        directory = self.root / MIRRORS_DIRECTORY.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in host_settings.files(self.settings, MIRRORS_DIRECTORY, None).items():
            (directory / name).write_text(text)
        self.resolv = self.root / "etc/resolv.conf"
        self.resolv.unlink(missing_ok=True)
        shutil.copyfile("/etc/resolv.conf", self.resolv)
        return self

    def __exit__(self, *_):
        remove_tree(self.root / "__modal")
        self.resolv.unlink(missing_ok=True)
        self.resolv.write_text("")

    def run(self, command: list[str], what: str, stdin: str | None = None) -> str:
        script = ('mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && '
                  'exec chroot "$0" "$@"')
        return run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, str(self.root),
                    *command], what, env=self.env, cwd="/", input=stdin)


def become_root() -> None:
    """Without root: starts over as root of a user namespace with the caller's sub-ids."""
    if os.geteuid() == 0 or os.environ.get("PROA_IMAGES_IN_NAMESPACE"):
        return
    need("unshare", "util-linux")
    need("newuidmap", "uidmap")
    os.environ["PROA_IMAGES_IN_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--map-auto", "--mount", sys.executable, *sys.argv])


def digest_of(*parts: str | bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def tar_of_root(root: Path, out: Path, exclude: list[str] = ()) -> None:
    """A root file system with its owners and attributes, written beside `out` first."""
    partial = out.with_name(out.name + f".partial.{os.getpid()}")
    compress = ["--use-compress-program=zstd -3 -T0 -q"] if out.name.endswith(".zst") else []
    run(["tar", "--create", "--file", str(partial), *compress, "--directory", str(root), "--numeric-owner",
         "--one-file-system", "--sort=name", "--format=posix", "--xattrs", "--xattrs-include=security.capability",
         "--pax-option=delete=atime,delete=ctime", *[f"--exclude={pattern}" for pattern in exclude], "."],
        "packing the root file system")
    os.replace(partial, out)


def tar_of_files(root: Path, out: Path, mtime: int) -> None:
    """A tree of plain files: owner root, modes 0755 and 0644, one time, so that the same files give the same bytes."""
    partial = out.with_name(out.name + f".partial.{os.getpid()}")

    def clean(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = mtime
        if member.isdir() or member.mode & 0o100:
            member.mode = 0o755
        else:
            member.mode = 0o644
        return member

    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=clean)
    os.replace(partial, out)


def write_json(path: Path, value: dict) -> None:
    partial = path.with_name(path.name + f".partial.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
    os.replace(partial, path)


def pip_download(requirements: list[str], directory: Path, options: list[str] = ()) -> list[Path]:
    """Wheels of exactly these requirements. Runs no code of theirs: wheels only, without dependencies."""
    directory.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps",
         "--disable-pip-version-check", "--dest", str(directory), *options, *requirements],
        f"downloading {', '.join(requirements)}")
    return sorted(directory.glob("*.whl"))


def cached(kind: str, name: str, recipe: str) -> dict | None:
    """The description of something in the cache, its archive's path whole; None if it is not there or outdated."""
    directory = cache_directory(kind)
    try:
        description = json.loads((directory / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    archive = directory / str(description.get("archive", "."))
    if description.get("recipe") != recipe or not archive.is_file():
        return None
    return {**description, "archive": str(archive)}


def answer(kind: str, name: str, recipe: str, again: bool, make) -> None:
    """Prints the description of what the cache has under `name`; make(archive) makes it first if need be."""
    with making(kind, name):
        description = None if again else cached(kind, name, recipe)
        if description is None:
            # Under a name of its own: the description never names half an archive.
            archive = cache_directory(kind) / f"{name}-{recipe[:12]}.tar"
            told = make(archive)
            write_json(archive.with_name(f"{name}.json"),
                       {"format": "proa mount 1", **told, "name": name, "recipe": recipe, "archive": archive.name})
            drop_outdated(kind, name, archive)
            description = cached(kind, name, recipe)
    print(json.dumps(description))


def unpack_wheel(wheel: Path, target: Path, scripts: bool = False) -> None:
    """What an installer puts into site-packages; with `scripts`, also programs, into `target`/bin.

    Refuses names that lead out of `target`.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            parts = Path(member.filename).parts
            if not parts or member.filename.startswith("/") or ".." in parts:
                raise Failed(f"the wheel {wheel.name} holds the name '{member.filename}'")
            # NAME-VERSION.data/{purelib,platlib}/… belongs beside the rest; scripts, headers and data do not.
            if parts[0].endswith(".data"):
                if len(parts) >= 3 and parts[1] in ("purelib", "platlib"):
                    parts = parts[2:]
                elif len(parts) >= 3 and parts[1] == "scripts" and scripts:
                    parts = ("bin", *parts[2:])
                else:
                    continue
            place = target.joinpath(*parts)
            if member.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(place, "wb") as sink:
                shutil.copyfileobj(source, sink)
            if (member.external_attr >> 16) & 0o100:
                place.chmod(0o755)


def compile_python(python: str, directory: Path, inside: str) -> None:
    """Byte code that is used without a look at the source: these trees do not change. `inside` is their path in a
    container, which tracebacks show."""
    run([python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(directory),
         "-p", inside, str(directory)], "compiling")


def matching_python(version: str) -> str | None:
    """A program of this host that is Python `version` ("3.11"), or None."""
    candidates = [sys.executable, f"python{version}", f"/usr/bin/python{version}"]
    candidates += sorted(str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    candidates += sorted(str(path) for path in Path.home().glob(
        f".local/share/uv/python/cpython-{version}.*/bin/python{version}"))
    for candidate in candidates:
        program = shutil.which(candidate)
        if not program:
            continue
        done = subprocess.run([program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return program
    return None
