"""A real server for tests: the program, in a process of its own, and clients that connect to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx


class ServerProcess:
    """``ballonet serve`` on a Unix socket and a port of 127.0.0.1; ends with the ``with`` block.

    :param before: words before ``serve``.
    """

    def __init__(
        self,
        directory: Path,
        *words: str,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.socket = directory / "http.sock"
        command = [*before, "serve", "--socket", str(self.socket), "--listen", "127.0.0.1:0", *words]
        self.errors = (directory / "serve.err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ballonet", *command],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**(environment or os.environ), "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline().strip() for _ in range(2)]
        assert self.lines[0] == f"listening on unix:{self.socket}", [*self.lines, self.said()]
        self.address = self.lines[1].removeprefix("listening on ")

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """What it has written to standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def local(self) -> httpx.AsyncClient:
        """A client on the Unix socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://ballonet", timeout=200)

    def remote(self, token: str | None = None) -> httpx.AsyncClient:
        """A client on the port."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=200)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as a user does; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            status = self.stop()
            if kind is None:
                said = self.said()
                assert "Traceback" not in said, said
                assert status in (0, -signal.SIGKILL), said
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.errors.close()


def new_token(*words: str) -> str:
    """A token that the program makes."""
    command = [sys.executable, "-P", "-m", "ballonet", "token", "create", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
