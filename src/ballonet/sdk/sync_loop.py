"""The event loop behind :mod:`ballonet.sync`: in a daemon thread, one a process, a new one in each forked child."""

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

#: How long an interrupted call may take to undo what it has begun (seconds); a second Ctrl-C does not wait.
_UNDO_S = 10.0
#: How long what is under way may take to end with the program (seconds).
_END_S = 2.0


class Loop:
    """Started when first used; calls may come from any thread but its own."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def end(self) -> None:
        """At the program's end: end what is under way, so that nothing of it is destroyed half-way with a warning.
        Owned sandboxes then end because their program has."""
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
        """In a forked child: the loop's thread does not exist here, and its lock may have been held by another."""
        never_destroy(self._loop, self._thread)
        self._begin()

    def run(
        self, work: Coroutine[Any, Any, _T], undo: Callable[[_T], Coroutine[Any, Any, object]] | None = None
    ) -> _T:
        """Do ``work`` in the loop, and wait for it. A call that is interrupted (Ctrl-C) is undone there first.

        :param undo: undoes what was done just before the interruption, so that nobody can hold it.
        :raises EventLoopError: it was called in the loop's own thread, or when the interpreter is ending.
        """
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        done: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(self._tell(work, done))))
        try:
            return done.result()
        except BaseException:
            if not done.done():
                # A turn later: a task that is cancelled before its first step would not even tell us of its end.
                loop.call_soon_threadsafe(loop.call_soon, lambda: [task.cancel() for task in tasks])
                with contextlib.suppress(Exception, concurrent.futures.CancelledError):
                    done.result(_UNDO_S)
            if undo is not None and done.done() and done.exception() is None:
                with contextlib.suppress(Exception):
                    self.run(undo(done.result()))
            raise

    def call(self, get: Callable[[], _T]) -> _T:
        """Something synchronous, done in the loop's thread like all else."""

        async def work() -> _T:
            return get()

        return self.run(work())

    def forget(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` in the loop without waiting, if there is one: for destructors, which may run anywhere."""
        loop = self._loop
        if loop is None or self._ended or sys.is_finalizing():
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, loop)

    async def _tell(self, work: Coroutine[Any, Any, _T], done: concurrent.futures.Future[_T]) -> None:
        """Run ``work``, and tell ``done`` what came of it."""
        try:
            result = await work
        except asyncio.CancelledError:
            if (
                not self._ended
            ):  # otherwise only daemon threads still wait, and what they said now would be noise
                done.set_exception(concurrent.futures.CancelledError())
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._thread is threading.current_thread():
            raise EventLoopError(
                "a call of ballonet.sdk.sync came from its own event loop's thread, where it would wait for itself",
                hint="make it from another thread, or use ballonet.sdk.sandbox, which is made for event loops",
            )
        if self._ended or sys.is_finalizing():
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


LOOP = Loop()
atexit.register(LOOP.end)
os.register_at_fork(after_in_child=LOOP.begin_in_child)
