#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a base image from a Python of this host, as pyenv, uv or conda lay one out, over Debian.

What lies in the prefix is put under /usr/local as the image `python:VERSION-slim-SUITE` has it: `python` and `pip` in
/usr/local/bin, an empty site-packages, headers, nothing that still names the old place; without tests and without
packages that were installed there. Debian itself is that of a base which make_base.py made. Libraries that this Python
needs and that base lacks are installed from Debian, or taken from the prefix if Debian has none of the name.

Unless --no-tools is given, a second base has the packages of the hosted product's default image recipe on top.

Bases are kept in the cache (PROA_CACHE, default ~/.cache/proa) as bases/NAME.tar.zst and NAME.json; the same prefix
gives the same files. A running server finds them with its next build. Prints one JSON line for each base.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import common
import make_base
from common import Failed, log

# Part of the cache's key, with this file's text: changes when the files beside it change what is made.
RECIPE = "1"
LOCAL = "/usr/local"
PYTHON_DIRECTORIES = ("bin", "include", "lib")  # Of /usr/local: all that is there is the base's Python.

# Asked of the prefix's own program, without its site-packages.
ASK = '''
import json, platform, sys, sysconfig
name = getattr(sysconfig, "_get_sysconfigdata_name", lambda: None)()
built = __import__(name).build_time_vars if name else sysconfig.get_config_vars()
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "final": sys.version_info[3] == "final",
                  "implementation": sys.implementation.name, "machine": platform.machine(),
                  "prefix": sys.prefix, "base_prefix": sys.base_prefix, "built_for": built.get("prefix", ""),
                  "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                  "debug": bool(sysconfig.get_config_var("Py_DEBUG"))}))
'''

# Run inside. What cannot be imported although its file is there lacks something.
CHECK = '''
import ctypes, hashlib, json, os, site, sqlite3, ssl, subprocess, sys, sysconfig, zlib
lib = "/usr/local/lib/python%d.%d" % sys.version_info[:2]
def same(what, found, wanted):
    if found != wanted:
        sys.exit("%s is %r and not %r" % (what, found, wanted))
same("sys.prefix", sys.prefix, "/usr/local")
same("sys.exec_prefix", sys.exec_prefix, "/usr/local")
same("sys.executable", sys.executable, "/usr/local/bin/python")
same("site-packages", site.getsitepackages(), [lib + "/site-packages"])
for path, wanted in [("purelib", lib + "/site-packages"), ("platlib", lib + "/site-packages"), ("stdlib", lib), ("scripts", "/usr/local/bin")]:
    same("the path of " + path, sysconfig.get_path(path), wanted)
for needed in [sysconfig.get_path("include") + "/Python.h", sysconfig.get_config_h_filename(), sysconfig.get_makefile_filename()]:
    same(needed, os.path.exists(needed), True)
same("EXTERNALLY-MANAGED", os.path.exists(lib + "/EXTERNALLY-MANAGED"), False)
same("LIBDIR", sysconfig.get_config_var("LIBDIR"), "/usr/local/lib")
broken, lacks = {}, []
directory = lib + "/lib-dynload"
for name in sorted({name.split(".")[0] for name in (os.listdir(directory) if os.path.isdir(directory) else []) if name.endswith(".so")}):
    if name == "_tkinter":
        continue
    done = subprocess.run([sys.executable, "-c", "import " + name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        broken[name] = (done.stdout.strip().splitlines() or ["no reason was given"])[-1]
for name in ["bz2", "lzma", "readline", "curses", "uuid", "ensurepip"]:
    if subprocess.run([sys.executable, "-c", "import " + name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        lacks.append(name)
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "broken": broken, "lacks": lacks}))
'''

# Sonames whose Debian package is not called after them.
PACKAGES = {
    "libcrypto.so.3": ["libssl3t64", "libssl3"], "libcrypto.so.1.1": ["libssl1.1"], "libz.so.1": ["zlib1g"],
    "libpanelw.so.6": ["libncursesw6"], "libformw.so.6": ["libncursesw6"], "libmenuw.so.6": ["libncursesw6"],
    "libpanel.so.6": ["libncurses6"], "libform.so.6": ["libncurses6"], "libmenu.so.6": ["libncurses6"],
    "libgdbm_compat.so.4": ["libgdbm-compat4t64", "libgdbm-compat4"], "libtclstub8.6.so": [], "libtkstub8.6.so": [],
}
TEST_DIRECTORIES = {"test", "tests", "idle_test"}
TEST_MODULES = re.compile(r"(_test|_ctypes_test|_xxtestfuzz|_xxsubinterpreters_test|xxlimited|xxsubtype)[a-z0-9_]*\.")


# --- The prefix --------------------------------------------------------------------------------------------------


def program_of(prefix: Path) -> Path:
    """The interpreter itself, as bin/python3.12."""
    found = sorted(path for path in prefix.glob("bin/python3.*")
                   if re.fullmatch(r"python3\.[0-9]+t?", path.name) and path.is_file() and os.access(path, os.X_OK))
    if not found:
        hint = ""
        if prefix.is_file():
            hint = "; that is a file, and the directory above its bin/ is wanted"
        elif (prefix / "versions").is_dir():
            hint = f"; one of those in {prefix}/versions may be meant"
        raise Failed(f"{prefix} is not the prefix of a Python: it has no bin/python3.N{hint}")
    if len(found) > 1:
        raise Failed(f"{prefix} has several Pythons ({', '.join(path.name for path in found)}); a prefix with one is wanted, "
                     "as `pyenv install` or `uv python install` make it")
    return found[0]


def ask(prefix: Path) -> dict:
    if (prefix / "pyvenv.cfg").exists():
        home = re.search(r"^home\s*=\s*(.*)/bin$", (prefix / "pyvenv.cfg").read_text(), re.MULTILINE)
        raise Failed(f"{prefix} is a virtual environment, which holds no Python of its own"
                     + (f"; it was made from {home[1]}" if home else ""))
    program = program_of(prefix)
    facts = json.loads(common.run([str(program), "-I", "-S", "-c", ASK], f"asking {program} for its version"))
    facts["program"] = program.name
    refuse(prefix, facts)
    return facts


def refuse(prefix: Path, facts: dict) -> None:
    if facts["implementation"] != "cpython":
        raise Failed(f"{prefix} is {facts['implementation']}; only CPython runs the official client")
    if facts["free_threaded"] or facts["program"].endswith("t"):
        raise Failed(f"{prefix} is a free-threaded Python, which the official client does not run on")
    if facts["debug"]:
        raise Failed(f"{prefix} is a debug build, which packages' wheels do not fit")
    if facts["machine"] != "x86_64":
        raise Failed(f"{prefix} is a Python for {facts['machine']}; containers are x86_64")
    if Path(facts["base_prefix"]).resolve() != prefix.resolve():
        raise Failed(f"{prefix} is not a whole Python: the rest of it is in {facts['base_prefix']}; give that directory")
    if prefix.resolve() in (Path("/"), Path("/usr")):
        raise Failed(f"{prefix} holds the system's Python, from which make_base.py makes bases")
    if tuple(int(part) for part in facts["version"].split(".")[:2]) < (3, 8):
        raise Failed(f"{prefix} is Python {facts['version']}; 3.8 is the oldest that works")


def wanted_in_library(relative: Path) -> bool:
    """Of lib/python3.N: all of the standard library but what only its own tests need, and nobody's packages."""
    if any(part in TEST_DIRECTORIES or part == "__pycache__" for part in relative.parts[:-1]):
        return False
    if relative.parts[0] in ("site-packages", "dist-packages"):
        return relative.parts == ("site-packages", "README.txt")
    if relative.parts[0] == "lib-dynload" and TEST_MODULES.match(relative.name):
        return False
    return relative.suffix not in (".pyc", ".pyo", ".a", ".o") and relative.name not in (
        "EXTERNALLY-MANAGED", "sitecustomize.py", "usercustomize.py")


def contents(prefix: Path, series: str) -> dict[str, Path]:
    """What is taken: its place below /usr/local, and where it lies now."""
    taken: dict[str, Path] = {}
    library = prefix / f"lib/python{series}"
    if not (library / "os.py").is_file():
        raise Failed(f"{prefix} has no standard library in lib/python{series}")
    for directory, inner, names in os.walk(library):
        inner[:] = [name for name in inner if name not in TEST_DIRECTORIES and name != "__pycache__"]
        for name in names:
            path = Path(directory) / name
            if wanted_in_library(path.relative_to(library)):
                taken[str(path.relative_to(prefix))] = path
    for directory, _, names in os.walk(prefix / f"include/python{series}"):
        for name in names:
            taken[str((Path(directory) / name).relative_to(prefix))] = Path(directory) / name
    for path in [*prefix.glob(f"lib/libpython{series}*.so*"), *prefix.glob("lib/libpython3.so"),
                 *prefix.glob("lib/pkgconfig/python*.pc"),
                 *(prefix / "bin" / name for name in (f"python{series}", f"python{series}-config", f"pydoc{series}",
                                                      f"idle{series}", f"2to3-{series}"))]:
        if path.exists():
            taken[str(path.relative_to(prefix))] = path
    return dict(sorted(taken.items()))


def digest_of_contents(taken: dict[str, Path]) -> str:
    state = hashlib.sha256()
    for place, path in taken.items():
        with open(path, "rb") as file:
            state.update(f"{place}\0{path.stat().st_mode & 0o100}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


# --- Putting it right for /usr/local --------------------------------------------------------------------------------


def old_places(prefix: Path, facts: dict) -> list[str]:
    """Names of the prefix that its files may hold, the longest first. '/install' is what uv's are built for."""
    names = {str(prefix), str(prefix.resolve()), facts["prefix"], facts["built_for"]}
    return sorted((name for name in names if name.startswith("/") and len(name) > 1 and name not in ("/usr", LOCAL)),
                  key=lambda name: (-len(name), name))


def moved(text: str, places: list[str]) -> str:
    """`text` with each of `places`, where it stands as a whole path or as the beginning of one, as /usr/local."""
    for place in places:
        text = re.sub(r"(?<![\w./-])" + re.escape(place) + r"(?![\w.-])", LOCAL, text)
        # Directly after an option, as in -I/old/include and -Wl,-rpath,/old/lib and --prefix=/old.
        text = re.sub(r"(?<=-[ILB])" + re.escape(place) + r"(?![\w.-])", LOCAL, text)
    return text


def names_places(place: str) -> bool:
    """Whether the file may hold the prefix and is text that is put right; scripts of bin/ are looked at too."""
    name = Path(place).name
    return (place.startswith("bin/") or place.startswith("lib/pkgconfig/") or name.startswith(("_sysconfigdata", "_sysconfig_vars"))
            or name in ("Makefile", "python-config.py") or name == "build-details.json")


def at_home(data: bytes, place: str, places: list[str], program: str) -> bytes:
    """A text file as it is under /usr/local; a script starts with the program there."""
    if data.startswith(b"\x7fELF"):
        return data
    if data.startswith(b"#!"):
        line, newline, rest = data.partition(b"\n")
        # conda and others wrap a long path as `/bin/sh` and an `exec` on the next line.
        if b"python" in line and b"/env" not in line.split()[0]:
            line = b"#!" + f"{LOCAL}/bin/{program}".encode()
        elif rest.startswith(b"'''exec'") and place.startswith("bin/"):
            line, rest = b"#!" + f"{LOCAL}/bin/{program}".encode(), rest.split(b"\n' '''\n", 1)[-1]
        data = line + newline + rest
    if not names_places(place):
        return data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    return moved(text, places).encode()


def put(taken: dict[str, Path], root: Path, places: list[str], program: str) -> None:
    for place, path in taken.items():
        target = root / "usr/local" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        about = path.stat()
        if path.is_symlink() and "/" not in os.readlink(path) and str(Path(place).parent / os.readlink(path)) in taken:
            target.symlink_to(os.readlink(path))
            continue
        data = path.read_bytes()
        target.write_bytes(at_home(data, place, places, program) if names_places(place) or data.startswith(b"#!") else data)
        target.chmod(0o755 if about.st_mode & 0o100 else 0o644)
        os.utime(target, (int(about.st_mtime), int(about.st_mtime)))


def put_links(root: Path, series: str) -> None:
    binaries = root / "usr/local/bin"
    links = [("python3", f"python{series}"), ("python", "python3"), ("python3-config", f"python{series}-config"),
             ("python-config", "python3-config"), ("pydoc3", f"pydoc{series}"), ("pydoc", "pydoc3"),
             ("idle3", f"idle{series}"), ("idle", "idle3"), ("2to3", f"2to3-{series}")]
    for link, target in links:
        if (binaries / target).exists():
            (binaries / link).symlink_to(target)
    (root / f"usr/local/lib/python{series}/site-packages").mkdir(exist_ok=True)


def clear_local(root: Path) -> None:
    """Takes the base's own Python away."""
    for name in PYTHON_DIRECTORIES:
        for path in (root / "usr/local" / name).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def copy_local(source: Path, target: Path) -> None:
    """/usr/local of one root for another."""
    for name in PYTHON_DIRECTORIES:
        shutil.copytree(source / name, target / name, symlinks=True, dirs_exist_ok=True)


# --- Libraries ---------------------------------------------------------------------------------------------------


def newest_glibc(data: bytes) -> tuple[int, int]:
    return max(((int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_([0-9]+)\.([0-9]+)(?=[.\0])", data)),
               default=(0, 0))


def check_glibc(taken: dict[str, Path], base: dict, suite: str) -> None:
    have = re.search(r"([0-9]+)\.([0-9]+)$", base.get("metadata", {}).get("libc_version_info", ""))
    if not have:
        return  # ldd, which comes later, says so too, in other words.
    newest, who = (0, 0), ""
    for place, path in taken.items():
        if "/" not in place or path.suffix in (".py", ".h", ".txt"):
            continue
        data = path.read_bytes()
        if data.startswith(b"\x7fELF") and newest_glibc(data) > newest:
            newest, who = newest_glibc(data), place
    if newest > (int(have[1]), int(have[2])):
        others = [name for name in make_base.SUITES if name > suite]
        raise Failed(f"this Python needs glibc {newest[0]}.{newest[1]} ({who}), and Debian {suite} has {have[1]}.{have[2]}: "
                     + (f"try --suite {others[0]}, or " if others else "")
                     + "use a Python that was built on an older system, such as those of uv")


def missing_of(said: str) -> tuple[dict[str, str], list[str]]:
    """From ldd's words: libraries that are not there with one that needs them, and versions that are too old."""
    missing: dict[str, str] = {}
    outdated: list[str] = []
    who = ""
    for line in said.splitlines():
        if line.startswith("== "):
            who = line[3:].strip()
        elif match := re.match(r"\s*(\S+) => not found", line):
            missing.setdefault(match[1], who)
        elif match := re.search(r"version [`'](\S+?)' not found", line):
            library = line.split(": version")[0].split(": ")[-1].strip()
            outdated.append(f"{who} wants {match[1]} of {library}")
    return missing, outdated


def packages_for(soname: str) -> list[str]:
    """Names that a Debian package of this library may have, by Debian's own rule for them; the first that exists is it."""
    if soname in PACKAGES:
        return PACKAGES[soname]
    match = re.fullmatch(r"(lib[\w+.-]+?)(?:-([0-9][0-9.]*))?\.so(?:\.([0-9][0-9.]*))?", soname)
    if not match:
        return []
    name, inner, version = match[1].lower().replace("_", "-"), match[2], match[3]
    stems = []
    for number in filter(None, (inner, version)):
        stems.append(name + ("-" if name[-1].isdigit() else "") + number)
    if not stems:
        stems = [name]
    return [stem + suffix for stem in stems for suffix in ("t64", "")]


class Libraries:
    """Sees to it that every program and module in /usr/local finds its libraries in a root."""

    def __init__(self, chroot: common.Chroot, prefix: Path, suite: str):
        self.chroot = chroot
        self.prefix = prefix
        self.suite = suite
        self.installed: list[str] = []
        self.own: list[str] = []
        self.updated = False

    def look(self) -> tuple[dict[str, str], list[str]]:
        script = ('for file in $(find /usr/local -type f ! -name "_tkinter*"); do '
                  'if [ "$(head -c 4 "$file" | tail -c 3)" = ELF ]; then echo "== $file"; ldd "$file" 2>&1 || true; fi; done')
        return missing_of(self.chroot.run(["sh", "-c", script], "looking for missing libraries"))

    def from_debian(self, sonames: list[str]) -> list[str]:
        if not self.updated:
            log("      asking Debian for libraries that this Python needs: " + ", ".join(sonames))
            self.chroot.run(["apt-get", "-q", "update"], "apt-get update")
            self.updated = True
        found = []
        for soname in sonames:
            for package in packages_for(soname):
                shown = self.chroot.run(["sh", "-c", 'apt-cache show --no-all-versions "$0" 2>/dev/null || true', package], "asking apt")
                if f"Package: {package}\n" in shown + "\n":
                    found.append(package)
                    break
        return [package for package in dict.fromkeys(found) if package not in self.installed]

    def provide(self) -> None:
        for _ in range(8):  # A library may need another one.
            self.chroot.run(["ldconfig"], "ldconfig")
            missing, outdated = self.look()
            if outdated:
                raise Failed(f"libraries of Debian {self.suite} are too old for this Python: {'; '.join(outdated[:5])}. "
                             "Use a newer --suite, or a Python that was built on an older system")
            if not missing:
                return
            packages = self.from_debian(sorted(missing))
            if packages:
                self.chroot.run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages],
                                f"installing {', '.join(packages)}")
                self.installed += packages
                continue
            left = {}
            for soname, who in missing.items():
                library = self.prefix / "lib" / soname
                if library.is_file():
                    target = self.chroot.root / "usr/local/lib" / soname
                    shutil.copyfile(library, target)
                    target.chmod(0o755)
                    self.own.append(soname)
                else:
                    left[soname] = who
            if left:
                needed = ", ".join(f"{soname} (for {who})" for soname, who in sorted(left.items()))
                raise Failed(f"this Python needs libraries that neither Debian {self.suite} nor the prefix has: {needed}. "
                             "Build it without those modules, or use one that brings its libraries, such as those of uv")
        raise Failed("libraries of this Python still need others after 8 rounds; that is not understood")


# --- The base ----------------------------------------------------------------------------------------------------


def userland(suite: str, tools: bool) -> dict:
    """A base of make_base.py: Debian, and the libraries that a Python uses."""
    series = make_base.SUITES[suite]["python"]
    name = f"default-{series}-{suite}" if tools else f"python-{series}-slim-{suite}"
    description = common.cache_directory("bases") / f"{name}.json"
    if not description.is_file():
        log(f"      there is no base of Debian {suite} yet; making it (about two minutes)")
        command = [sys.executable, str(Path(__file__).with_name("make_base.py")), "--suite", suite, *(["--tools"] if tools else [])]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            raise Failed(f"Debian {suite} could not be made, see above; nothing was changed")
    about = json.loads(description.read_text())
    archive = common.cache_directory("bases") / about["archive"]
    if not archive.is_file():
        raise Failed(f"{archive} is not there though {description} names it; make it again with make_base.py --suite {suite} --again")
    return {**about, "archive": str(archive)}


def unpack(archive: str, root: Path) -> None:
    root.mkdir()
    common.run(["tar", "--extract", "--file", archive, "--use-compress-program=zstd -d -q", "--directory", str(root), "--numeric-owner",
                "--xattrs", "--xattrs-include=security.capability"], "unpacking Debian")


def claimed(cache: Path, own: list[str]) -> dict[str, str]:
    """Which base answers to which reference, those named in `own` left out."""
    out: dict[str, str] = {}
    for path in sorted(cache.glob("*.json")):
        if path.stem in own:
            continue
        try:
            for alias in json.loads(path.read_text()).get("aliases", []):
                out.setdefault(alias, path.stem)
        except ValueError:
            continue
    return out


def references(version: str, suite: str, names: list[str], taken: dict[str, str]) -> tuple[list[str], list[str]]:
    """What a base answers to, and patterns of the same. A series that has a base already keeps it."""
    if names:
        return list(dict.fromkeys(names)), []
    series = ".".join(version.split(".")[:2])
    whole = [f"python:{version}-slim-{suite}", f"python:{version}-slim", f"python:{version}"]
    of_series = [f"python:{series}-slim-{suite}", f"python:{series}-slim", f"python:{series}"]
    if of_series[0] in taken:
        log(f"      {of_series[0]} stays with the base {taken[of_series[0]]}; --name gives it to this one")
        return whole, []
    free = [name for name in of_series if name not in taken]
    patterns = [f"python:{series}.*-slim-{suite}"]
    if f"python:{series}-slim" in free:
        patterns.append(f"python:{series}.*-slim")
    return free + whole, patterns


def check_name(name: str) -> str:
    """As a Dockerfile's FROM has it."""
    if not re.fullmatch(r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*(?::[0-9]+)?/)*[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?", name):
        raise Failed(f"'{name}' is not a name of an image, such as python:3.12-slim-bookworm")
    name = re.sub(r"^(?:(?:index\.|registry-1\.)?docker\.io/)?(?:library/)?", "", name)
    return name if ":" in name.rsplit("/", 1)[-1] else name + ":latest"


def install_pip(chroot: common.Chroot, prefix: Path) -> None:
    """The pip that this Python brings, offline; today's if it brings none."""
    bundled = list(prefix.glob("lib/python3.*/ensurepip/_bundled/pip-*.whl"))
    if bundled:
        chroot.run([f"{LOCAL}/bin/python", "-m", "ensurepip", "--upgrade", "--default-pip"], "installing the pip that this Python brings")
        return
    log("      this Python brings no pip; fetching one")
    place = chroot.root / "tmp/pip"
    wheel = common.pip_download(["pip"], place)[0]
    chroot.run([f"{LOCAL}/bin/python", f"/tmp/pip/{wheel.name}/pip", "install", "--no-index", f"/tmp/pip/{wheel.name}"], "installing pip")
    common.remove_tree(place)


def verify(chroot: common.Chroot) -> dict:
    checked = json.loads(chroot.run([f"{LOCAL}/bin/python", "-c", CHECK], "trying this Python in its new place").splitlines()[-1])
    if checked["broken"]:
        raise Failed("modules of this Python do not work in the image: "
                     + "; ".join(f"{name}: {why}" for name, why in sorted(checked["broken"].items())[:5]))
    said = chroot.run(["pip", "--version"], "asking pip for its version")
    series = ".".join(checked["version"].split(".")[:2])
    if f"{LOCAL}/lib/python{series}/site-packages/pip" not in said:
        raise Failed(f"pip is not where it should be: {said.strip()}")
    chroot.run([f"python{series}-config", "--includes"], "asking python-config for the headers")
    return checked


def settle_times(root: Path, since: float, stamp: int) -> None:
    """What was written just now gets a time that the next run gives it too."""
    for directory, inner, names in os.walk(root, topdown=False):
        for name in [*names, *inner]:
            path = os.path.join(directory, name)
            if os.lstat(path).st_mtime >= since:
                os.utime(path, (stamp, stamp), follow_symlinks=False)
    if os.lstat(root).st_mtime >= since:
        os.utime(root, (stamp, stamp))


def finish(root: Path, chroot: common.Chroot, series: str, since: float, stamp: int) -> None:
    settle_times(root / "usr/local", since, stamp)
    # Compiled with times: a container that changes a module sees the change. It skips what cannot be compiled.
    chroot.run(["sh", "-c", f"{LOCAL}/bin/python -m compileall -q -f -j 0 {LOCAL}/lib/python{series} || true"], "compiling the standard library")


def describe(chroot: common.Chroot, name: str, suite: str, base: dict, aliases: list[str], patterns: list[str], checked: dict, recipe: str,
             tools: bool, archive: str, notes: list[str]) -> dict:
    version = checked["version"]
    return {
        "format": "proa base 1",
        "name": name,
        "archive": archive,
        "recipe": recipe,
        "stand_in_for": aliases[0],
        "aliases": aliases,
        "alias_patterns": patterns,
        "extra_commands": make_base.DEFAULT_IMAGE_COMMANDS if tools else [],
        "warning": f"Debian {suite} with a Python {version} that was added on this machine",
        "notes": notes,
        "added": True,
        "config": {"env": {**base["config"]["env"], "PYTHON_VERSION": version}, "cmd": ["python3"], "entrypoint": [], "workdir": "/",
                   "user": ""},
        "metadata": {
            "python_version": version,
            "python_version_info": chroot.run(["python", "-VV"], "asking Python for its version").strip(),
            "python_packages": json.loads(chroot.run(["pip", "list", "--format=json"], "listing packages").splitlines()[-1]),
            "libc_version_info": base["metadata"]["libc_version_info"],
            "os": base["metadata"]["os"],
        },
    }


def make(args: argparse.Namespace, prefix: Path, facts: dict, taken: dict[str, Path], bases: dict[str, dict], recipe: str) -> None:
    common.need("zstd", "zstd")
    series = ".".join(facts["version"].split(".")[:2])
    places = old_places(prefix, facts)
    stamp = int(max(path.stat().st_mtime for place, path in taken.items() if place.startswith("bin/")))
    cache = common.cache_directory("bases")
    aliases, patterns = references(facts["version"], args.suite, args.name, claimed(cache, list(bases)))
    work = common.scratch_directory("prefix-")
    # File systems keep coarse times.
    since = work.stat().st_mtime - 1
    python = work / "python"  # /usr/local of the first base, for the second.
    done = []
    try:
        for name, base in bases.items():
            tools = name.startswith("default-")
            root = work / name
            log(f"      {name}: unpacking Debian {args.suite}")
            unpack(base["archive"], root)
            clear_local(root)
            with common.Chroot(root) as chroot:
                if not python.exists():
                    put(taken, root, places, f"python{series}")
                    put_links(root, series)
                else:
                    copy_local(python, root / "usr/local")
                libraries = Libraries(chroot, prefix, args.suite)
                libraries.provide()
                if not python.exists():
                    log("      installing pip")
                    install_pip(chroot, prefix)
                    copy_local(root / "usr/local", python)
                if tools:
                    command = next(each for each in make_base.DEFAULT_IMAGE_COMMANDS if " pip install " in each)
                    log(f"      {command}")
                    chroot.run(["/bin/sh", "-c", command.removeprefix("RUN ")], f"'{command}' (without it: --no-tools)")
                log("      trying it")
                checked = verify(chroot)
                finish(root, chroot, series, since, stamp)
                archive = f"{name}-{recipe[:12]}.tar.zst"
                notes = [f"module {each} is not in this Python" for each in checked["lacks"]]
                notes += [f"{each} was installed from Debian" for each in libraries.installed]
                notes += [f"{each} is the prefix's own" for each in libraries.own]
                for note in notes:
                    log(f"      {note}")
                about = describe(chroot, name, args.suite, base, aliases, patterns, checked, recipe, tools, archive, notes)
            make_base.clean(root)
            settle_times(root, since, stamp)
            log("      packing")
            common.tar_of_root(root, cache / archive)
            done.append((name, about))
            common.remove_tree(root)
        # Both or none, so that a failure leaves what was there.
        for name, about in done:
            common.write_json(cache / f"{name}.json", about)
            common.drop_outdated("bases", name, cache / about["archive"])
    finally:
        common.remove_tree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, type=Path, help="prefix: the directory that has bin/python3.N")
    parser.add_argument("--suite", choices=sorted(make_base.SUITES), default="bookworm", help="release of Debian (default: %(default)s)")
    parser.add_argument("--name", action="append", default=[], help="what it answers to, instead of python:VERSION-slim and the like; may be repeated")
    parser.add_argument("--no-tools", action="store_true", help="only the slim base, without the one with compilers and uv")
    parser.add_argument("--again", action="store_true", help="make it though it is in the cache")
    args = parser.parse_args()
    args.name = [check_name(name) for name in args.name]
    prefix = Path(os.path.abspath(args.python))
    if not prefix.exists():
        raise Failed(f"{prefix} is not there; the prefix of a Python is wanted, the directory that has bin/python3.N")
    common.become_root()
    facts = ask(prefix)
    if not facts["final"]:
        log(f"      {prefix} is a pre-release of Python {facts['version']}")
    series = ".".join(facts["version"].split(".")[:2])
    taken = contents(prefix, series)
    names = [f"python-{facts['version']}-slim-{args.suite}"] + ([] if args.no_tools else [f"default-{facts['version']}-{args.suite}"])
    bases = {name: userland(args.suite, name.startswith("default-")) for name in names}
    check_glibc(taken, bases[names[0]], args.suite)
    recipe = common.digest_of(RECIPE, Path(__file__).read_bytes(), digest_of_contents(taken), *args.name,
                              *(bases[name]["recipe"] for name in names))
    with common.making("bases", names[0]):
        if args.again or not all(common.cached("bases", name, recipe) for name in names):
            make(args, prefix, facts, taken, bases, recipe)
        else:
            log("      it is there already")
    for name in names:
        print(json.dumps(common.cached("bases", name, recipe)))
    return 0


if __name__ == "__main__":
    common.main_of(main)
