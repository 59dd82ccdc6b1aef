# SPDX-License-Identifier: Apache-2.0
"""What the network lets through: TLS off loopback, and what a container reaches of its server."""
import socket
import ssl
import subprocess

import certifi
import pytest

from proa_testing import PROGRAM, Proa

APP = """
import modal, os, sys
app = modal.App("walls")

@app.function()
def echo(data: bytes) -> bytes:
    return data

@app.function()
def probe(request: bytes) -> bytes:
    import socket
    with socket.create_connection(("127.0.0.1", 7180), 5) as to:
        to.settimeout(5)
        to.sendall(request)
        try:
            return to.recv(4096)
        except TimeoutError:
            return b"open"
        except ConnectionError:
            return b""
"""

DRIVER = """
import os, sys
sys.path.insert(0, {directory!r})
from walls_app import *
with app.run():
{body}
"""


def drive(proa, tmp_path, body: str):
    (tmp_path / "walls_app.py").write_text(APP)
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return proa.python(DRIVER.format(directory=str(tmp_path), body=indented), timeout=200)


def own_address() -> str:
    """This machine's address on the network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def test_a_blob_port_leads_to_blobs_alone(proa, tmp_path):
    done = drive(proa, tmp_path, r"""
get = lambda path: probe.remote(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
print("blob", get("/blob/bl-0000000000000000000000"))
print("page", get("/apps/ap-0000000000000000000000"))
print("login", get("/login/tf-0000000000000000000000"))
print("grpc", probe.remote(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
print("tls", probe.remote(b"\x16\x03\x01\x00\x05hello"))
""")
    assert done.status == 0, done
    answers = dict(line.split(" ", 1) for line in done.out.splitlines() if " b" in line)
    assert " 403 " in answers["blob"] and " 404 " in answers["page"] and " 404 " in answers["login"], answers
    assert answers["grpc"] == "b''" and answers["tls"] == "b''", answers


def test_tls_with_a_certificate_of_our_own(tmp_path):
    address = own_address()
    with Proa(arguments=["--tls"], listen=f"{address}:0") as proa:
        assert proa.url.startswith(f"https://{address}:")
        done = drive(proa, tmp_path, """
data = os.urandom(3 << 20)
print("same", echo.remote(data) == data)
""")
        assert done.status == 0 and "same True" in done.out, done
        # Who does not trust the CA is not talked into it.
        host, port = proa.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), 5) as plain, pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context(cafile=certifi.where()).wrap_socket(plain, server_hostname=host)
        # The certificate outlives a restart.
        before = (proa.directory / "data/tls/server.pem").read_bytes()
        proa.stop()
        proa.start()
        assert (proa.directory / "data/tls/server.pem").read_bytes() == before
        if address.startswith("127."):
            pytest.skip("this machine has no address but loopback")
        with socket.create_connection((host, int(port)), 5) as plain:
            plain.settimeout(5)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                assert plain.recv(100) == b""
            except ConnectionError:
                pass


def test_plaintext_off_loopback_has_to_be_asked_for_by_name(tmp_path):
    done = subprocess.run([PROGRAM, "up", "--data-dir", tmp_path / "data", "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "--tls" in done.stderr and "--plaintext-off-loopback" in done.stderr
    assert not (tmp_path / "data").exists()
