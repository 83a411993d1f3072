"""What the host knows about a process in the guest: its start, its end, and its unread output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ballonet.base.errors import EventLoopError, GuestChannelError, GuestError
from ballonet.guest import messages
from ballonet.guest.frames import Frame, FrameType


class ProcessState:
    """The state of one process. The channel refers to this and not to the :class:`GuestProcess`, so that dropping the
    last reference to that one is noticed."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exit: messages.ExitStatus | None = None
        self.failure: messages.StartFailure | None = None
        self.lost: GuestChannelError | None = None
        #: Makes the error that every wait raises once the process was killed at its timeout.
        self.given_up: Callable[[], GuestError] | None = None
        self.loop = asyncio.get_running_loop()
        self.buffers = {FrameType.STDOUT: bytearray(), FrameType.STDERR: bytearray()}
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def over(self) -> bool:
        """Whether no more frames will come."""
        return self.exit is not None or self.failure is not None or self.lost is not None

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame (see :class:`~ballonet.guest.channel_stream.StreamOwner`)."""
        match frame.kind:
            case FrameType.STDOUT | FrameType.STDERR:
                self.buffers[frame.kind] += frame.payload
            case FrameType.STARTED:
                self.pid = messages.decode_number(frame)
            case FrameType.EXIT:
                self.exit = messages.decode_exit(frame)
            case FrameType.ERROR:
                self.failure = messages.decode_error(frame)
        self._wake()

    def on_lost(self, error: GuestChannelError) -> None:
        """Record why no more frames will come."""
        self.lost = error
        self._wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds. It is checked after each change.

        :raises EventLoopError: called in another event loop than the channel's, where the wait would never end.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise EventLoopError(
                "the command belongs to another event loop, perhaps that of the process that this one was forked from",
                hint="start commands in the loop in which they are used",
            )
        while not condition():
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def check_alive(self) -> None:
        """:raises GuestChannelError: the channel ended before the process did.
        :raises GuestError: the process was killed at its timeout.
        """
        if self.given_up is not None:
            raise self.given_up()
        if self.lost is not None:
            raise type(self.lost)(self.lost.message, hint=self.lost.hint)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
