"""The output of a process in the guest, as a program on the host reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

from ballonet.base.arguments import check_number
from ballonet.base.errors import GuestError
from ballonet.guest.awaited_state import AwaitedState
from ballonet.guest.channel_stream import ChannelStream
from ballonet.guest.frames import FrameType

#: The default limit for each output of a command that is collected in memory.
MAX_OUTPUT_BYTES = 256 << 20


class OutputReader:
    """Standard output or standard error of a process: an async iterator of bytes, in order.

    At most the protocol's window (256 KiB, both outputs together) is held. A process whose output is not read stops
    when the window is full, so a reader of both outputs must read both concurrently.

    :param process: referred to, because a process whose output is read must not be killed.
    """

    def __init__(self, process: object, state: AwaitedState, stream: ChannelStream, kind: FrameType) -> None:
        self._process = process
        self._state = state
        self._stream = stream
        self._buffer = state.buffers[kind]

    async def read(self, limit: int = 64 << 10) -> bytes:
        """The next bytes, at most ``limit``; empty at the end of the output.

        :raises CommandTimeoutError: the command was killed at its ``timeout``; earlier output is returned first.
        :raises GuestChannelError: the channel ended before the process did; earlier output is returned first.
        """
        check_number("limit", limit, 1, 1 << 62)
        await self._state.until(lambda: bool(self._buffer) or self._state.over)
        if not self._buffer:
            self._state.check_alive()
            return b""
        data = bytes(self._buffer[:limit])
        del self._buffer[: len(data)]
        if data and not self._state.over:
            self._stream.consumed(len(data))
        return data

    async def read_all(self, limit: int) -> bytes:
        """All output up to the end.

        :raises GuestError: it is longer than ``limit`` bytes. The rest was not read.
        """
        parts = bytearray()
        await self.read_into(parts, limit)
        return bytes(parts)

    async def read_into(self, parts: bytearray, limit: int) -> None:
        """Append all output up to the end to ``parts``, which keeps what was read even if this fails.

        :raises GuestError: it is longer than ``limit`` bytes. The rest was not read.
        """
        check_number("limit", limit, 0, 1 << 62)
        while data := await self.read():
            if len(parts) + len(data) > limit:
                raise too_much(limit)
            parts += data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data


def too_much(limit: int) -> GuestError:
    """The error for an output that is longer than ``limit`` bytes."""
    return GuestError(
        f"the command wrote more than {limit} bytes", hint="read its output piece by piece instead"
    )


async def merged(
    reads: Mapping[str, Callable[[], Awaitable[bytes]]],
) -> AsyncGenerator[tuple[str, bytes], None]:
    """The results of all ``reads`` as they arrive, each with its name. A read ends with empty bytes."""
    reading = {asyncio.ensure_future(read()): name for name, read in reads.items()}
    try:
        while reading:
            await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in reading if task.done()]:
                name = reading.pop(task)
                if data := task.result():
                    reading[asyncio.ensure_future(reads[name]())] = name
                    yield name, data
    finally:
        for task in reading:
            task.cancel()
