"""Catches signals for as long as a command runs, with asyncio or without: each arrives as a byte in a pipe."""

from __future__ import annotations

import os
import signal
from collections.abc import Coroutine, Sequence
from types import FrameType
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

#: The signals that end a command on the host, and are forwarded to a guest's command first.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class SignalledError(Exception):
    """A signal ended what was waited for."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number


class CaughtSignals:
    """``with CaughtSignals() as signals``: the signals have no other effect during the block. Main thread only.

    Poll :meth:`fileno`, or add it to an event loop, and then call :meth:`take`.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = (*ENDING, signal.SIGWINCH)) -> None:
        self._numbers = numbers

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in self._numbers}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._woken_before)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals since the last call, in order."""
        try:
            return [signal.Signals(number) for number in os.read(self._read, 4096) if number in self._numbers]
        except BlockingIOError:
            return []

    async def unless_signalled(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do ``work``; a signal cancels it.

        :raises SignalledError: one did, and ``work`` has ended.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        caught: asyncio.Future[signal.Signals] = loop.create_future()

        def take() -> None:
            for number in self.take():
                if number in ENDING and not caught.done():
                    caught.set_result(number)

        working = asyncio.ensure_future(work)
        loop.add_reader(self._read, take)
        try:
            either: set[asyncio.Future[Any]] = {working, caught}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._read)
        if working.done():
            if caught.done():  # for whoever looks next
                os.write(self._write, bytes([caught.result()]))
            return working.result()
        working.cancel()
        await asyncio.wait({working})
        raise SignalledError(caught.result())


def _nothing(number: int, frame: FrameType | None) -> None:
    """Python writes to the pipe only for signals that have a handler."""
