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


if __name__ == "__main__":
    unittest.main()
