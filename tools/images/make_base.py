#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a stand-in for the container image `python:VERSION-slim-SUITE` from Debian's packages.

The root file system is Debian's smallest. Debian's Python is unpacked, not installed, and put under /usr/local as
the image has it: `python` and `pip` in /usr/local/bin, packages in site-packages, headers in /usr/local/include,
not externally managed; dpkg knows nothing of it, so that packages that depend on python3 bring their own to
/usr/bin. Python's patch version is Debian's, which is why this is a stand-in, not the image.

With --tools the packages of the hosted product's default image recipe come on top (compilers, and pip, wheel and
uv of today), as a second base: a builder that recognises the recipe starts there.

Bases are made once and kept in the cache (PROA_CACHE, default ~/.cache/proa) as NAME.tar.zst and NAME.json; the
latter says what is in them. Prints one JSON line for each base.
"""
import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import common
from common import Failed, log

# Part of the cache's key, with this file's text: changes when the files beside it change what is made.
RECIPE = "1"

SUITES = {"bookworm": {"python": "3.11", "release": "12"}, "trixie": {"python": "3.13", "release": "13"}}

# Commands of the default image after its FROM line, as clients send them. The builder compares with the same list.
DEFAULT_IMAGE_COMMANDS = [
    "RUN apt-get update",
    "RUN apt-get install -y gcc gfortran build-essential",
    "RUN pip install --upgrade pip wheel uv",
    "RUN echo 'debconf debconf/frontend select Noninteractive' | debconf-set-selections",
]

# As the slim image has them: no manuals, no translations, and no services started by maintainers' scripts.
DPKG_EXCLUDES = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/groff/*", "/usr/share/info/*",
                 "/usr/share/lintian/*", "/usr/share/linda/*", "/usr/share/locale/*"]
DPKG_CONFIG = "".join(f"path-exclude {pattern}\n" for pattern in DPKG_EXCLUDES)
DPKG_CONFIG += "path-include /usr/share/doc/*/copyright\n"
POLICY_RC = "#!/bin/sh\n\n# Nothing is started in a container by installing it.\nexit 101\n"
APT_CONFIG = 'Acquire::Languages "none";\nAPT::AutoRemove::SuggestsImportant "false";\n'

SITE_BLOCK = re.compile(
    r"            if is_virtual_environment:\n                sitepackages\.append.*?(?=        else:\n"
    r"            sitepackages\.append\(prefix\)\n)", re.DOTALL)
SITE_UPSTREAM = '''\
            for libdir in libdirs:
                path = os.path.join(prefix, libdir, "python%d.%d" % sys.version_info[:2], "site-packages")
                sitepackages.append(path)
'''

# `site` is frozen into the program, Debian's patch included: it looks into dist-packages alone. So there lies one
# .pth file, and no more, that leads to site-packages.
SITE_LAYOUT = '''\
"""Packages are in site-packages, though this program was built to look into dist-packages."""
import site
import sys

_LIBRARY = "/usr/local/lib/python%d.%d" % sys.version_info[:2]


def getsitepackages(prefixes=None):
    """Returns a list containing all global site-packages directories."""
    return list(dict.fromkeys("%s/lib/python%d.%d/site-packages" % (prefix, *sys.version_info[:2])
                              for prefix in (site.PREFIXES if prefixes is None else prefixes) if prefix))


if sys.prefix == sys.base_prefix:
    site.getsitepackages = getsitepackages
    sys.path[:] = [path for path in sys.path if not path.endswith("/dist-packages")]
    site.addsitedir(_LIBRARY + "/site-packages")
'''

CHECK = '''
import ensurepip, json, os, site, ssl, sqlite3, ctypes, bz2, lzma, zlib, readline, curses, uuid, hashlib, sys, sysconfig
lib = "/usr/local/lib/python%d.%d" % sys.version_info[:2]
assert sys.prefix == sys.base_prefix == sys.exec_prefix == "/usr/local", sys.prefix
assert sys.executable == "/usr/local/bin/python", sys.executable
assert site.getsitepackages() == [lib + "/site-packages"], site.getsitepackages()
assert sysconfig.get_path("purelib") == sysconfig.get_path("platlib") == lib + "/site-packages"
assert sysconfig.get_path("scripts") == "/usr/local/bin"
assert sysconfig.get_path("stdlib") == lib
assert os.path.exists(sysconfig.get_path("include") + "/Python.h")
assert os.path.exists(sysconfig.get_config_h_filename()), sysconfig.get_config_h_filename()
assert os.path.exists(sysconfig.get_makefile_filename()), sysconfig.get_makefile_filename()
assert not os.path.exists(lib + "/EXTERNALLY-MANAGED")
assert not any("dist-packages" in path for path in sys.path), sys.path
if sys.version_info < (3, 12):
    import warnings; warnings.simplefilter("ignore")
    # The library's own distutils, not setuptools' copy, which a hook puts in its place.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "_distutils_hack"]
    import distutils.core, distutils.sysconfig, lib2to3
    from distutils.dist import Distribution
    assert distutils.sysconfig.get_python_lib() == lib + "/site-packages", (distutils.sysconfig.__file__, distutils.sysconfig.get_python_lib())
    command = Distribution().get_command_obj("install"); command.ensure_finalized()
    assert command.install_purelib == lib + "/site-packages", command.install_purelib
print(json.dumps({"version": "%d.%d.%d" % sys.version_info[:3], "vv": sys.version}))
'''


def prepare_system(root: Path) -> None:
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(DPKG_CONFIG)
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
    (root / "etc/apt/apt.conf.d/slim").write_text(APT_CONFIG)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(POLICY_RC)
    policy.chmod(0o755)
    (root / "etc/hostname").write_text("localhost\n")


def packages_of_python(version: str) -> list[str]:
    names = [f"python{version}", f"python{version}-minimal", f"libpython{version}", f"libpython{version}-minimal",
             f"libpython{version}-stdlib", f"libpython{version}-dev", f"python{version}-dev", f"python{version}-venv"]
    if version == "3.11":
        names += ["python3-distutils", "python3-lib2to3"]
    return names


def edit(path: Path, change) -> None:
    text = path.read_text()
    changed = change(text)
    if changed == text:
        raise Failed(f"{path.name} does not look as this tool expects it; Debian's patches have changed")
    path.write_text(changed)


def move_python(staging: Path, root: Path, version: str) -> None:
    """From where Debian has it, in `staging`, to /usr/local of `root`."""
    triplet = "x86_64-linux-gnu"
    local = root / "usr/local"
    lib = local / f"lib/python{version}"
    shutil.rmtree(lib, ignore_errors=True)
    shutil.copytree(staging / f"usr/lib/python{version}", lib, symlinks=True)
    shutil.copytree(staging / f"usr/include/python{version}", local / f"include/python{version}", symlinks=True,
                    dirs_exist_ok=True)
    # Debian keeps pyconfig.h apart for each architecture.
    pyconfig = staging / f"usr/include/{triplet}/python{version}/pyconfig.h"
    (local / f"include/python{version}/pyconfig.h").unlink(missing_ok=True)
    shutil.copyfile(pyconfig, local / f"include/python{version}/pyconfig.h")
    for library in (staging / f"usr/lib/{triplet}").glob(f"libpython{version}*.so*"):
        target = local / "lib" / library.name
        target.unlink(missing_ok=True)
        shutil.copy2(library, target, follow_symlinks=False)
    for archive in lib.glob("config-*/*.a"):
        archive.unlink()
    for archive in lib.glob("config-*/libpython*.so"):
        archive.unlink()
    for name in ("EXTERNALLY-MANAGED", "sitecustomize.py"):
        (lib / name).unlink(missing_ok=True)

    binaries = local / "bin"
    for name in [f"python{version}", f"pydoc{version}", f"python{version}-config", f"{triplet}-python{version}-config"]:
        source = staging / "usr/bin" / name
        if source.is_symlink() and name == f"python{version}-config":
            source = staging / "usr/bin" / f"{triplet}-python{version}-config"
        if not source.exists():
            continue
        data = source.read_bytes()
        if data.startswith(b"#!"):
            data = data.replace(f"/usr/bin/python{version}".encode(), f"/usr/local/bin/python{version}".encode(), 1)
            data = data.replace(b'prefix="/usr"', b'prefix="/usr/local"')
        (binaries / name).write_bytes(data)
        (binaries / name).chmod(0o755)
    for link, target in [("python3", f"python{version}"), ("python", "python3"), ("pydoc3", f"pydoc{version}"),
                         ("pydoc", "pydoc3"), ("python3-config", f"python{version}-config"),
                         ("python-config", "python3-config")]:
        (binaries / link).unlink(missing_ok=True)
        (binaries / link).symlink_to(target)
    (lib / "site-packages").mkdir(exist_ok=True)


def unpatch_python(root: Path, version: str) -> None:
    """Takes back what Debian changed so that Python keeps out of dpkg's way; here there is nothing to keep out of."""
    lib = root / f"usr/local/lib/python{version}"
    edit(lib / "site.py", lambda text: SITE_BLOCK.sub(SITE_UPSTREAM, text))
    sysconfig = lib / "sysconfig.py" if (lib / "sysconfig.py").exists() else lib / "sysconfig/__init__.py"
    edit(sysconfig, lambda text: text.replace("prefix_scheme = 'posix_local'", "prefix_scheme = 'posix_prefix'")
         .replace("prefix_scheme = 'deb_system'", "prefix_scheme = 'posix_prefix'"))
    (lib / "_site_layout.py").write_text(SITE_LAYOUT)
    (lib / "dist-packages").mkdir(exist_ok=True)
    (lib / "dist-packages/site-packages.pth").write_text("import _site_layout\n")
    ensurepip = lib / "ensurepip/__init__.py"
    edit(ensurepip, lambda text: re.sub(r"^( *)_ensurepip_is_disabled_in_debian_for_system\(\)$", r"\1pass", text,
                                        flags=re.MULTILINE))

    def data_of_build(text: str) -> str:
        text = re.sub(rf"/usr/(lib|include)/x86_64-linux-gnu/python{re.escape(version)}", rf"/usr/\1/python{version}", text)
        text = re.sub(rf"/usr/(lib/python|include/python){re.escape(version)}", rf"/usr/local/\g<1>{version}", text)
        text = re.sub(r"('(?:BINDIR|CONFINCLUDEDIR|INCLUDEDIR|SCRIPTDIR|exec_prefix|prefix)': '/usr)", r"\1/local", text)
        text = re.sub(r"'LIBDIR': '[^']*'", "'LIBDIR': '/usr/local/lib'", text)
        text = re.sub(r"'LIBPC': '[^']*'", "'LIBPC': '/usr/local/lib/pkgconfig'", text)
        return re.sub(r"'WHEEL_PKG_DIR': '[^']*'", f"'WHEEL_PKG_DIR': '/usr/local/lib/python{version}/ensurepip/_bundled'",
                      text)

    for data in lib.glob("_sysconfigdata_*.py"):
        if not data.is_symlink():
            edit(data, data_of_build)
    for makefile in lib.glob("config-*/Makefile"):
        edit(makefile, lambda text: re.sub(r"^(prefix=\s*)/usr$", r"\1/usr/local", text, flags=re.MULTILINE))

    if version == "3.11":
        edit(lib / "distutils/command/install.py", lambda text: text.replace(
            "self.prefix = self.exec_prefix = '/usr'", "pass").replace(
            "self.install_base = self.install_platbase = '/usr'", "pass").replace(
            'self.select_scheme("unix_local")', 'self.select_scheme("unix_prefix")').replace(
            "self.select_scheme('unix_local')", "self.select_scheme('unix_prefix')").replace(
            'self.select_scheme("posix_local")', 'self.select_scheme("posix_prefix")'))
        edit(lib / "distutils/sysconfig.py", lambda text: text.replace("dist-packages", "site-packages").replace(
            'os.path.join(prefix, "lib", "python3", "site-packages")',
            'os.path.join(prefix, "lib", "python" + get_python_version(), "site-packages")'))


def install_python(chroot: common.Chroot, version: str) -> dict:
    root = chroot.root
    download = root / "tmp/debs"
    download.mkdir()
    log("      fetching Debian's Python")
    chroot.run(["sh", "-ec", "chmod 1777 /tmp/debs; cd /tmp/debs; apt-get -q update; apt-get -q download "
                + " ".join(packages_of_python(version))], "fetching Debian's Python")
    staging = root / "tmp/staging"
    chroot.run(["sh", "-ec", "for deb in /tmp/debs/*.deb; do dpkg-deb -x $deb /tmp/staging; done"], "unpacking it")
    depends = chroot.run(["sh", "-ec", "for deb in /tmp/debs/*.deb; do dpkg-deb -f $deb Pre-Depends Depends; echo; done"],
                         "reading what it depends on")
    wanted = set()
    for line in depends.splitlines():
        for item in re.sub(r"^(Pre-)?Depends: ", "", line).split(","):
            name = item.split("|")[0].split("(")[0].strip().removesuffix(":any")
            # Not what exists for Debian's own packaging of Python, nor headers that only a build of a package wants.
            if name and "python" not in name and not name.endswith(("-dev", "-whl")):
                wanted.add(name)
    log("      installing the libraries it uses")
    chroot.run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *sorted(wanted)], "installing its libraries")
    move_python(staging, root, version)
    unpatch_python(root, version)
    common.remove_tree(staging)
    common.remove_tree(download)

    # pip as the image has it; beside it setuptools and wheel as long as the image had them.
    seeds = ["pip"] + (["setuptools<66", "wheel<0.46"] if version == "3.11" else [])
    bundle = root / f"usr/local/lib/python{version}/ensurepip/_bundled"
    log("      installing pip")
    wheels = common.pip_download(seeds, bundle)
    pip = next(wheel for wheel in wheels if wheel.name.startswith("pip-"))
    inside = "/" + str(bundle.relative_to(root))
    chroot.run(["/usr/local/bin/python", f"{inside}/{pip.name}/pip", "install", "--no-compile", "--no-index",
                *[f"{inside}/{wheel.name}" for wheel in wheels]], "installing pip")
    for wheel in wheels:
        if wheel.name.startswith("wheel-"):
            wheel.unlink()  # ensurepip does not know it.
    versions = {wheel.name.split("-")[0]: wheel.name.split("-")[1] for wheel in wheels}

    def pins(text: str) -> str:
        text = re.sub(r'_PIP_VERSION = "[^"]*"', f'_PIP_VERSION = "{versions["pip"]}"', text)
        if "setuptools" in versions:
            text = re.sub(r'_SETUPTOOLS_VERSION = "[^"]*"', f'_SETUPTOOLS_VERSION = "{versions["setuptools"]}"', text)
        return text

    ensurepip = root / f"usr/local/lib/python{version}/ensurepip/__init__.py"
    ensurepip.write_text(pins(ensurepip.read_text()))
    chroot.run(["ldconfig"], "ldconfig")
    checked = json.loads(chroot.run(["/usr/local/bin/python", "-c", CHECK], "checking that Python is at home"))
    pip_version = chroot.run(["pip", "--version"], "asking pip for its version")
    if f"/usr/local/lib/python{version}/site-packages/pip" not in pip_version:
        raise Failed(f"pip is not where it should be: {pip_version}")
    # Compiled with times: a container that changes a module sees the change.
    chroot.run(["/usr/local/bin/python", "-m", "compileall", "-q", "-j", "0", f"/usr/local/lib/python{version}"],
               "compiling the standard library")
    return checked


def clean(root: Path) -> None:
    for pattern in ["var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/log/*.log",
                    "var/log/apt/*", "var/cache/ldconfig/aux-cache", "tmp/*", "var/tmp/*", "root/.cache", "var/cache/debconf/*-old",
                    "var/lib/dpkg/*-old", "dev/*", "etc/machine-id"]:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                common.remove_tree(path)
            else:
                path.unlink()


def describe(chroot: common.Chroot, name: str, suite: str, checked: dict, recipe: str, tools: bool, file: str) -> dict:
    version = checked["version"]
    series = ".".join(version.split(".")[:2])
    return {
        "format": "proa base 1",
        "name": name,
        "archive": file,
        "recipe": recipe,
        "stand_in_for": f"python:{series}-slim-{suite}",
        "aliases": [f"python:{series}-slim-{suite}", f"python:{series}-slim", f"python:{series}",
                    f"python:{version}-slim-{suite}"],
        "alias_patterns": [f"python:{series}.*-slim-{suite}", f"python:{series}.*-slim"],
        "extra_commands": DEFAULT_IMAGE_COMMANDS if tools else [],
        "warning": f"python:{series}-slim-{suite} is stood in for by Debian {suite} with its own Python {version}",
        "config": {
            "env": {"PATH": common.DOCKER_PATH, "LANG": "C.UTF-8", "PYTHON_VERSION": version},
            "cmd": ["python3"],
            "entrypoint": [],
            "workdir": "/",
            "user": "",
        },
        "metadata": {
            "python_version": version,
            "python_version_info": chroot.run(["python", "-VV"], "asking Python for its version").strip(),
            "python_packages": json.loads(chroot.run(["pip", "list", "--format=json"], "listing packages")),
            "libc_version_info": chroot.run(["ldd", "--version"], "asking for libc's version").splitlines()[0],
            "os": f"debian {SUITES[suite]['release']} {suite}",
        },
    }


def add_tools(chroot: common.Chroot) -> None:
    for command in DEFAULT_IMAGE_COMMANDS:
        log(f"      {command}")
        chroot.run(["/bin/sh", "-c", command.removeprefix("RUN ")], f"'{command}'")


def make(suite: str, tools: bool, cache: Path, name: str, tools_name: str, recipe: str) -> None:
    common.need("mmdebstrap", "mmdebstrap")
    common.need("zstd", "zstd")
    version = SUITES[suite]["python"]
    work = common.scratch_directory("base-")
    root = work / "root"
    try:
        settings = common.host_settings.collect()
        mirrors = settings["apt"]["mirrors"]
        sources = []
        if mirrors.get("debian"):
            sources = [f"deb {mirrors['debian']} {suite} main", f"deb {mirrors['debian']} {suite}-updates main"]
            if mirrors.get("debian-security"):
                sources.append(f"deb {mirrors['debian-security']} {suite}-security main")
        options = [f"--aptopt={name} \"{value}\"" for name, value in settings["apt"]["options"].items()]
        log(f"      Debian {suite}, the smallest root file system (about a minute)")
        common.run(["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", "--format=directory",
                    "--quiet", "--include=ca-certificates,netbase,tzdata", *options,
                    *[f"--dpkgopt=path-exclude={pattern}" for pattern in DPKG_EXCLUDES],
                    "--dpkgopt=path-include=/usr/share/doc/*/copyright", suite, str(root), *sources],
                   "making Debian's root file system")
        prepare_system(root)
        with common.Chroot(root) as chroot:
            checked = install_python(chroot, version)
            archive = f"{name}-{recipe[:12]}.tar.zst"
            description = describe(chroot, name, suite, checked, recipe, False, archive)
        clean(root)
        log("      packing")
        common.tar_of_root(root, cache / archive)
        common.write_json(cache / f"{name}.json", description)
        common.drop_outdated("bases", name, cache / archive)
        if tools:
            with common.Chroot(root) as chroot:
                add_tools(chroot)
                archive = f"{tools_name}-{recipe[:12]}.tar.zst"
                description = describe(chroot, tools_name, suite, checked, recipe, True, archive)
            clean(root)
            log("      packing")
            common.tar_of_root(root, cache / archive)
            common.write_json(cache / f"{tools_name}.json", description)
            common.drop_outdated("bases", tools_name, cache / archive)
    finally:
        common.remove_tree(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(SUITES), default="bookworm")
    parser.add_argument("--python", choices=sorted(suite["python"] for suite in SUITES.values()),
                        help="for a check only: a suite has one Python")
    parser.add_argument("--tools", action="store_true", help="also make the base with compilers, wheel and uv")
    parser.add_argument("--again", action="store_true", help="make it though it is in the cache")
    args = parser.parse_args()
    version = SUITES[args.suite]["python"]
    if args.python not in (None, version):
        raise Failed(f"Debian {args.suite} has Python {version}, not {args.python}; from_prefix.py takes another Python")
    common.become_root()
    cache = common.cache_directory("bases")
    name = f"python-{version}-slim-{args.suite}"
    tools_name = f"default-{version}-{args.suite}"
    recipe = common.digest_of(RECIPE, Path(__file__).read_bytes())
    wanted = [name] + ([tools_name] if args.tools else [])
    with common.making("bases", name):
        if args.again or not all(common.cached("bases", each, recipe) for each in wanted):
            make(args.suite, args.tools, cache, name, tools_name, recipe)
    for each in wanted:
        print(json.dumps(common.cached("bases", each, recipe)))
    return 0


if __name__ == "__main__":
    common.main_of(main)
