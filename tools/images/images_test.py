# SPDX-License-Identifier: Apache-2.0
"""Tests of what these tools decide; nothing here touches the network. Run: python3 -m unittest discover -s tools/images -p '*_test.py'."""
import os
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import client_deps
import client_mount
import common
import from_prefix
import host_settings
import make_base


class HostSettings(unittest.TestCase):
    def test_credentials_are_left_out_and_that_is_said(self):
        notes = []
        url = host_settings.without_credentials("https://user:secret@mirror.example:8443/simple?a=b", "pip's index", notes)
        self.assertEqual(url, "https://mirror.example:8443/simple?a=b")
        self.assertEqual(len(notes), 1)
        self.assertNotIn("secret", notes[0])
        self.assertEqual(host_settings.without_credentials("https://mirror.example/", "x", notes), "https://mirror.example/")
        self.assertEqual(len(notes), 1)

    def test_a_secret_in_the_environment_does_not_reach_the_answer(self):
        with mock.patch.dict(os.environ, {"PIP_INDEX_URL": "https://u:hunter2@mirror.example/simple",
                                          "HTTPS_PROXY": "http://u:hunter2@proxy.example:3128"}):
            settings = host_settings.collect()
        self.assertNotIn("hunter2", str(settings))
        self.assertEqual(settings["pip"]["index-url"], "https://mirror.example/simple")
        self.assertEqual(settings["proxy"]["https_proxy"], "http://proxy.example:3128")
        self.assertGreaterEqual(len(settings["notes"]), 2)

    def test_apt_sources_of_both_kinds_are_read(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            (root / "sources.list.d").mkdir()
            (root / "sources.list").write_text("# deb http://no.example/debian x main\n"
                                               "deb [arch=amd64] http://one.example/debian bookworm main\n")
            (root / "sources.list.d/a.sources").write_text("Types: deb\nURIs: http://two.example/debian-security\n")
            self.assertEqual(host_settings.apt_uris(root),
                             ["http://one.example/debian", "http://two.example/debian-security"])
        self.assertEqual(host_settings.debian_mirror_kind("http://x.example/debian/"), "debian")
        self.assertEqual(host_settings.debian_mirror_kind("http://x.example/debian-security"), "debian-security")
        self.assertIsNone(host_settings.debian_mirror_kind("https://x.example/node_20.x"))

    def test_files_of_a_build(self):
        settings = {"apt": {"mirrors": {"debian": "http://m.example/debian"}, "options": {"Acquire::Check-Date": "false"}},
                    "proxy": {"http_proxy": "http://p.example:1"}}
        files = host_settings.files(settings, "/__modal/mirrors", "trixie")
        self.assertIn("trixie-updates main", files["sources.list"])
        self.assertIn('Dir::Etc::SourceList "/__modal/mirrors/sources.list";', files["apt.conf"])
        self.assertIn('Acquire::http::Proxy "http://p.example:1";', files["apt.conf"])
        self.assertNotIn("ca.pem", files)
        self.assertNotIn("sources.list", host_settings.files(settings, "/d", None))
        self.assertNotIn("sources.list", host_settings.files(settings, "/d", "trixie", "deb http://m.example/debian trixie main"))
        variables = host_settings.environment(settings, "/d")
        self.assertEqual(variables["HTTP_PROXY"], "http://p.example:1")
        self.assertNotIn("SSL_CERT_FILE", variables)


class ClientDeps(unittest.TestCase):
    def test_conditions_of_the_list(self):
        self.assertTrue(client_deps.applies("", "3.11"))
        self.assertTrue(client_deps.applies("python_version < '3.14'", "3.11"))
        self.assertFalse(client_deps.applies("python_version < '3.14'", "3.14"))
        self.assertTrue(client_deps.applies('python_version >= "3.9" and python_version <= "3.13"', "3.13"))
        self.assertFalse(client_deps.applies("python_full_version == '3.15'", "3.10"))
        with self.assertRaises(common.Failed):
            client_deps.applies("sys_platform == 'win32'", "3.11")

    def test_the_nearest_version_that_can_be_had(self):
        said = "ERROR: Could not find a version that satisfies the requirement c==0.0.0.dev0 (from versions: {})\n"

        def chosen(pin, versions):
            done = mock.Mock(stdout=said.format(versions))
            with mock.patch.object(client_deps.subprocess, "run", return_value=done):
                return client_deps.nearest(pin, [])

        self.assertEqual(chosen("c==2026.10.19", "2025.1.1, 2026.10.18, 2026.10.19.post1"), "c==2026.10.19.post1")
        self.assertEqual(chosen("c==2026.10.19", "2025.1.1, 2026.10.18, 2026.11.1"), "c==2026.10.18")
        self.assertEqual(chosen("c==1.0", "1.1, 2.0rc1, 3.0"), "c==1.1")
        self.assertEqual(chosen("c==1.9", "1.8, 1.10"), "c==1.8")
        with self.assertRaises(common.Failed):
            chosen("c==1.0", "none")


class Wheels(unittest.TestCase):
    def wheel(self, directory, members):
        path = Path(directory) / "x-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        return path

    def test_only_what_belongs_into_site_packages_is_unpacked(self):
        with tempfile.TemporaryDirectory() as directory:
            wheel = self.wheel(directory, {"x/__init__.py": "", "x-1.data/purelib/y.py": "", "x-1.data/scripts/run": "",
                                           "x-1.data/headers/x.h": ""})
            common.unpack_wheel(wheel, Path(directory) / "site")
            names = sorted(str(path.relative_to(directory + "/site")) for path in Path(directory).glob("site/**/*") if path.is_file())
            self.assertEqual(names, ["x/__init__.py", "y.py"])
            common.unpack_wheel(wheel, Path(directory) / "all", scripts=True)
            self.assertTrue((Path(directory) / "all/bin/run").is_file())

    def test_names_that_lead_outside_are_refused(self):
        for name in ("../evil.py", "/evil.py", "x/../../evil.py"):
            with tempfile.TemporaryDirectory() as directory:
                with self.assertRaises(common.Failed):
                    common.unpack_wheel(self.wheel(directory, {name: ""}), Path(directory) / "site")

    def test_the_requirement_of_a_wheel(self):
        with tempfile.TemporaryDirectory() as directory:
            wheel = self.wheel(directory, {"m-1.dist-info/METADATA": "Requires-Dist: click (~=8.1)\nRequires-Dist: synchronicity~=0.12.4\n"})
            self.assertEqual(client_mount.requirement(wheel, "synchronicity"), "synchronicity~=0.12.4")
            with self.assertRaises(common.Failed):
                client_mount.requirement(wheel, "absent")


class Archives(unittest.TestCase):
    def test_the_same_files_give_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory) / "root"
            (root / "d").mkdir(parents=True)
            (root / "d/f").write_text("f")
            (root / "d/x").write_text("x")
            (root / "d/x").chmod(0o711)
            common.tar_of_files(root, Path(directory) / "one.tar", mtime=5)
            os.utime(root / "d/f", (1, 1))
            (root / "d/f").chmod(0o600)
            common.tar_of_files(root, Path(directory) / "two.tar", mtime=5)
            self.assertEqual((Path(directory) / "one.tar").read_bytes(), (Path(directory) / "two.tar").read_bytes())
            with tarfile.open(Path(directory) / "one.tar") as tar:
                modes = {member.name: (member.mode, member.uid, member.mtime) for member in tar}
            self.assertEqual(modes, {"d": (0o755, 0, 5), "d/f": (0o644, 0, 5), "d/x": (0o755, 0, 5)})

    def test_the_cache_gives_nothing_that_is_outdated_or_half_there(self):
        with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, {"PROA_CACHE": directory}):
            self.assertIsNone(common.cached("mounts", "m", "r1"))
            made = []

            def make(archive):
                made.append(archive)
                archive.write_bytes(b"tar")
                return {"note": len(made)}

            with mock.patch("builtins.print"):
                common.answer("mounts", "m", "r1" * 16, False, make)
                common.answer("mounts", "m", "r1" * 16, False, make)
                self.assertEqual(len(made), 1)
                common.answer("mounts", "m", "r2" * 16, False, make)
            self.assertEqual(len(made), 2)
            self.assertFalse(made[0].exists())
            self.assertEqual(common.cached("mounts", "m", "r2" * 16)["archive"], str(made[1]))
            made[1].unlink()
            self.assertIsNone(common.cached("mounts", "m", "r2" * 16))


class Base(unittest.TestCase):
    def test_the_layout_of_site_is_taken_back(self):
        debian = '''\
            if is_virtual_environment:
                sitepackages.append(os.path.join(prefix, "lib", "site-packages"))
            sitepackages.append(os.path.join(prefix, "local/lib", "dist-packages"))
        else:
            sitepackages.append(prefix)
'''
        changed = make_base.SITE_BLOCK.sub(make_base.SITE_UPSTREAM, debian)
        self.assertNotIn("dist-packages", changed)
        self.assertIn('"site-packages")\n                sitepackages.append(path)\n        else:', changed)


class FromPrefix(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.prefix = Path(self.directory.name) / "py"

    def put(self, place, text="", mode=0o644):
        path = self.prefix / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def test_paths_of_the_prefix_become_those_of_usr_local(self):
        places = ["/home/a/.pyenv/versions/3.12.1", "/install"]
        for text, wanted in [
            ("-L/home/a/.pyenv/versions/3.12.1/lib -Wl,-rpath,/home/a/.pyenv/versions/3.12.1/lib", "-L/usr/local/lib -Wl,-rpath,/usr/local/lib"),
            ("'--prefix=/install' '-I/install/include'", "'--prefix=/usr/local' '-I/usr/local/include'"),
            ("'prefix': '/install',", "'prefix': '/usr/local',"),
            ("a /install b", "a /usr/local b"),
            *[(same, same) for same in ("/installed", "/build/install", "/usr/share/install.sh", "/home/a/.pyenv/versions/3.12.10", "-/install")],
        ]:
            self.assertEqual(from_prefix.moved(text, places), wanted)

    def test_names_that_are_no_prefix_are_not_replaced(self):
        self.assertEqual(from_prefix.old_places(Path("/opt/py"), {"prefix": "/opt/py", "built_for": "/usr"}), ["/opt/py"])
        self.assertEqual(from_prefix.old_places(Path("/opt/py"), {"prefix": "/usr/local", "built_for": "/install"}), ["/install", "/opt/py"])

    def test_scripts_start_with_the_program_at_its_new_place(self):
        def home(text, place="bin/pydoc3.12"):
            return from_prefix.at_home(text.encode(), place, ["/opt/py"], "python3.12").decode()

        self.assertEqual(home("#!/opt/py/bin/python3.12\nx = '/opt/py'\n"), "#!/usr/local/bin/python3.12\nx = '/usr/local'\n")
        self.assertEqual(home('#!/bin/sh\nprefix="/opt/py"\n', "bin/python3.12-config"), '#!/bin/sh\nprefix="/usr/local"\n')
        self.assertEqual(home("#!/usr/bin/env python3\n", "lib/python3.12/cgi.py"), "#!/usr/bin/env python3\n")
        self.assertEqual(home("#!/opt/py/bin/python3.12\n'/opt/py'", "lib/python3.12/x.py"), "#!/usr/local/bin/python3.12\n'/opt/py'")
        wrapped = "#!/bin/sh\n'''exec' \"/a long/path/bin/python3.12\" \"$0\" \"$@\"\n' '''\nimport sys\n"
        self.assertEqual(home(wrapped), "#!/usr/local/bin/python3.12\nimport sys\n")

    def test_tests_caches_and_packages_stay_behind(self):
        config = "config-3.12-x86_64-linux-gnu"
        for place in ["os.py", "test/x.py", "unittest/test/y.py", "idlelib/idle_test/z.py", "__pycache__/os.pyc", "site-packages/six.py",
                      "site-packages/README.txt", "lib-dynload/_ssl.so", "lib-dynload/_testcapi.cpython-312-x86_64-linux-gnu.so",
                      f"{config}/libpython3.12.a", f"{config}/Makefile", "EXTERNALLY-MANAGED", "unittest/case.py"]:
            self.put(f"lib/python3.12/{place}")
        for place in ["bin/python3.12", "bin/pip3.12", "lib/libpython3.12.so.1.0"]:
            self.put(place, mode=0o755)
        for place in ["include/python3.12/Python.h", "lib/libssl.so.3", "lib/pkgconfig/python-3.12.pc"]:
            self.put(place)
        taken = from_prefix.contents(self.prefix, "3.12")
        library = ["os.py", "unittest/case.py", "lib-dynload/_ssl.so", "site-packages/README.txt", f"{config}/Makefile"]
        self.assertEqual(list(taken), sorted(["bin/python3.12", "include/python3.12/Python.h", "lib/libpython3.12.so.1.0",
                                              "lib/pkgconfig/python-3.12.pc", *(f"lib/python3.12/{place}" for place in library)]))
        before = from_prefix.digest_of_contents(taken)
        os.utime(self.prefix / "lib/python3.12/os.py", (1, 1))
        self.assertEqual(from_prefix.digest_of_contents(taken), before)
        self.put("lib/python3.12/os.py", "changed")
        self.assertNotEqual(from_prefix.digest_of_contents(taken), before)

        root = Path(self.directory.name) / "root"
        from_prefix.put(taken, root, [str(self.prefix)], "python3.12")
        from_prefix.put_links(root, "3.12")
        self.assertEqual(os.readlink(root / "usr/local/bin/python"), "python3")
        self.assertEqual((root / "usr/local/bin/python").stat().st_mode & 0o777, 0o755)
        self.assertFalse((root / "usr/local/bin/pydoc").is_symlink())

    def test_missing_libraries_are_read_from_what_ldd_says(self):
        said = ("== /usr/local/lib/python3.12/lib-dynload/_gdbm.so\n\tlinux-vdso.so.1 (0x1)\n\tlibgdbm.so.6 => not found\n"
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n== /usr/local/lib/x.so\n"
                "/usr/local/lib/x.so: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /usr/local/lib/x.so)\n")
        missing, outdated = from_prefix.missing_of(said)
        self.assertEqual(missing, {"libgdbm.so.6": "/usr/local/lib/python3.12/lib-dynload/_gdbm.so"})
        self.assertEqual(outdated, ["/usr/local/lib/x.so wants GLIBC_2.38 of /lib/x86_64-linux-gnu/libc.so.6"])

    def test_packages_of_libraries(self):
        for soname, package in [("libffi.so.8", "libffi8"), ("libsqlite3.so.0", "libsqlite3-0"), ("libbz2.so.1.0", "libbz2-1.0"),
                                ("libncursesw.so.6", "libncursesw6"), ("libdb-5.3.so", "libdb5.3"), ("libgdbm_compat.so.4", "libgdbm-compat4"),
                                ("libX11.so.6", "libx11-6"), ("libssl.so.3", "libssl3"), ("libcrypto.so.3", "libssl3"), ("libz.so.1", "zlib1g"),
                                ("libtcl8.6.so", "libtcl8.6"), ("libgcc_s.so.1", "libgcc-s1"), ("libstdc++.so.6", "libstdc++6"),
                                ("libmpdec.so.3", "libmpdec3")]:
            self.assertIn(package, from_prefix.packages_for(soname), soname)
        self.assertEqual(from_prefix.packages_for("../../evil"), [])

    def test_a_newer_glibc_is_refused_before_anything_is_made(self):
        program = self.put("bin/python3.12")
        program.write_bytes(b"\x7fELF\0GLIBC_2.17\0GLIBC_2.2.5\0GLIBC_2.38\0")
        taken = {"bin/python3.12": program}
        with self.assertRaisesRegex(common.Failed, "needs glibc 2.38.*Debian bookworm has 2.36.*--suite trixie"):
            from_prefix.check_glibc(taken, {"metadata": {"libc_version_info": "ldd (Debian GLIBC 2.36-9) 2.36"}}, "bookworm")
        from_prefix.check_glibc(taken, {"metadata": {"libc_version_info": "ldd (Debian GLIBC 2.41-1) 2.41"}}, "trixie")

    def test_what_a_base_answers_to(self):
        aliases, patterns = from_prefix.references("3.12.1", "bookworm", [], {})
        self.assertEqual(aliases[0], "python:3.12-slim-bookworm")
        self.assertIn("python:3.12", aliases)
        self.assertEqual(patterns, ["python:3.12.*-slim-bookworm", "python:3.12.*-slim"])
        # A series that is taken stays where it is; so do the names without a release.
        with mock.patch.object(from_prefix, "log"):
            aliases, patterns = from_prefix.references("3.11.7", "bookworm", [], {"python:3.11-slim-bookworm": "other"})
        self.assertEqual((aliases[0], patterns), ("python:3.11.7-slim-bookworm", []))
        aliases, patterns = from_prefix.references("3.13.0", "bookworm", [], {"python:3.13-slim": "other", "python:3.13-slim-trixie": "other"})
        self.assertIn("python:3.13-slim-bookworm", aliases)
        self.assertNotIn("python:3.13-slim", aliases)
        self.assertEqual(patterns, ["python:3.13.*-slim-bookworm"])
        self.assertEqual(from_prefix.references("3.12.1", "bookworm", ["me:1", "me:1"], {}), (["me:1"], []))

    def test_names_are_those_of_images(self):
        self.assertEqual(from_prefix.check_name("docker.io/library/python:3.12"), "python:3.12")
        self.assertEqual(from_prefix.check_name("registry.example:5000/a/b"), "registry.example:5000/a/b:latest")
        for name in ["", "Up:1", "a b", "a:", "--x", "a:b:c", "../x"]:
            with self.assertRaises(common.Failed):
                from_prefix.check_name(name)

    def test_what_is_not_a_whole_python_is_refused(self):
        facts = {"implementation": "cpython", "free_threaded": False, "debug": False, "machine": "x86_64", "base_prefix": str(self.prefix),
                 "program": "python3.12", "version": "3.12.1"}
        from_prefix.refuse(self.prefix, facts)
        for change, word in [({"implementation": "pypy"}, "pypy"), ({"free_threaded": True}, "free-threaded"), ({"debug": True}, "debug"),
                             ({"machine": "aarch64"}, "aarch64"), ({"base_prefix": "/opt/other"}, "/opt/other"), ({"version": "3.6.1"}, "3.8")]:
            with self.assertRaisesRegex(common.Failed, word):
                from_prefix.refuse(self.prefix, {**facts, **change})


if __name__ == "__main__":
    unittest.main()
