"""The asyncio connection of a client to a control socket. :class:`~ballonet.control.client.Client` adds the calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from types import TracebackType
from typing import Self, TypeVar, cast

from ballonet.control import calls, client_blocking
from ballonet.control.backend import BalloonSnapshot
from ballonet.control.calls import Call
from ballonet.control.client_blocking import DEADLINE_S, QUEUE_FULL_PAUSE_S
from ballonet.control.protocol import LINE_LIMIT

_R = TypeVar("_R")


class AsyncConnection:
    """A connection that sends a call and waits for its answer, one call after the other."""

    def __init__(self, path: str, connection: socket.socket, deadline_s: float) -> None:
        self._path = path
        # A bare socket, not a stream: the reason of a server that refuses can be read after a write has failed.
        self._socket = connection
        self._input = bytearray()
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._closed = False
        self._last_used = time.monotonic()

    @classmethod
    async def connect(cls, path: str | os.PathLike[str], *, deadline_s: float = DEADLINE_S) -> Self:
        """Connect to the control socket at ``path``.

        :raises ControlError: there is no socket, no server listens, or access is denied.
        """
        name = os.fspath(path)
        calls.check_path(name)
        return cls(name, await _connect(name, deadline_s), deadline_s)

    @property
    def closed(self) -> bool:
        """Whether the client can no longer be used: it was closed, or a call was abandoned while it was in progress."""
        return self._closed

    async def close(self) -> None:
        """Close the connection; a call in progress ends with an error. May be repeated."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._turn.locked():
            self._socket.close()

    def drop(self) -> None:
        """Close the connection of a client that is no longer referenced."""
        self._closed = True
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _another(self) -> Self:
        """A new connection to the same server."""
        return await type(self).connect(self._path, deadline_s=self._deadline_s)

    async def _call(self, method: str, result: type[_R], params: object = None, extra_s: float = 0.0) -> _R:
        """Call ``method``, whose result is a ``result``; it may take ``extra_s`` seconds longer than others."""
        call = calls.make_call(method, params)
        deadline_s = self._deadline_s + extra_s
        try:
            async with self._turn, asyncio.timeout(deadline_s):
                if time.monotonic() - self._last_used > client_blocking.IDLE_S and not self._closed:
                    self._socket.close()
                    self._socket = await _connect(self._path, self._deadline_s)
                    self._input.clear()
                answer = await self._exchange(call)
                self._last_used = time.monotonic()
                return cast(_R, answer)
        except TimeoutError:
            self._closed = True
            raise calls.stalled(self._path, call.method, deadline_s) from None
        finally:
            if self._closed:
                await self.close()

    async def _exchange(self, call: Call) -> object:
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, call.line)
        except ConnectionError:
            pass  # a server that refuses closes at once; its reason is read below
        except OSError:
            raise calls.ended(self._path, call.method) from None
        except asyncio.CancelledError:
            self._closed = True  # perhaps half a line was sent
            raise
        while True:
            message = calls.read_line(await self._read(call.method), self._path)
            result = calls.result_of(call, message)
            if result is not None:  # otherwise the late answer to an abandoned call
                return result

    async def _change(self) -> BalloonSnapshot:
        """Wait for the next change of the balloon."""
        while True:
            line = await self._read("a change")
            if (snapshot := calls.change_of(calls.read_line(line, self._path))) is not None:
                return snapshot

    async def _read(self, what: str) -> bytes:
        while (line := calls.take_line(self._input, self._path)) is None:
            try:
                piece = await asyncio.get_running_loop().sock_recv(self._socket, LINE_LIMIT)
            except OSError:
                piece = b""
            if not piece:
                raise calls.ended(self._path, what)
            self._input += piece
        return line


async def _connect(path: str, deadline_s: float) -> socket.socket:
    """A connection, waited for while the server's queue is full."""
    deadline = time.monotonic() + deadline_s
    while (connection := client_blocking.try_connect(path)) is None:
        if time.monotonic() > deadline:
            raise calls.stalled(path, "connect", deadline_s)
        await asyncio.sleep(QUEUE_FULL_PAUSE_S)
    return connection
