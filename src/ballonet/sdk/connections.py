"""Connections that an object of the SDK holds: one for each event loop that asks, made when first used.

A connection belongs to the loop that made it: in another it would wait for ever. None is shared with a forked child,
where this begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from ballonet.base.forked import never_destroy


class Connection(Protocol):
    """What is held: it can be closed."""

    async def close(self) -> None: ...

    def drop(self) -> None:
        """Close it once nothing that it has begun is under way. Called in its own loop."""


_C = TypeVar("_C", bound=Connection)


class _Slot(Generic[_C]):
    def __init__(self) -> None:
        self.connecting = asyncio.Lock()
        self.connection: _C | None = None


class PerLoop(Generic[_C]):
    """:param connect: makes a connection in the running loop. :param lost: whether one has ended."""

    def __init__(self, connect: Callable[[], Awaitable[_C]], lost: Callable[[_C], bool]) -> None:
        self._connect = connect
        self._lost = lost
        self._begin()

    def _begin(self) -> None:
        self._program = os.getpid()
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot[_C]] = (
            weakref.WeakKeyDictionary()
        )
        # The object may be dropped without having been closed, as in Sandbox.get(…).exec(…).
        weakref.finalize(self, _drop, self._program, self._slots).atexit = False

    def _here(self) -> None:
        if self._program != os.getpid():
            never_destroy(*self._slots, *self._slots.values())
            self._begin()

    async def get(self) -> _C:
        """The running loop's connection; a new one if there is none, or it has ended."""
        self._here()
        slot = self._slots.setdefault(asyncio.get_running_loop(), _Slot())
        async with slot.connecting:
            if slot.connection is None or self._lost(slot.connection):
                slot.connection = await self._connect()
            return slot.connection

    async def close(self) -> None:
        """Close all, those of other loops too as far as these still run."""
        self._here()
        here = asyncio.get_running_loop()
        slots = dict(self._slots)
        self._slots.clear()
        for loop, slot in slots.items():
            if slot.connection is None:
                continue
            if loop is here:
                await slot.connection.close()
            elif loop.is_running():
                with contextlib.suppress(RuntimeError):  # it has ended just now
                    asyncio.run_coroutine_threadsafe(_close(slot.connection), loop)


def _drop(program: int, slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot[_C]]) -> None:
    """Let go of what a dropped object held. Python may call this in any thread, and in a forked child."""
    if program != os.getpid():
        never_destroy(*slots, *slots.values())
        return
    for loop, slot in list(slots.items()):
        if slot.connection is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has ended just now
                loop.call_soon_threadsafe(slot.connection.drop)


async def _close(connection: Connection) -> None:
    await connection.close()
