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

from ballonet.forked import never_destroy


class Connection(Protocol):
    """What is held: it can be closed."""

    async def close(self) -> None: ...


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
        self._begin()
        for loop, slot in slots.items():
            if slot.connection is None:
                continue
            if loop is here:
                await slot.connection.close()
            elif loop.is_running():
                with contextlib.suppress(RuntimeError):  # it has ended just now
                    asyncio.run_coroutine_threadsafe(_close(slot.connection), loop)


async def _close(connection: Connection) -> None:
    await connection.close()
