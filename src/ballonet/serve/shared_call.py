"""A call whose result all waiting requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_R = TypeVar("_R")


class SharedCall(Generic[_R]):
    """Makes a call for any number of requests: one at a time, and never one that began before the request came.

    Requests that come while it runs share the next one. So many clients that ask regularly cost no more than one.
    """

    def __init__(self, call: Callable[[], Awaitable[_R]]) -> None:
        self._call = call
        self._running: asyncio.Future[_R] | None = None
        self._next: asyncio.Future[_R] | None = None

    async def result(self) -> _R:
        """The result of a call that begins now, or after the one that runs."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._run(self._running))
        # Shielded: one request that is given up does not end the call of the others.
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Future[_R] | None) -> _R:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await self._call()
