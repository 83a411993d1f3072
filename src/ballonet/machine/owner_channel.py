"""The line between a sandbox's process and the program that started it: JSON lines over an inherited socket.

The sandbox's process tells what becomes of it (:class:`Report`). The owner says nothing but ``stop``; the end of
the stream means that the owner is gone, however it went, and an owned sandbox ends with it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Any

from ballonet.base.errors import BallonetError, GuestCommandError, SandboxError, error_class

#: The longest line that either side reads, in bytes.
_LINE_LIMIT = 64 * 1024
STOP = b"stop\n"


@dataclass(frozen=True)
class Report:
    """One event: ``ready``, ``failed`` or ``ended``, with its facts."""

    event: str
    facts: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        return json.dumps({"event": self.event, **self.facts}).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        """:raises SandboxError: the line is not a report."""
        try:
            facts = json.loads(line)
            return cls(str(facts.pop("event")), facts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SandboxError(f"the sandbox's process sent an unreadable report: {line[:200]!r}") from error

    @classmethod
    def failed(cls, error: BallonetError) -> Report:
        facts: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        if isinstance(error, GuestCommandError):
            facts |= {"errno": error.errno, "missing": error.missing}
        return cls("failed", facts)

    def to_error(self) -> BallonetError:
        """The error that a ``failed`` report carries, as the class that was raised on the other side."""
        message, hint = str(self.facts.get("message")), self.facts.get("hint")
        hint = None if hint is None else str(hint)
        if self.facts.get("code") == GuestCommandError.code and isinstance(self.facts.get("errno"), int):
            missing = bool(self.facts.get("missing"))
            return GuestCommandError(message, errno=self.facts["errno"], hint=hint, missing=missing)
        return error_class(str(self.facts.get("code")))(message, hint=hint)


class OwnerChannel:
    """The sandbox's end of the line. Without a descriptor there is no owner, and reports go nowhere."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        if self._fd is not None:
            line = socket.socket(fileno=self._fd)
            self._reader, self._writer = await asyncio.open_connection(sock=line, limit=_LINE_LIMIT)

    def send(self, report: Report) -> None:
        """Send a report; an owner that is gone does not matter here."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(report.encode())

    async def wait_stop(self) -> bool:
        """Wait for the owner's word: true for ``stop``, false when the owner is gone. Never without an owner."""
        if self._reader is None:
            await asyncio.get_running_loop().create_future()
        assert self._reader is not None
        try:
            return await self._reader.readline() == STOP
        except (OSError, ValueError):
            return False

    async def close(self) -> None:
        """Send what is left, and hang up."""
        if self._writer is not None:
            try:
                async with asyncio.timeout(1):
                    await self._writer.drain()
            except (OSError, TimeoutError):
                pass
            self._writer.close()
