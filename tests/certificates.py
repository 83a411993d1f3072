"""Certificates of servers that the tests start."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """The files of a certificate, and of its key."""

    certificate: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """A self-signed certificate of 127.0.0.1, which is also its own authority. Made by ``openssl``."""
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    of = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    into = ["-out", str(made.certificate), "-keyout", str(made.key)]
    subprocess.run(["openssl", "req", *kind, *of, *into], check=True, capture_output=True)
    return made
