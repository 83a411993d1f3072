"""The channel between a sandbox's process and the program that started it: JSON lines over an inherited socket.

The sandbox's process sends reports (:class:`Report`). The owner sends only ``stop``. The end of the stream means that
the owner has ended, for whatever reason; an owned sandbox ends with it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from ballonet.base.dataclass import dataclass, field
from ballonet.base.errors import BallonetError, GuestCommandError, SandboxError, error_class

#: The longest line that either side accepts, in bytes.
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
        """The error in a ``failed`` report, as an instance of the class that was raised in the sandbox's process."""
        message, hint = str(self.facts.get("message")), self.facts.get("hint")
        hint = None if hint is None else str(hint)
        if self.facts.get("code") == GuestCommandError.code and isinstance(self.facts.get("errno"), int):
            missing = bool(self.facts.get("missing"))
            return GuestCommandError(message, errno=self.facts["errno"], hint=hint, missing=missing)
        return error_class(str(self.facts.get("code")))(message, hint=hint)


class OwnerChannel:
    """The sandbox's end of the channel. Without a descriptor there is no owner, and reports are discarded."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        if self._fd is not None:
            channel = socket.socket(fileno=self._fd)
            self._reader, self._writer = await asyncio.open_connection(sock=channel, limit=_LINE_LIMIT)

    def send(self, report: Report) -> None:
        """Send a report, unless the owner has ended."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(report.encode())

    async def wait_stop(self) -> bool:
        """Wait until the owner sends ``stop`` (true) or has ended (false). Never returns if there is no owner."""
        if self._reader is None:
            await asyncio.get_running_loop().create_future()
        assert self._reader is not None
        try:
            return await self._reader.readline() == STOP
        except (OSError, ValueError):
            return False

    async def close(self) -> None:
        """Send pending reports, and close the channel."""
        if self._writer is not None:
            try:
                async with asyncio.timeout(1):
                    await self._writer.drain()
            except (OSError, TimeoutError):
                pass
            self._writer.close()
