"""Two hosts of a cluster on this machine's loopback, each a real Ray node with its own state and run directories."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.paths import cache_dir
from ballonet.guest.bundle import GuestBundle

WAIT_S = 120.0
#: How a program that uses the cluster begins.
PROGRAM = "import json, time\nfrom ballonet.cluster.client import Cluster\n"


class Host:
    """One host: the directories of its own, and its process of ``cluster up`` or ``join``."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(directory / "state"),
            "BALLONET_RUN_DIR": str(directory / "run"),
            "XDG_DATA_HOME": str(cache_dir() / "test-data"),
            "PYTHONPATH": ":".join(path for path in sys.path if path),
        }
        (directory / "run").mkdir(parents=True, mode=0o700)

    @property
    def token(self) -> Path:
        return self.directory / "state/ballonet/cluster/token"

    def python(self, *words: str) -> list[str]:
        """The command line that runs Python on this host."""
        return [sys.executable, *words]

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.python("-m", "ballonet", *words),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )

    def take_part(self, *words: str) -> str:
        """Start ``up`` or ``join``; returns its first line."""
        self.process = subprocess.Popen(
            self.python("-m", "ballonet", "cluster", *words, "--name", self.name),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=30)
            log = self.directory / "state/ballonet/cluster/ray.log"
            pytest.fail(f"{self.name}: {errors}\n{log.read_text()[-2000:] if log.exists() else ''}")
        return line

    def status(self) -> dict[str, Any]:
        done = self.run("cluster", "status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        for line in json.loads(self.run("ls", "--json").stdout or "[]"):
            self.run("rm", "--force", line["name"])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def program(host: Host, code: str) -> Any:
    """Run a program on ``host`` that uses the cluster; what it prints is JSON."""
    done = subprocess.run(
        host.python("-c", PROGRAM + code),
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hosts(
    guest: GuestBundle, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, Host]]:
    """``head``, with 2 GiB and the label disk=ssd, and ``other``, with 1 GiB and disk=hdd."""
    head, other = (Host(name, tmp_path_factory.mktemp(name)) for name in ("head", "other"))
    port = free_port()
    try:
        head.take_part("up", "--port", str(port), "--budget", "2G", "--label", "disk=ssd")
        other.take_part(
            "join", f"127.0.0.1:{port}", "--token", str(head.token), "--budget", "1G", "--label", "disk=hdd"
        )
        yield head, other
    finally:
        with contextlib.suppress(Exception):
            other.end()
        head.end()
