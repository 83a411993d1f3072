"""How this host reaches its package sources, for a root that is to reach them the same way.

Read from the host's own configuration when a machine starts; nothing of it is written down anywhere else.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PROXY = re.compile(r"(https?|ftp|all|no)_proxy", re.IGNORECASE)
#: pip's settings that say where packages are; those of local directories mean nothing there.
_PIP = ("index-url", "extra-index-url", "proxy", "trusted-host", "timeout")


def host_files() -> dict[str, bytes]:
    """The files that a root needs to fetch packages as this host does, by their paths in it."""
    files = {"/etc/apt/apt.conf.d/00host": _apt().encode(), "/etc/profile.d/host.sh": _proxies().encode()}
    certificates = _certificates()
    if certificates is not None:
        files[_CERTIFICATES] = certificates
    files["/etc/pip.conf"] = _pip(certificates is not None).encode()
    return files


def _apt() -> str:
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(
        f"{line}\n" for line in dumped.splitlines() if line.startswith("Acquire::") and "::Proxy" in line
    )


def _proxies() -> str:
    found = {name: value for name, value in os.environ.items() if _PROXY.fullmatch(name)}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(found.items()))


def _certificates() -> bytes | None:
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    return Path(_CERTIFICATES).read_bytes() if Path(_CERTIFICATES).is_file() else None


def _pip(with_certificates: bool) -> str:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    config = configparser.ConfigParser(interpolation=None)
    config["global"] = {
        name: value for name in _PIP if (value := settings.get(name)) and not value.startswith("file:")
    }
    if with_certificates:
        config["global"]["cert"] = _CERTIFICATES
    out = io.StringIO()
    config.write(out)
    return out.getvalue()
