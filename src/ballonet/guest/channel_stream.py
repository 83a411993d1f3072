"""One process's stream on the channel to a guest's agent: what each side may send now.

Keeps the accounts that bound memory: output that was not consumed, and standard input that was not granted.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Protocol

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError
from ballonet.guest import messages
from ballonet.guest.frames import WINDOW_BYTES, Frame, FrameType

log = logging.getLogger(__name__)

#: Consumed output is acknowledged in steps of this size: 16 bytes of credit per 64 KiB of output.
_GRANT_STEP_BYTES = WINDOW_BYTES // 4


@dataclass(frozen=True)
class StreamAccount:
    """What a saved guest's agent knows of a stream, for the channel of a restored one. It has no standard input and
    no terminal."""

    number: int
    #: Process ID in the guest.
    pid: int
    #: Bytes of output that were received, and that the agent does not know to be consumed.
    outstanding: int


class StreamOwner(Protocol):
    """Receives the frames of a stream. Called from the channel's reader: must neither block nor raise."""

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame, which is valid in the stream's state. The last one is EXIT or ERROR."""

    def on_lost(self, error: GuestChannelError) -> None:
        """The channel has ended, and no more frames will come."""


class FrameSender(Protocol):
    """The part of a channel that the accounts of a stream need."""

    lost: GuestChannelError | None

    def send_now(self, frame: Frame) -> None:
        """Send a small frame without waiting."""


class WaitingSender(FrameSender, Protocol):
    """The part of the channel that a :class:`ChannelStream` needs."""

    async def send(self, frame: Frame, before: Callable[[], bool] | None = None) -> None:
        """Send a frame after those that wait."""

    def held_credit(self, number: int) -> int:
        """Bytes of credit for a stream that wait because the guest is suspended."""


class ProcessStream:
    """The stream of one process.

    Methods that send raise :class:`GuestChannelError` if the channel has ended, or if the protocol does not allow
    the request (nothing is sent then, and the channel stays usable). After the end of the process they do nothing.
    """

    def __init__(
        self, channel: FrameSender, number: int, shape: messages.ExecShape, owner: StreamOwner
    ) -> None:
        self.number = number
        self.ended = False
        #: Bytes of standard input that may be sent now.
        self.stdin_room = WINDOW_BYTES
        #: Whether the process was started with standard input.
        self.has_stdin = shape.stdin
        self._channel = channel
        self._shape = shape
        self._owner: StreamOwner | None = owner
        self._started = False
        self._stdin_open = shape.stdin
        self._unread = 0  # output passed to the owner and not consumed yet
        self._ungranted = 0  # consumed, but not acknowledged to the guest yet

    def send_stdin_now(self, data: bytes) -> None:
        """Send up to ``stdin_room`` bytes of standard input without waiting."""
        self._check_stdin(len(data))
        if self._spend(len(data)):
            self._channel.send_now(Frame(FrameType.STDIN, self.number, data))

    def end_stdin_now(self) -> None:
        """End standard input, after what was sent before, without waiting."""
        self._check_stdin(0)
        if self._close_stdin():
            self._channel.send_now(Frame(FrameType.STDIN_EOF, self.number))

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group (SIGKILL: to everything that the process started)."""
        if not 1 <= number <= 64:
            raise GuestChannelError(f"signal {number} is not between 1 and 64")
        if not self.ended:
            self._channel.send_now(Frame(FrameType.SIGNAL, self.number, messages.encode_number(number)))

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal."""
        if not self._shape.tty:
            raise GuestChannelError("the process has no terminal to resize")
        if not self.ended:
            payload = messages.encode_resize(rows, columns)
            self._channel.send_now(Frame(FrameType.RESIZE, self.number, payload))

    def consumed(self, size: int) -> None:
        """The owner has consumed ``size`` bytes of output: the process may write that many more."""
        if not 0 < size <= self._unread:
            raise GuestChannelError(f"credit for {size} bytes, but only {self._unread} wait to be consumed")
        self._unread -= size
        self._ungranted += size
        self.grant()

    def grant(self) -> None:
        """Acknowledge what was consumed, once it is worth a frame."""
        if self._ungranted >= _GRANT_STEP_BYTES and not self.ended and self._channel.lost is None:
            payload = messages.encode_number(self._ungranted)
            self._ungranted = 0
            self._channel.send_now(Frame(FrameType.CREDIT, self.number, payload))

    def abandon(self) -> None:
        """Kill the process and everything that it started, and drop its output. The stream number stays in use until
        the guest sends EXIT."""
        self._owner = None
        if self.ended or self._channel.lost is not None:
            return
        log.debug("stream %d is abandoned: killing its process", self.number)
        try:
            self.send_signal(signal.SIGKILL)
            if self._unread:
                self.consumed(self._unread)
        except GuestChannelError as error:
            # Sending ended the channel, and with it the guest's processes.
            log.debug("stream %d: %s", self.number, error)

    def feed(self, frame: Frame) -> None:
        """Handle a frame from the guest (called by the channel).

        :raises GuestChannelError: the frame is not valid in this state.
        """
        kind = frame.kind
        if kind in (FrameType.STDOUT, FrameType.STDERR):
            self._account_output(frame)
        elif kind == FrameType.STDIN_CREDIT:
            self._account_stdin(messages.decode_number(frame))
        elif kind == FrameType.STARTED and not self._started:
            messages.decode_number(frame)
            self._started = True
        elif kind == FrameType.EXIT and self._started:
            messages.decode_exit(frame)
            self.ended = True
        elif kind == FrameType.ERROR and not self._started:
            messages.decode_error(frame)
            self.ended = True
        else:
            raise GuestChannelError(f"unexpected {kind.name} frame on stream {self.number}")
        if self._owner is not None:
            self._owner.on_frame(frame)
        elif self._unread:
            self.consumed(self._unread)

    def lose(self, error: GuestChannelError) -> None:
        """The channel has ended (called by the channel)."""
        self.ended = True
        if self._owner is not None:
            self._owner.on_lost(error)

    def _account_output(self, frame: Frame) -> None:
        size = len(frame.payload)
        is_open = self._started and size > 0 and not (self._shape.tty and frame.kind == FrameType.STDERR)
        if not is_open:
            raise GuestChannelError(
                f"unexpected {frame.kind.name} frame of {size} bytes on stream {self.number}"
            )
        if self._unread + self._ungranted + size > WINDOW_BYTES:
            raise GuestChannelError(
                f"{frame.kind.name} frame of {size} bytes exceeds the credit of stream {self.number}"
            )
        self._unread += size

    def _account_stdin(self, granted: int) -> None:
        if granted == 0 or self.stdin_room + granted > WINDOW_BYTES or not self._shape.stdin:
            raise GuestChannelError(
                f"stream {self.number} grants {granted} bytes of standard input that were not sent"
            )
        self.stdin_room += granted

    def _check_stdin(self, size: int) -> None:
        if not self._stdin_open:
            raise GuestChannelError("the process's standard input is not open")
        if not self.ended and size > self.stdin_room:
            raise GuestChannelError(
                f"cannot send {size} bytes of standard input: only {self.stdin_room} are granted"
            )

    def _spend(self, size: int) -> bool:
        self.stdin_room -= size
        return not self.ended

    def _close_stdin(self) -> bool:
        self._stdin_open = False
        return not self.ended


class ChannelStream(ProcessStream):
    """A stream whose standard input waits until the guest has taken most of what was sent before, for asyncio."""

    def __init__(
        self, channel: WaitingSender, number: int, shape: messages.ExecShape, owner: StreamOwner
    ) -> None:
        super().__init__(channel, number, shape, owner)
        self._sender = channel

    async def send_stdin(self, data: bytes) -> None:
        """Send up to ``stdin_room`` bytes of standard input. Waits while the guest is slow to read."""
        self._check_stdin(len(data))
        await self._sender.send(Frame(FrameType.STDIN, self.number, data), lambda: self._spend(len(data)))

    async def end_stdin(self) -> None:
        """End standard input, after what was sent before."""
        self._check_stdin(0)
        await self._sender.send(Frame(FrameType.STDIN_EOF, self.number), self._close_stdin)

    def account(self, pid: int) -> StreamAccount:
        """The account of this stream, for a restored copy of the suspended guest."""
        unknown = self._unread + self._ungranted + self._sender.held_credit(self.number)
        return StreamAccount(self.number, pid, unknown)

    def restore(self, account: StreamAccount) -> None:
        """Take over the accounts of the stream in a restored guest: what was received is consumed."""
        self._started = True
        self._ungranted = account.outstanding
