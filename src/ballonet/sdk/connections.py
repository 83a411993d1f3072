"""Connections of an SDK object: one for each event loop that uses it, opened when first used.

A connection works only in the loop that opened it. It is not shared with forked children, which open their own.
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
    """What :class:`PerLoop` holds."""

    async def close(self) -> None: ...

    def drop(self) -> None:
        """Close it as soon as nothing on it is in progress. Called in its own loop."""


_C = TypeVar("_C", bound=Connection)


class _Slot(Generic[_C]):
    def __init__(self) -> None:
        self.connecting = asyncio.Lock()
        self.connection: _C | None = None


class PerLoop(Generic[_C]):
    """:param connect: opens a connection in the running loop. :param lost: whether a connection has ended."""

    def __init__(self, connect: Callable[[], Awaitable[_C]], lost: Callable[[_C], bool]) -> None:
        self._connect = connect
        self._lost = lost
        self._begin()

    def _begin(self) -> None:
        self._program = os.getpid()
        self._slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot[_C]] = (
            weakref.WeakKeyDictionary()
        )
        # An object may be dropped without close(), as in Sandbox.get(…).exec(…).
        weakref.finalize(self, _drop, self._program, self._slots).atexit = False

    def _here(self) -> None:
        if self._program != os.getpid():
            never_destroy(*self._slots, *self._slots.values())
            self._begin()

    async def get(self) -> _C:
        """The running loop's connection. A new one is opened if there is none, or if it has ended."""
        self._here()
        slot = self._slots.setdefault(asyncio.get_running_loop(), _Slot())
        async with slot.connecting:
            if slot.connection is None or self._lost(slot.connection):
                slot.connection = await self._connect()
            return slot.connection

    def is_open(self) -> bool:
        """Whether the running loop has a connection that has not ended."""
        slot = None if self._program != os.getpid() else self._slots.get(asyncio.get_running_loop())
        return slot is not None and slot.connection is not None and not self._lost(slot.connection)

    async def close(self) -> None:
        """Close the connections of all loops that still run."""
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
                with contextlib.suppress(RuntimeError):  # the loop has just ended
                    asyncio.run_coroutine_threadsafe(_close(slot.connection), loop)


def _drop(program: int, slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot[_C]]) -> None:
    """Close the connections of an object that was garbage-collected: in any thread, perhaps in a forked child."""
    if program != os.getpid():
        never_destroy(*slots, *slots.values())
        return
    for loop, slot in list(slots.items()):
        if slot.connection is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(slot.connection.drop)


async def _close(connection: Connection) -> None:
    await connection.close()
