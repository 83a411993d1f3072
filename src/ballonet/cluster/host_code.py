"""Code that runs in a code session, as a host's agent passes on what it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import cast

from ballonet.base.errors import BallonetError
from ballonet.cluster.stream_kinds import Stream
from ballonet.sdk.code_result import CodeEvent
from ballonet.sdk.code_session import CodeSession

#: How many events wait for the program; the code stops when it does not ask for them.
_WAITING = 64


class CodeRun(Stream):
    """The events of one run, a list with each read; an empty one is the end. Closing it earlier interrupts the code."""

    def __init__(self, session: str, code_session: CodeSession, code: str, timeout: float | None) -> None:
        super().__init__(session)
        self._events: asyncio.Queue[CodeEvent | BallonetError | None] = asyncio.Queue(_WAITING)
        self._task = asyncio.ensure_future(self._run(code_session, code, timeout))

    async def _run(self, code_session: CodeSession, code: str, timeout: float | None) -> None:
        try:
            events = cast("AsyncGenerator[CodeEvent]", code_session.stream(code, timeout=timeout))
            async with contextlib.aclosing(events):
                async for event in events:
                    await self._events.put(event)
        except BallonetError as error:
            await self._events.put(error)
        else:
            await self._events.put(None)

    async def read(self, output: str) -> list[CodeEvent]:
        """
        :raises BallonetError: the run did not come to an end of its own.
        """
        found: list[CodeEvent] = []
        while True:
            if found and self._events.empty():
                return found
            event = await self._events.get()
            if not isinstance(event, CodeEvent):
                if found:  # first what came before
                    self._put_back(event)
                    return found
                self._put_back(event)
                if event is None:
                    return []
                raise event
            found.append(event)

    def _put_back(self, end: BallonetError | None) -> None:
        """The end is read again and again."""
        self._events.put_nowait(end)  # it was the last one

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BallonetError):
            await self._task
