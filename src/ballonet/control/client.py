"""Clients of a control socket: :class:`Client` (asyncio), :class:`SyncClient`, and the plain :func:`send_plain`.

A client has one connection on which its calls go one after the other, and one more for each watch. Whoever wants
to replace a target that is being waited for needs a second client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, cast

from ballonet.base.errors import ControlError, ControlRefusedError
from ballonet.base.forked import keep_from_children
from ballonet.control import calls
from ballonet.control.backend import BalloonSnapshot, Stats, TrimRequest, TrimResult
from ballonet.control.calls import Call
from ballonet.control.protocol import LINE_LIMIT, LimitParams, SetParams, SetReply, StatsParams, VersionResult

#: How long a server may take to answer, beyond what the call itself allows it (seconds).
DEADLINE_S = 10.0

#: Between attempts to enter a server's full queue (seconds).
_QUEUE_FULL_PAUSE_S = 0.01

#: A connection that was silent for this long (seconds) is replaced before its next call: a server gives a connection
#: five seconds to say something first, and no connection for ever.
IDLE_S = 3.0

_PLAIN_OK = re.compile(rb"OK ([0-9]{1,15})\r?\n?")


class Client:
    """An asyncio client; ``async with await Client.connect(path) as client: …``.

    Every call raises :class:`~ballonet.errors.ControlRefusedError` if the server refuses it, and
    :class:`~ballonet.errors.ControlError` if the server stalls, ends, or is not of this protocol.
    """

    def __init__(self, path: str, connection: socket.socket, deadline_s: float) -> None:
        self._path = path
        # A bare socket, not a stream: what a refusing server said can still be read after a write has failed.
        self._socket = connection
        self._input = bytearray()
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._closed = False
        self._last_used = time.monotonic()

    @classmethod
    async def connect(cls, path: str | os.PathLike[str], *, deadline_s: float = DEADLINE_S) -> Self:
        """Connect to the control socket at ``path``.

        :raises ControlError: there is none, nobody listens, or access is denied.
        """
        name = os.fspath(path)
        calls.check_path(name)
        return cls(name, await _connect_patiently(name, deadline_s), deadline_s)

    @property
    def closed(self) -> bool:
        """Whether it can be used no more: it was closed, or a call on its way was given up."""
        return self._closed

    async def close(self) -> None:
        """Close the connection; a call on its way ends with an error. May be repeated."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._turn.locked():
            self._socket.close()

    def drop(self) -> None:
        """Nobody holds this client any more: close the connection."""
        self._closed = True
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def version(self) -> VersionResult:
        """Versions and capabilities."""
        return cast(VersionResult, await self._call(calls.make_call("version")))

    async def get(self) -> BalloonSnapshot:
        """The balloon now."""
        return cast(BalloonSnapshot, await self._call(calls.make_call("balloon.get")))

    async def set(
        self,
        target_mib: int,
        *,
        strict: bool = False,
        wait: bool = False,
        timeout_s: float = 30,
        force: bool = False,
    ) -> SetReply:
        """Ask for a target; see :class:`~ballonet.control.protocol.SetParams`."""
        params = SetParams(target_mib, strict, wait, timeout_s, force)
        extra_s = timeout_s if wait else 0.0
        return cast(SetReply, await self._call(calls.make_call("balloon.set", params), extra_s))

    async def limit(self, limit_mib: int | None) -> BalloonSnapshot:
        """Bound targets and pressure relief; ``None``: the ceiling."""
        return cast(
            BalloonSnapshot, await self._call(calls.make_call("balloon.limit", LimitParams(limit_mib)))
        )

    async def stats(self, max_age_s: float = 0) -> Stats:
        """The guest's and the host's memory statistics; see :class:`~ballonet.control.protocol.StatsParams`."""
        return cast(
            Stats, await self._call(calls.make_call("stats", StatsParams(max_age_s) if max_age_s else None))
        )

    async def trim(self, request: TrimRequest | None = None) -> TrimResult:
        """Reclaim memory now."""
        request = request or TrimRequest()
        return cast(TrimResult, await self._call(calls.make_call("guest.trim", request), request.timeout_s))

    async def watch(self) -> AsyncIterator[BalloonSnapshot]:
        """The balloon now, then at each change, until the iteration is left or the sandbox ends.

        Uses a connection of its own. Changes that come quicker than they are read are passed over, newest first.

        :raises ControlError: also when the sandbox ends.
        """
        async with await type(self).connect(self._path, deadline_s=self._deadline_s) as watcher:
            call = calls.make_call("balloon.watch")
            yield cast(BalloonSnapshot, await watcher._call(call))
            while True:
                snapshot = calls.change_of(calls.read_line(await watcher._read("a change"), self._path))
                if snapshot is not None:
                    yield snapshot

    async def _call(self, call: Call, extra_s: float = 0.0) -> object:
        deadline_s = self._deadline_s + extra_s
        try:
            async with self._turn, asyncio.timeout(deadline_s):
                if time.monotonic() - self._last_used > IDLE_S and not self._closed:
                    self._socket.close()
                    self._socket = await _connect_patiently(self._path, self._deadline_s)
                    self._input.clear()
                answer = await self._exchange(call)
                self._last_used = time.monotonic()
                return answer
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
            pass  # a server that refuses closes at once; what it said is read below
        except OSError:
            raise calls.ended(self._path, call.method) from None
        except asyncio.CancelledError:
            self._closed = True  # perhaps half a line was sent
            raise
        while True:
            message = calls.read_line(await self._read(call.method), self._path)
            result = calls.result_of(call, message)
            if result is not None:  # otherwise the late answer to a call that was given up
                return result

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


class SyncClient:
    """The same without asyncio: ``with SyncClient(path) as client: …``. Not for several threads at once.

    :raises ControlError: the socket cannot be connected to; see :class:`Client` for the calls.
    """

    def __init__(self, path: str | os.PathLike[str], *, deadline_s: float = DEADLINE_S) -> None:
        self._path = os.fspath(path)
        self._deadline_s = deadline_s
        self._socket = _connect(self._path, deadline_s)
        self._input = bytearray()
        self._closed = False
        self._last_used = time.monotonic()

    def close(self) -> None:
        """Close the connection. May be repeated."""
        self._closed = True
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def version(self) -> VersionResult:
        """Versions and capabilities."""
        return cast(VersionResult, self._call(calls.make_call("version")))

    def get(self) -> BalloonSnapshot:
        """The balloon now."""
        return cast(BalloonSnapshot, self._call(calls.make_call("balloon.get")))

    def set(
        self,
        target_mib: int,
        *,
        strict: bool = False,
        wait: bool = False,
        timeout_s: float = 30,
        force: bool = False,
    ) -> SetReply:
        """Ask for a target; see :class:`~ballonet.control.protocol.SetParams`."""
        params = SetParams(target_mib, strict, wait, timeout_s, force)
        return cast(SetReply, self._call(calls.make_call("balloon.set", params), timeout_s if wait else 0.0))

    def limit(self, limit_mib: int | None) -> BalloonSnapshot:
        """Bound targets and pressure relief; ``None``: the ceiling."""
        return cast(BalloonSnapshot, self._call(calls.make_call("balloon.limit", LimitParams(limit_mib))))

    def stats(self, max_age_s: float = 0) -> Stats:
        """The guest's and the host's memory statistics; see :class:`~ballonet.control.protocol.StatsParams`."""
        return cast(
            Stats, self._call(calls.make_call("stats", StatsParams(max_age_s) if max_age_s else None))
        )

    def trim(self, request: TrimRequest | None = None) -> TrimResult:
        """Reclaim memory now."""
        request = request or TrimRequest()
        return cast(TrimResult, self._call(calls.make_call("guest.trim", request), request.timeout_s))

    def watch(self) -> Iterator[BalloonSnapshot]:
        """See :meth:`Client.watch`."""
        with type(self)(self._path, deadline_s=self._deadline_s) as watcher:
            yield cast(BalloonSnapshot, watcher._call(calls.make_call("balloon.watch")))
            while True:
                snapshot = calls.change_of(calls.read_line(watcher._read("a change", None), self._path))
                if snapshot is not None:
                    yield snapshot

    def _call(self, call: Call, extra_s: float = 0.0) -> object:
        deadline_s = self._deadline_s + extra_s
        deadline = time.monotonic() + deadline_s
        if time.monotonic() - self._last_used > IDLE_S and not self._closed:
            self._socket.close()
            self._socket = _connect(self._path, self._deadline_s)
            self._input.clear()
        try:
            with contextlib.suppress(ConnectionError):  # a refusal may be there to be read
                self._socket.settimeout(deadline_s)
                self._socket.sendall(call.line)
            while True:
                message = calls.read_line(self._read(call.method, deadline), self._path)
                result = calls.result_of(call, message)
                if result is not None:
                    self._last_used = time.monotonic()
                    return result
        except TimeoutError:
            self.close()
            raise calls.stalled(self._path, call.method, deadline_s) from None
        except OSError as error:
            raise calls.ended(self._path, call.method) from error

    def _read(self, what: str, deadline: float | None) -> bytes:
        while (line := calls.take_line(self._input, self._path)) is None:
            piece = _receive(self._socket, deadline)
            if not piece:
                raise calls.ended(self._path, what)
            self._input += piece
        return line


def send_plain(path: str | os.PathLike[str], target_mib: int, *, deadline_s: float = DEADLINE_S) -> int:
    """Set a target with the plain protocol, which older servers speak too.

    :return: the balloon's size after clamping, in 4 KiB pages.
    :raises ControlRefusedError: the server answered ``ERR``.
    :raises ControlError: it cannot be reached, stalls, or answers something else.
    """
    name = os.fspath(path)
    deadline = time.monotonic() + deadline_s
    reply = bytearray()
    with _connect(name, deadline_s) as connection:
        try:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"%d\n" % target_mib)
            while b"\n" not in reply and len(reply) <= LINE_LIMIT:
                piece = _receive(connection, deadline)
                if not piece:
                    break
                reply += piece
        except TimeoutError:
            raise calls.stalled(name, "a plain target", deadline_s) from None
    if not reply:
        raise calls.ended(name, "a plain target")
    text = bytes(reply).partition(b"\n")[0]
    matched = _PLAIN_OK.fullmatch(text)
    if matched:
        return int(matched[1])
    shown = text.decode("ascii", "replace")
    if shown.startswith("ERR"):
        raise ControlRefusedError(shown.removeprefix("ERR").strip(), name="plain")
    raise ControlError(f"the server at {name} answered {shown[:80]!r}", hint="is it a control socket?")


async def _connect_patiently(path: str, deadline_s: float) -> socket.socket:
    """A connection, waited for while the server's queue is full."""
    deadline = time.monotonic() + deadline_s
    while (connection := _try_connect(path)) is None:
        if time.monotonic() > deadline:
            raise calls.stalled(path, "connect", deadline_s)
        await asyncio.sleep(_QUEUE_FULL_PAUSE_S)
    return connection


def _connect(path: str, deadline_s: float) -> socket.socket:
    calls.check_path(path)
    deadline = time.monotonic() + deadline_s
    while (connection := _try_connect(path)) is None:
        if time.monotonic() > deadline:
            raise calls.stalled(path, "connect", deadline_s)
        time.sleep(_QUEUE_FULL_PAUSE_S)
    connection.settimeout(deadline_s)
    return connection


def _try_connect(path: str) -> socket.socket | None:
    """A connection that does not block, or ``None`` while the server's queue is full: try again then."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:  # too many open files
        raise calls.connect_error(path, error) from error
    keep_from_children(connection)
    try:
        connection.connect(path)
    except BlockingIOError:
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise calls.connect_error(path, error) from error
    return connection


def _receive(connection: socket.socket, deadline: float | None) -> bytes:
    """:raises TimeoutError: nothing came before the deadline (a time of the monotonic clock)."""
    if deadline is None:
        connection.settimeout(None)
    else:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
    try:
        return connection.recv(LINE_LIMIT)
    except ConnectionError:
        return b""
