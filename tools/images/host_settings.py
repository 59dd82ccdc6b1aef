#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What this host needs to reach package mirrors, as one JSON document without credentials.

Looks at the package managers' own configuration: apt's sources and options, pip, uv and npm settings, the CA
bundle, proxies. The result fills `[build.mirrors]`; docs/operate/mirrors.md describes it and how a build sees it.
Nothing is guessed: what the host does not set is not in the answer.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

FORMAT = "proa build mirrors 1"

# Where distributions keep the bundle that update-ca-certificates writes, most usual first.
CA_BUNDLES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"]
CA_VARIABLES = ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
PROXY_VARIABLES = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"]
# apt options that say how to reach a mirror. Not those that say which packages to trust.
APT_OPTIONS = ["Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http::Proxy", "Acquire::https::Proxy",
               "Acquire::Retries", "Acquire::http::Timeout", "Acquire::https::Timeout"]


def without_credentials(url: str, place: str, notes: list[str]) -> str:
    """`url` less its user and password; says so in `notes` if there were any."""
    try:
        parts = urlsplit(url)
    except ValueError:
        notes.append(f"{place} holds something that is not a URL; it was left out")
        return ""
    if "@" not in parts.netloc:
        return url
    notes.append(f"{place} holds credentials; they were left out. Name them in the configuration if builds need them")
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]))


def output_of(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
                              timeout=120, cwd="/")
    except subprocess.TimeoutExpired:
        print(f"note: '{' '.join(command)}' did not answer; its settings are not looked at", file=sys.stderr)
        return ""
    return done.stdout if done.returncode == 0 else ""


def debian_mirror_kind(uri: str) -> str | None:
    """"debian" or "debian-security" if `uri` looks like a mirror of that archive."""
    path = urlsplit(uri).path.rstrip("/")
    if path.endswith("debian-security") or path.endswith("/security"):
        return "debian-security"
    if path.endswith("/debian"):
        return "debian"
    return None


def apt_uris(sources: Path = Path("/etc/apt")) -> list[str]:
    files = [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]
    uris = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if file.suffix == ".sources":
                if line.lower().startswith("uris:"):
                    uris += line.split(":", 1)[1].split()
            elif match := re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)", line):
                uris.append(match[1])
    return uris


def collect_apt(notes: list[str]) -> dict:
    mirrors: dict[str, str] = {}
    for uri in apt_uris():
        kind = debian_mirror_kind(uri)
        if kind and kind not in mirrors and urlsplit(uri).scheme in ("http", "https"):
            mirrors[kind] = without_credentials(uri, f"apt's source for {kind}", notes)
    options: dict[str, str] = {}
    for line in output_of(["apt-config", "dump"]).splitlines():
        match = re.match(r'(\S+) "(.*)";$', line)
        if match and match[1] in APT_OPTIONS and match[2]:
            value = match[2]
            if match[1].endswith("::Proxy"):
                value = without_credentials(value, f"apt's {match[1]}", notes)
            options[match[1]] = value
    return {"mirrors": mirrors, "options": options}


def collect_pip(notes: list[str]) -> dict:
    found: dict[str, str] = {}
    for line in output_of([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        match = re.match(r"(\S+?)=(['\"])(.*)\2$", line)
        if match:
            found[match[1].rsplit(".", 1)[-1].replace("_", "-")] = match[3].replace("\\n", " ")
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            found[name[4:].lower().replace("_", "-")] = value
    settings: dict[str, str] = {}
    for name in ("index-url", "extra-index-url"):
        urls = [without_credentials(url, f"pip's {name}", notes) for url in found.get(name, "").split()]
        if any(urls):
            settings[name] = " ".join(url for url in urls if url)
    for name in ("trusted-host", "default-timeout", "timeout", "retries"):
        if found.get(name):
            settings["timeout" if name == "default-timeout" else name] = found[name]
    return settings


def collect_npm(notes: list[str]) -> dict:
    # Lists only what is set; the registry that npm has by itself is not in it.
    match = re.search(r'^registry = "(http[^"]*)"', output_of(["npm", "config", "list"]), re.MULTILINE)
    return {"registry": without_credentials(match[1], "npm's registry", notes)} if match else {}


def collect_proxy(notes: list[str]) -> dict:
    proxies = {}
    for name in PROXY_VARIABLES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            proxies[name] = value if name == "no_proxy" else without_credentials(value, name, notes)
    return proxies


def collect_ca_bundle() -> str | None:
    for path in [os.environ.get(name) for name in CA_VARIABLES] + CA_BUNDLES:
        if path and Path(path).is_file():
            return path
    return None


def collect() -> dict:
    notes: list[str] = []
    return {
        "format": FORMAT,
        "apt": collect_apt(notes),
        "pip": collect_pip(notes),
        "npm": collect_npm(notes),
        "proxy": collect_proxy(notes),
        "ca_bundle": collect_ca_bundle(),
        "notes": notes,
    }


def environment(settings: dict, directory: str) -> dict[str, str]:
    """The variables a build gets; files named in them lie in `directory`, as files() gives them."""
    variables: dict[str, str] = {}
    if settings.get("ca_bundle"):
        ca = f"{directory}/ca.pem"
        for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
                     "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE"):
            variables[name] = ca
    pip = settings.get("pip", {})
    for name, value in pip.items():
        variables["PIP_" + name.upper().replace("-", "_")] = value
    if pip.get("index-url"):
        variables["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("extra-index-url"):
        variables["UV_INDEX"] = pip["extra-index-url"]
    if pip.get("timeout"):
        variables["UV_HTTP_TIMEOUT"] = pip["timeout"]
    if settings.get("npm", {}).get("registry"):
        variables["NPM_CONFIG_REGISTRY"] = settings["npm"]["registry"]
    for name, value in settings.get("proxy", {}).items():
        variables[name] = variables[name.upper()] = value
    variables["APT_CONFIG"] = f"{directory}/apt.conf"
    return variables


def files(settings: dict, directory: str, codename: str | None, image_sources: str = "") -> dict[str, str]:
    """The files of `directory`. `codename` is the image's Debian release, None if it is not Debian.

    `image_sources` is the text of the image's own apt sources: what they name already is not named again, since
    apt refuses one source with two keyrings.
    """
    result: dict[str, str] = {}
    if settings.get("ca_bundle"):
        result["ca.pem"] = Path(settings["ca_bundle"]).read_text()
    apt = settings.get("apt", {})
    lines = [f'{name} "{value}";' for name, value in sorted(apt.get("options", {}).items())]
    proxy = settings.get("proxy", {})
    for scheme in ("http", "https"):
        name = f"Acquire::{scheme}::Proxy"
        if proxy.get(f"{scheme}_proxy") and name not in apt.get("options", {}):
            lines.append(f'{name} "{proxy[f"{scheme}_proxy"]}";')
    if "ca.pem" in result:
        lines.append(f'Acquire::https::CAInfo "{directory}/ca.pem";')
    mirrors = apt.get("mirrors", {})
    if codename and mirrors.get("debian") and mirrors["debian"] not in image_sources:
        keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        sources = [f"deb {keyring} {mirrors['debian']} {codename} main",
                   f"deb {keyring} {mirrors['debian']} {codename}-updates main"]
        if mirrors.get("debian-security"):
            sources.append(f"deb {keyring} {mirrors['debian-security']} {codename}-security main")
        result["sources.list"] = "\n".join(sources) + "\n"
        # Replaces /etc/apt/sources.list alone: what a user adds in sources.list.d stays in use.
        lines.append(f'Dir::Etc::SourceList "{directory}/sources.list";')
    result["apt.conf"] = "\n".join(lines) + "\n"
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="file to write (default: standard output)")
    args = parser.parse_args()
    settings = collect()
    for note in settings["notes"]:
        print(f"note: {note}.", file=sys.stderr)
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if args.out:
        Path(args.out).write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
