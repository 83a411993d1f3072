"""The frames between a client and a code session (``docs/agent.md``). Pure."""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Iterator
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError
from ballonet.base.text import printable

#: ``offset`` of :func:`attach`: what comes from now on.
NOW = (1 << 64) - 1
#: The largest request (bytes), as in ``code_serve.c``.
MAX_REQUEST_BYTES = 16 << 20
#: The longest frame of a session, and the longest line of a kernel (bytes). A guest that sends more is not believed.
_MAX_FRAME_BYTES = 1 << 20
_MAX_LINE_BYTES = 64 << 20

_HEAD = struct.Struct("<cI")
_HELLO = struct.Struct("<QQIBII")
_STATUS = struct.Struct("<II")
_BUSY, _ALIVE, _LOST, _TAKEN = 1, 2, 4, 8


def _frame(kind: bytes, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def attach(offset: int) -> bytes:
    """The first frame: continue the stream at ``offset``."""
    return _frame(b"A", struct.pack("<Q", offset))


def request(line: bytes) -> bytes:
    """Run code; ``line`` is what the kernel reads."""
    return _frame(b"R", line)


INTERRUPT = _frame(b"I")
RESTART = _frame(b"X")
CLOSE = _frame(b"Q")


def end_of(kind: int, number: int) -> str:
    """How a process ended, in words."""
    if kind == 0:
        return f"ended with exit status {number}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was killed by {name}"


@dataclass(frozen=True)
class Hello:
    """What a session says of itself to a client.

    :param start: the offset of the first byte that follows.
    :param lost: the requested offset is no longer kept.
    :param taken: another client is connected; nothing follows.
    :param end: how the kernel has ended, in words, if it is not alive.
    """

    id: int
    start: int
    pid: int
    busy: bool
    alive: bool
    lost: bool
    taken: bool
    end: str
    language: str


@dataclass(frozen=True)
class Piece:
    """A frame of the stream. ``kind``: ``stdout``, ``stderr``, ``words`` (of the kernel), ``begun``, ``died``,
    ``started``."""

    kind: str
    data: bytes = b""


_KINDS = {b"O": "stdout", b"E": "stderr", b"M": "words", b"B": "begun", b"D": "died", b"S": "started"}


class Decoder:
    """Takes bytes of a session, and gives what they say. Counts the offset of the stream."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.offset = 0
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[Piece]:
        """:raises GuestChannelError: the guest broke the protocol."""
        self._unread += data
        while len(self._unread) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._unread)
            if size > _MAX_FRAME_BYTES:
                raise GuestChannelError(f"the code session sent a frame of {size} bytes")
            if len(self._unread) < _HEAD.size + size:
                return
            payload = bytes(self._unread[_HEAD.size : _HEAD.size + size])
            del self._unread[: _HEAD.size + size]
            if self.hello is None:
                self.hello = _hello(kind, payload)
                self.offset = self.hello.start
                continue
            if kind not in _KINDS or (kind == b"D" and size != _STATUS.size):
                raise GuestChannelError(f"the code session sent a frame of the unknown type {kind!r}")
            self.offset += _HEAD.size + size
            yield Piece(_KINDS[kind], payload)


def _hello(kind: bytes, payload: bytes) -> Hello:
    if kind != b"H" or len(payload) < _HELLO.size:
        raise GuestChannelError(f"the code session began with a frame of type {kind!r}")
    id, start, pid, flags, how, number = _HELLO.unpack_from(payload)
    return Hello(
        id=id,
        start=start,
        pid=pid,
        busy=bool(flags & _BUSY),
        alive=bool(flags & _ALIVE),
        lost=bool(flags & _LOST),
        taken=bool(flags & _TAKEN),
        end=end_of(how, number),
        language=printable(payload[_HELLO.size :].decode(errors="replace")),
    )


def died(piece: Piece) -> str:
    """How the kernel ended, in words."""
    return end_of(*_STATUS.unpack(piece.data))


class Lines:
    """What a kernel says, line by line: a word of one character, and the rest."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """:raises GuestChannelError: a line is too long."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole, self._unread = bytes(self._unread) + line, bytearray()
            yield whole[:1].decode(errors="replace"), whole[2:]
        self._unread += rest
        if len(self._unread) > _MAX_LINE_BYTES:
            raise GuestChannelError(f"a result of the code session is longer than {_MAX_LINE_BYTES} bytes")


def from_json(text: bytes) -> dict[str, Any]:
    """:raises GuestChannelError: it is not a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GuestChannelError(f"the code session sent invalid JSON: {error}") from None
    if not isinstance(found, dict):
        raise GuestChannelError("the code session sent JSON that is not an object")
    return found
