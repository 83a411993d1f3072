"""A process's state that asyncio code waits on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ballonet.base.errors import EventLoopError, GuestChannelError
from ballonet.guest.frames import Frame
from ballonet.guest.process_state import ProcessState


class AwaitedState(ProcessState):
    """The channel refers to this and not to the :class:`GuestProcess`, so that dropping the last reference to that one
    is noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[None]] = []

    def on_frame(self, frame: Frame) -> None:
        super().on_frame(frame)
        self._wake()

    def on_lost(self, error: GuestChannelError) -> None:
        super().on_lost(error)
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

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
