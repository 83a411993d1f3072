"""Publishes a port at an IPv6 address of the host: passes its TCP connections on to the same port at an IPv4 address,
where slirp4netns has published it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from ballonet.vmm.attach import LOOPBACK

#: How many connections it passes on at once; each takes two descriptors of this process.
_MOST = 200
_PIECE = 1 << 16


class PortRelay:
    """A listening port. Call :meth:`close` at the end."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, address: str, port: int, to: int) -> tuple[PortRelay, int]:
        """Listen at ``address``, an IPv6 address; returns the port as well, which is chosen if ``port`` is 0.

        :param to: the port of the host's loopback.
        :raises OSError: it cannot be bound.
        """
        relay = cls(to)
        relay._server = await asyncio.start_server(
            relay._accepted, address, port, family=socket.AF_INET6, limit=_PIECE
        )
        return relay, int(relay._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._pass_on(reader, writer), name="published port")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self._to, limit=_PIECE)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, back))
                both.create_task(_copy(there, writer))
        except* OSError:  # one side has ended the connection
            pass
        finally:
            for end in (writer, back):
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of ``reader``, which becomes the end of what ``writer`` sends."""
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
