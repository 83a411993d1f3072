"""A real registry on loopback, from Debian's package, and servers that behave badly."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ballonet.base.debian import fetch_package
from ballonet.base.paths import cache_dir
from tests.certificates import Certificate
from tests.unit.oci import Layout

_PACKAGE = "docker-registry"
_CONFIG = """version: 0.1
storage:
  filesystem: {{rootdirectory: {directory}}}
http:
  addr: 127.0.0.1:0
"""
_START_S = 60


def _program() -> Path:
    """The registry's program. The package is unpacked, not installed: installed, it would start a service."""
    return fetch_package(_PACKAGE, cache_dir(), print) / "usr/bin" / _PACKAGE


class Registry:
    """A running registry: where it is, what it was asked for, and its files.

    :param certificate: speak TLS.
    :param users: a file of users and passwords, as of htpasswd(1); everybody else is refused.
    """

    def __init__(
        self, directory: Path, *, certificate: Certificate | None = None, users: Path | None = None
    ) -> None:
        self.directory = directory
        self._log = directory / "log"
        config = _CONFIG.format(directory=directory / "storage")
        if certificate is not None:
            config += f"  tls: {{certificate: {certificate.certificate}, key: {certificate.key}}}\n"
        if users is not None:
            config += f"auth:\n  htpasswd: {{realm: tests, path: {users}}}\n"
        (directory / "config.yml").write_text(config)
        with self._log.open("wb") as log:
            argv = [str(_program()), "serve", str(directory / "config.yml")]
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"}
            )
        self.address = self._find_address()

    def push(
        self,
        layout: Layout,
        name: str,
        *,
        into: str | None = None,
        everything: bool = False,
        login: str | None = None,
    ) -> str:
        """Push an image of ``layout``; the reference."""
        reference = f"{self.address}/{into or name}"
        more = ["--all"] if everything else []
        more += [] if login is None else [f"--dest-creds={login}"]
        argv = [
            "skopeo",
            "copy",
            "-q",
            *more,
            "--dest-tls-verify=false",
            layout.reference(name),
            f"docker://{reference}",
        ]
        subprocess.run(argv, check=True)
        return reference

    def fetched(self, what: str = "blobs") -> int:
        """How many blobs (or manifests) were handed out so far."""
        return len(re.findall(rf'"GET /v2/[^ ]*/{what}/[^ ]* HTTP[^"]*" 200', self._log.read_text()))

    def blob(self, hex: str) -> Path:
        """The file of a blob in the registry's storage."""
        return self.directory / "storage/docker/registry/v2/blobs/sha256" / hex[:2] / hex / "data"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _find_address(self) -> str:
        ends = time.monotonic() + _START_S
        while time.monotonic() < ends and self._process.poll() is None:
            match = re.search(r"listening on (127\.0\.0\.1:\d+)", self._log.read_text())
            if match:
                return match[1]
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"the registry did not start: {self._log.read_text()}")


@contextlib.contextmanager
def bad_registry(layout: Layout, send: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Iterator[str]:
    """A server with the manifests of ``layout``, which sends blobs as ``send`` does. Its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            *_, kind, name = self.path.split("/")
            if kind not in ("manifests", "blobs"):
                self._reply(b"{}", "application/json")
            elif kind == "manifests":
                digest = name if ":" in name else layout.manifests[0]["digest"]
                self._reply(layout.path(digest).read_bytes(), layout.manifests[0]["mediaType"])
            else:
                send(self, layout.path(name).read_bytes())

        do_HEAD = do_GET  # noqa: N815

        def _reply(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextlib.contextmanager
def deaf_server() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
