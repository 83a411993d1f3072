"""The event loop behind :mod:`ballonet.sync`: one for each process, in a daemon thread. A forked child gets its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ballonet.base.errors import EventLoopError
from ballonet.base.forked import never_destroy

_T = TypeVar("_T")

#: How long an interrupted call may take to clean up (seconds). A second Ctrl-C ends this wait.
_UNDO_S = 10.0
#: How long calls in progress may take to clean up at the program's end (seconds).
_END_S = 2.0


class Loop:
    """An event loop in its own thread, started when first used. Calls may come from any other thread."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def end(self) -> None:
        """Cancel all calls in progress at the program's end: asyncio warns of tasks that are destroyed while pending.
        Owned sandboxes then end together with the program."""
        with self._lock:
            loop, thread, self._ended = self._loop, self._thread, True
        if loop is None or thread is None:
            return

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=_END_S) if others else None
            loop.stop()

        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(cancel_all(), loop)
        thread.join(2 * _END_S)

    def begin_in_child(self) -> None:
        """Start anew in a forked child, which has no copy of the loop's thread and perhaps a lock that is held."""
        never_destroy(self._loop, self._thread)
        self._begin()

    def run(
        self, work: Coroutine[Any, Any, _T], undo: Callable[[_T], Coroutine[Any, Any, object]] | None = None
    ) -> _T:
        """Run ``work`` in the loop and return its result. If interrupted (Ctrl-C), cancel it and wait for its cleanup.

        :param undo: called with the result if the interruption came after ``work`` had finished: no caller has it.
        :raises EventLoopError: called in the loop's own thread, or while the interpreter is shutting down.
        """
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []
        loop: asyncio.AbstractEventLoop | None = None

        def begin() -> None:
            tasks.append(asyncio.create_task(self._tell(work, done)))

        def cancel() -> None:
            if not tasks:  # interrupted before the loop got it
                work.close()
                done.set_exception(concurrent.futures.CancelledError())
            for task in tasks:
                task.cancel()

        try:
            loop = self._started()
            loop.call_soon_threadsafe(begin)
            return done.result()
        except BaseException:
            if loop is None:
                work.close()
            elif not done.done():
                # One iteration later: a task that is cancelled before its first step never sets ``done``.
                loop.call_soon_threadsafe(loop.call_soon, cancel)
                with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                    done.result(_UNDO_S)
            if undo is not None and done.done() and done.exception() is None:
                with contextlib.suppress(Exception):
                    self.run(undo(done.result()))
            raise

    def call(self, get: Callable[[], _T]) -> _T:
        """Call a plain function in the loop's thread."""

        async def work() -> _T:
            return get()

        return self.run(work())

    def forget(self, work: Coroutine[Any, Any, object]) -> None:
        """Run ``work`` in the loop, if there is one, without waiting: for destructors, which may run in any thread."""
        loop = self._loop
        if loop is None or self._ended or sys.is_finalizing():
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, loop)

    async def _tell(self, work: Coroutine[Any, Any, _T], done: concurrent.futures.Future[_T]) -> None:
        """Run ``work`` and put its result, or its exception, into ``done``."""
        try:
            result = await work
        except asyncio.CancelledError:
            # At the program's end only daemon threads still wait: their tracebacks would be noise.
            if not self._ended:
                done.set_exception(concurrent.futures.CancelledError())
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._thread is threading.current_thread():
            raise EventLoopError(
                "ballonet.sync was called from its own event loop's thread, where the call would wait for itself",
                hint="call from another thread, or use the asyncio version: from ballonet import AsyncSandbox",
            )
        if self._ended or sys.is_finalizing():
            raise EventLoopError("the Python interpreter is shutting down: sandboxes cannot be used any more")
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=loop.run_forever, name="ballonet", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop


LOOP = Loop()
atexit.register(LOOP.end)
os.register_at_fork(after_in_child=LOOP.begin_in_child)
