"""Keeps the end of the guest's console output and of the engine's messages."""

from __future__ import annotations

import asyncio
import contextlib
import socket

#: Bytes that are kept: enough for a kernel panic with its trace.
KEPT_BYTES = 64 * 1024
_LINES_IN_ERRORS = 15


class Tail:
    """Reads a stream to its end and keeps the last :data:`KEPT_BYTES` of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._kept = bytearray()
        self._reader: asyncio.Task[None] | None = None

    def start(self, stream: socket.socket) -> None:
        """Read ``stream`` until it ends, and close it then."""
        stream.setblocking(False)
        self._reader = asyncio.create_task(self._read(stream), name=self._name)

    async def drained(self, timeout_s: float = 1.0) -> None:
        """Wait until the stream has ended, so that :attr:`text` is complete."""
        if self._reader is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._reader)

    async def stop(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    @property
    def text(self) -> str:
        """The text that is kept, without control characters other than newline and tab."""
        text = self._kept.decode("utf-8", errors="replace").replace("\r", "")
        return "".join(char for char in text if char.isprintable() or char in "\n\t")

    @property
    def end(self) -> str:
        """The last lines of a guest's console, for an error."""
        return f"the end of its console output:\n{self.last_lines(_LINES_IN_ERRORS) or '(nothing)'}"

    def last_lines(self, count: int) -> str:
        """The last ``count`` non-empty lines."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return "\n".join(lines[-count:])

    async def _read(self, stream: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with stream, contextlib.suppress(OSError):
            while chunk := await loop.sock_recv(stream, 16384):
                self._kept += chunk
                if len(self._kept) > KEPT_BYTES:
                    del self._kept[: len(self._kept) - KEPT_BYTES]
