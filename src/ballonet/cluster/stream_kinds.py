"""The kinds of streams that a host's agent has: commands, connections, and files in both directions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ballonet.base.errors import ConfigError, GuestError, HostError
from ballonet.guest.guest_process import GuestProcess

#: The most that one message carries (bytes).
PIECE_BYTES = 256 << 10


class Stream:
    """One stream: outputs by name, an input, and an end."""

    def __init__(self, session: str) -> None:
        self.session = session

    async def read(self, output: str) -> Any:
        raise ConfigError("this stream has no output")

    async def write(self, data: bytes) -> None:
        raise ConfigError("this stream has no input")

    async def end_input(self) -> Any:
        """No more input; what comes of it."""

    async def close(self) -> None: ...


class Command(Stream):
    def __init__(self, session: str, process: GuestProcess) -> None:
        super().__init__(session)
        self.process = process

    async def read(self, output: str) -> bytes:
        reader = self.process.stderr if output == "stderr" else self.process.stdout
        return await reader.read(PIECE_BYTES)

    async def write(self, data: bytes) -> None:
        await self.process.write_stdin(data)

    async def end_input(self) -> None:
        await self.process.close_stdin()

    async def close(self) -> None:
        await self.process.__aexit__(None, None, None)


class Connection(Stream):
    def __init__(self, session: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(session)
        self._reader, self._writer = reader, writer

    async def read(self, output: str) -> bytes:
        try:
            return await self._reader.read(PIECE_BYTES)
        except OSError as error:
            raise HostError(f"the connection ended: {error.strerror}") from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise HostError(f"the connection ended: {error.strerror}") from error

    async def end_input(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()


class Output(Stream):
    """What an iterator gives: a file, or a packed directory."""

    def __init__(self, session: str, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(session)
        self._pieces = pieces

    async def read(self, output: str) -> bytes:
        return await anext(self._pieces, b"")

    async def close(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()


class Input(Stream):
    """A file or a packed directory that is written. Only a few pieces wait here."""

    def __init__(self, session: str, take: Callable[[AsyncIterator[bytes]], Awaitable[Any]]) -> None:
        super().__init__(session)
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._task = asyncio.ensure_future(take(self._pieces()))

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._queue.get():
            yield piece

    async def write(self, data: bytes) -> None:
        if data:
            await self._put(data)

    async def _put(self, data: bytes) -> None:
        put = asyncio.ensure_future(self._queue.put(data))
        await asyncio.wait({put, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
            await self._task  # its error
            raise GuestError("the guest stopped reading")

    async def end_input(self) -> Any:
        if not self._task.done():
            await self._put(b"")
        return await self._task

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
