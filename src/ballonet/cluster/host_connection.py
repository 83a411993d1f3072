"""A connection to the HTTP API of another host, through its agent, as a socket of this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.cluster.cluster_process import PIECE_BYTES

#: Does something about a stream of the host: :meth:`ballonet.cluster.host_streams.HostStreams.call`.
Streams = Callable[..., Awaitable[Any]]


class HostLine:
    """A connection.

    :param socket: its end in this process, which does not block. It is connected at once; the host is asked when
        something is sent.
    """

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        #: Why the host did not answer.
        self.problem: BallonetError | None = None


class HostConnections:
    """All such connections of this process. They belong to its event loop."""

    def __init__(self) -> None:
        self._passing: set[asyncio.Task[None]] = set()

    def open(self, stream: Streams, session: str) -> HostLine:
        """A new connection."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        line = HostLine(near)
        task = asyncio.ensure_future(_pass_on(stream, session, far, line))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        return line

    async def close(self) -> None:
        """End all connections."""
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)


async def _pass_on(stream: Streams, session: str, far: socket.socket, line: HostLine) -> None:
    """Pass bytes on until one side closes: the server does so after each response, and a client that has closed reads
    none."""
    loop = asyncio.get_running_loop()
    number: int | None = None

    async def send() -> None:
        while piece := await loop.sock_recv(far, PIECE_BYTES):
            await stream("write", number, piece)

    async def receive() -> None:
        while piece := await stream("read", number):
            await loop.sock_sendall(far, piece)

    try:
        first = await loop.sock_recv(far, PIECE_BYTES)
        if not first:
            return
        # Most requests are one piece, and so are their answers: one call.
        number, answer = await stream("open_server", session, first)
        await loop.sock_sendall(far, answer)
        if number is not None:
            directions = [asyncio.ensure_future(way) for way in (send(), receive())]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
    except BallonetError as error:
        line.problem = error
    except OSError:
        pass  # the client is gone
    finally:
        far.close()
        if number is not None:
            with contextlib.suppress(BallonetError):  # the host's agent is gone, and its streams with it
                await stream("close", number)
