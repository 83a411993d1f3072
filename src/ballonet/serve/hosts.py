"""What a server of many hosts asks of them. A cluster is one: the server knows no other way to reach its hosts."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ballonet.base.errors import BallonetError
from ballonet.metrics.model import Snapshot
from ballonet.serve.requests import Placement


class Line(Protocol):
    """A connection to a host."""

    @property
    def socket(self) -> socket.socket: ...

    @property
    def problem(self) -> BallonetError | None:
        """Why the host did not answer."""
        ...


class Hosts(Protocol):
    """Each method may raise a :class:`~ballonet.base.errors.BallonetError`."""

    async def names(self) -> Mapping[str, str | None]:
        """The hosts, and why each does not answer; ``None``: it does."""
        ...

    async def status(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each host: why it is ``silent`` (``None``: it answers), its ``sandboxes`` with their states, and its
        ``offer`` as a mapping, ``None`` if it has made none."""
        ...

    async def find(self, sandbox: str) -> str:
        """The host that has the sandbox."""
        ...

    async def connect(self, host: str) -> Line:
        """A connection to the HTTP API of a host, which has admin rights there."""
        ...

    async def create(self, name: str, settings: Mapping[str, Any], placement: Placement) -> None: ...

    async def remove(self, name: str, *, force: bool) -> None: ...

    async def fork(self, name: str, names: Sequence[str]) -> None: ...

    async def save(self, name: str, snapshot: str | None) -> str:
        """Make a snapshot, and return its name."""
        ...

    async def find_snapshot(self, name: str) -> str:
        """A host that has the snapshot, which was made through the cluster."""
        ...

    async def remove_snapshot(self, name: str) -> None: ...

    async def restore(self, snapshot: str, name: str, ports: Sequence[str]) -> None: ...

    async def collect(self) -> Snapshot:
        """The memory of all sandboxes, which are named ``HOST/NAME``, and the sums of the hosts."""
        ...
