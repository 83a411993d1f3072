"""The frames and limits of the agent protocol, without I/O. ``messages.py`` has their payloads.

The guest's channel and the local clients of a sandbox's process use the same frames. ``docs/agent.md`` is the
reference, and ``agent/wire.h`` has the same numbers. Input is not trusted: anything invalid raises
:class:`GuestChannelError`.
"""

from __future__ import annotations

import enum
import struct

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError

PROTOCOL_VERSION = 2
#: u32 payload length, u16 type, u16 flags (zero), u32 stream. All numbers are little-endian.
HEADER = struct.Struct("<IHHI")
MAX_TO_GUEST_BYTES = 256 << 10
MAX_TO_HOST_BYTES = 64 << 10
#: Bytes of a process's output that may be sent without credit; likewise for its standard input.
WINDOW_BYTES = 256 << 10
#: Processes that may run at a time on one channel.
MAX_PROCESSES = 1024
#: An EXEC in all its frames: the arguments and environment that Linux accepts (fs/exec.c: a quarter of the default
#: stack), and the rest.
MAX_EXEC_BYTES = (2 << 20) + (64 << 10)
MAX_PING_BYTES = 1024
#: Small frames are sent without waiting for the guest to read. With this much unsent, it is not reading at all.
MAX_UNSENT_BYTES = 4 << 20
#: Random bytes in RESTORED, at least.
MIN_SEED_BYTES = 32
MAX_STREAM = 0xFFFF_FFFF


class FrameType(enum.IntEnum):
    """The type of a frame. Below 0x80: from host to guest; from 0x80: from guest to host."""

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
    RESTORED = 0x0E
    SUSPEND = 0x0F
    RESUME = 0x10
    MANAGE = 0x11
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
    SUSPENDED = 0x8E
    MANAGED = 0x8F
    PAUSED = 0x90


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
        FrameType.MANAGE,
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Stream 0 is the connection itself."""

    kind: FrameType
    stream: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame in its wire format."""
        return HEADER.pack(len(self.payload), self.kind, 0, self.stream) + self.payload


class FrameDecoder:
    """Splits a byte stream into frames.

    Holds at most one incomplete frame. Must not be used again after an error.

    :param allowed: the types that the sender may use.
    :param max_payload: the longest payload that the sender may use, in bytes.
    """

    def __init__(
        self, allowed: frozenset[FrameType] = FROM_GUEST, max_payload: int = MAX_TO_HOST_BYTES
    ) -> None:
        self._allowed = {int(kind): kind for kind in allowed}
        self._max_payload = max_payload
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes, and return the frames that are now complete.

        :raises GuestChannelError: the type is unknown, the flags are not zero, or the payload is too long. Raised as
            soon as the header is complete; frames before it in ``data`` are lost.
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

        :raises GuestChannelError: it ended in the middle of a frame.
        """
        if self._rest:
            raise GuestChannelError(
                f"the channel ended in the middle of a frame (after {len(self._rest)} bytes of it)"
            )

    def _check(self, size: int, number: int, flags: int) -> FrameType:
        kind = self._allowed.get(number)
        if kind is None:
            raise GuestChannelError(f"frame of unknown type 0x{number:02x}")
        if flags != 0:
            raise GuestChannelError(f"{kind.name} frame with flags 0x{flags:04x} instead of 0")
        if size > self._max_payload:
            raise GuestChannelError(
                f"{kind.name} frame of {size} bytes exceeds the limit of {self._max_payload}"
            )
        return kind
