"""The agent protocol's frames and limits. Pure: bytes in, frames out; what frames say is in ``messages.py``.

Defined here once for the guest's channel and for the local clients of a sandbox's process, which speak the same
frames. ``docs/agent.md`` is the reference in prose; ``agent/agent.h`` has the same numbers. What arrives is
hostile until proven otherwise: whatever cannot be right raises :class:`GuestChannelError`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from ballonet.base.errors import GuestChannelError

PROTOCOL_VERSION = 2
#: u32 payload length, u16 type, u16 flags (zero), u32 stream; little-endian like everything here.
HEADER = struct.Struct("<IHHI")
MAX_TO_GUEST_BYTES = 256 << 10
MAX_TO_HOST_BYTES = 64 << 10
#: Bytes that may be under way without credit: a process's output, and likewise its standard input.
WINDOW_BYTES = 256 << 10
#: Processes at once on one channel.
MAX_PROCESSES = 1024
#: An EXEC in all its frames: what Linux takes as arguments and environment (fs/exec.c: a quarter of the default stack),
#: and the rest.
MAX_EXEC_BYTES = (2 << 20) + (64 << 10)
MAX_PING_BYTES = 1024
MAX_STREAM = 0xFFFF_FFFF


class FrameType(enum.IntEnum):
    """What a frame says. Below 0x80: from host to guest; from 0x80: from guest to host."""

    EXEC = 0x01
    STDIN = 0x02
    STDIN_EOF = 0x03
    SIGNAL = 0x04
    RESIZE = 0x05
    CREDIT = 0x06
    SHUTDOWN = 0x07
    PING = 0x08
    STATS_REQ = 0x09
    WATCH_PRESSURE = 0x0A
    TRIM = 0x0B
    SETUP = 0x0C
    EXEC_PART = 0x0D
    READY = 0x81
    STARTED = 0x82
    STDOUT = 0x83
    STDERR = 0x84
    EXIT = 0x85
    ERROR = 0x86
    STDIN_CREDIT = 0x87
    PONG = 0x88
    STATS = 0x89
    PRESSURE = 0x8A
    TRIM_DONE = 0x8B
    WATCHING = 0x8C
    SETUP_DONE = 0x8D


#: What the guest may send, and what a local client may send.
FROM_GUEST = frozenset(kind for kind in FrameType if kind >= 0x80)
FROM_HOST = frozenset(kind for kind in FrameType if kind < 0x80)
FROM_LOCAL_CLIENT = frozenset(
    {
        FrameType.EXEC,
        FrameType.EXEC_PART,
        FrameType.STDIN,
        FrameType.STDIN_EOF,
        FrameType.SIGNAL,
        FrameType.RESIZE,
        FrameType.CREDIT,
        FrameType.PING,
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``stream`` 0 is the connection itself."""

    kind: FrameType
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame as bytes for the wire."""
        return HEADER.pack(len(self.payload), self.kind, 0, self.stream) + self.payload


class FrameDecoder:
    """Cuts a byte stream into frames, whatever the pieces it arrives in.

    Holds at most one frame that is not complete yet. After an error it must not be fed again.

    :param allowed: the types that this side may send.
    :param max_payload: the longest payload that it may send, in bytes.
    """

    def __init__(
        self, allowed: frozenset[FrameType] = FROM_GUEST, max_payload: int = MAX_TO_HOST_BYTES
    ) -> None:
        self._allowed = {int(kind): kind for kind in allowed}
        self._max_payload = max_payload
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take some bytes and return the frames that are complete now.

        :raises GuestChannelError: unknown type, flags that are not zero, or too long a payload. It is raised
            as soon as the header is there; frames before it in ``data`` are lost with the channel.
        """
        self._rest += data
        frames: list[Frame] = []
        start = 0
        with memoryview(self._rest) as view:
            while len(view) - start >= HEADER.size:
                size, number, flags, stream = HEADER.unpack_from(view, start)
                kind = self._check(size, number, flags)
                end = start + HEADER.size + size
                if end > len(view):
                    break
                frames.append(Frame(kind, stream, bytes(view[start + HEADER.size : end])))
                start = end
        del self._rest[:start]
        return frames

    def finish(self) -> None:
        """The stream has ended.

        :raises GuestChannelError: in the middle of a frame.
        """
        if self._rest:
            raise GuestChannelError(
                f"the channel ended in the middle of a frame ({len(self._rest)} bytes of it)"
            )

    def _check(self, size: int, number: int, flags: int) -> FrameType:
        kind = self._allowed.get(number)
        if kind is None:
            raise GuestChannelError(f"frame of unknown type 0x{number:02x}")
        if flags != 0:
            raise GuestChannelError(f"{kind.name} frame with flags 0x{flags:04x} instead of 0")
        if size > self._max_payload:
            raise GuestChannelError(
                f"{kind.name} frame of {size} bytes; at most {self._max_payload} are allowed"
            )
        return kind
