"""The event loop behind :mod:`ballonet.sync`: in a daemon thread, one a process, a new one in each forked child."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ballonet.errors import EventLoopError
from ballonet.forked import never_destroy

_T = TypeVar("_T")

#: How long an interrupted call may take to undo what it has begun (seconds); a second Ctrl-C does not wait.
_UNDO_S = 10.0


class Loop:
    """Started when first used; calls may come from any thread but its own."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def begin_in_child(self) -> None:
        """In a forked child: the loop's thread does not exist here, and its lock may have been held by another."""
        never_destroy(self._loop, self._thread)
        self._begin()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do ``work`` in the loop, and wait for it. A call that is interrupted (Ctrl-C) is undone there first.

        :raises EventLoopError: it was called in the loop's own thread, or when the interpreter is ending.
        """
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(_tell(work, done))))
        try:
            return done.result()
        except BaseException:
            if not done.done():
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                    done.result(_UNDO_S)
            raise

    def call(self, get: Callable[[], _T]) -> _T:
        """Something synchronous, done in the loop's thread like all else."""

        async def work() -> _T:
            return get()

        return self.run(work())

    def forget(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` in the loop without waiting, if there is one: for destructors, which may run anywhere."""
        loop = self._loop
        if loop is None or sys.is_finalizing():
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, loop)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._thread is threading.current_thread():
            raise EventLoopError(
                "a call of ballonet.sync came from its own event loop's thread, where it would wait for itself",
                hint="make it from another thread, or use ballonet.sandbox, which is made for event loops",
            )
        if sys.is_finalizing():
            raise EventLoopError(
                "the Python interpreter is ending: nothing can be asked of a sandbox any more"
            )
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="ballonet", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop


async def _tell(work: Coroutine[Any, Any, _T], done: concurrent.futures.Future[_T]) -> None:
    """Run ``work``, and tell ``done`` what came of it."""
    try:
        result = await work
    except asyncio.CancelledError:
        done.set_exception(concurrent.futures.CancelledError())
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(result)


LOOP = Loop()
os.register_at_fork(after_in_child=LOOP.begin_in_child)
