"""The blocking connection of a client to a control socket, without asyncio, and the plain protocol: :func:`send_plain`.

:class:`~ballonet.control.sync_client.SyncClient` adds the calls.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from types import TracebackType
from typing import Self, TypeVar, cast

from ballonet.base.errors import ControlError, ControlRefusedError
from ballonet.base.forked import keep_from_children
from ballonet.control import calls
from ballonet.control.backend import BalloonSnapshot
from ballonet.control.calls import Call
from ballonet.control.protocol import LINE_LIMIT

#: How long a server may take to answer (seconds), in addition to the time that the call itself may take.
DEADLINE_S = 10.0

#: Seconds between attempts to connect while the server's queue is full.
QUEUE_FULL_PAUSE_S = 0.01

#: A connection that was idle for this long (seconds) is replaced before its next call. A server closes a new connection
#: that sends nothing for five seconds, and in the end every idle one.
IDLE_S = 3.0

_PLAIN_OK = re.compile(rb"OK ([0-9]{1,15})\r?\n?")

_R = TypeVar("_R")


class BlockingConnection:
    """A connection that sends a call and waits for its answer."""

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

    def _another(self) -> Self:
        """A new connection to the same server."""
        return type(self)(self._path, deadline_s=self._deadline_s)

    def _call(self, method: str, result: type[_R], params: object = None, extra_s: float = 0.0) -> _R:
        """Call ``method``, whose result is a ``result``; it may take ``extra_s`` seconds longer than others."""
        call = calls.make_call(method, params)
        deadline_s = self._deadline_s + extra_s
        deadline = time.monotonic() + deadline_s
        if time.monotonic() - self._last_used > IDLE_S and not self._closed:
            self._socket.close()
            self._socket = _connect(self._path, self._deadline_s)
            self._input.clear()
        try:
            self._socket.settimeout(deadline_s)
            return cast(_R, self._exchange(call, deadline))
        except TimeoutError:
            self.close()
            raise calls.stalled(self._path, call.method, deadline_s) from None
        except OSError as error:
            raise calls.ended(self._path, call.method) from error

    def _exchange(self, call: Call, deadline: float) -> object:
        with contextlib.suppress(
            ConnectionError
        ):  # a server that refuses closes at once; its reason is read below
            self._socket.sendall(call.line)
        while True:
            message = calls.read_line(self._read(call.method, deadline), self._path)
            result = calls.result_of(call, message)
            if result is not None:
                self._last_used = time.monotonic()
                return result

    def _change(self) -> BalloonSnapshot:
        """Wait for the next change of the balloon."""
        while True:
            line = self._read("a change", None)
            if (snapshot := calls.change_of(calls.read_line(line, self._path))) is not None:
                return snapshot

    def _read(self, what: str, deadline: float | None) -> bytes:
        while (line := calls.take_line(self._input, self._path)) is None:
            piece = _receive(self._socket, deadline)
            if not piece:
                raise calls.ended(self._path, what)
            self._input += piece
        return line


def send_plain(path: str | os.PathLike[str], target_mib: int, *, deadline_s: float = DEADLINE_S) -> int:
    """Set a target with the plain protocol, which older servers support, too.

    :return: the balloon's size after clamping, in 4 KiB pages.
    :raises ControlRefusedError: the server answered ``ERR``.
    :raises ControlError: the server cannot be reached, does not answer in time, or answers something else.
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


def try_connect(path: str) -> socket.socket | None:
    """A non-blocking connection; ``None`` while the server's queue is full: try again later."""
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


def _connect(path: str, deadline_s: float) -> socket.socket:
    calls.check_path(path)
    deadline = time.monotonic() + deadline_s
    while (connection := try_connect(path)) is None:
        if time.monotonic() > deadline:
            raise calls.stalled(path, "connect", deadline_s)
        time.sleep(QUEUE_FULL_PAUSE_S)
    connection.settimeout(deadline_s)
    return connection


def _receive(connection: socket.socket, deadline: float | None) -> bytes:
    """:raises TimeoutError: nothing arrived before the deadline (a time of the monotonic clock)."""
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
