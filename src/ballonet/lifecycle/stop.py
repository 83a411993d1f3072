"""Stops sandboxes, waits for their end, and removes them."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ballonet.base.dataclass import replace
from ballonet.base.errors import (
    HostError,
    RegistryError,
    SandboxError,
    StillRunningError,
    UnknownSandboxError,
)
from ballonet.base.paths import private_dir, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.liveness import living, machines
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find, forget, refresh, remove_files, with_end
from ballonet.machine.notes import EndNote, write_stop_seconds
from ballonet.machine.paused_file import discard_paused

# asyncio is imported where it is used: importing this module stays fast.

_T = TypeVar("_T")

#: Default timeout of a graceful stop before the sandbox is killed (seconds), as in Docker.
STOP_TIMEOUT_S = 10.0
#: How long a process may take to end after it was killed (seconds).
_FORCED_S = 30.0
#: How often a paused sandbox is looked at while its end is awaited (seconds).
_PAUSED_LOOK_S = 0.5


async def stop_sandbox(registry: Registry, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> Record | None:
    """Stop a sandbox gracefully, and kill it after ``timeout_s`` (0: at once; negative: never). Returns its record.

    A sandbox that is not running is not changed, except that a paused one loses its processes. ``None``: it was removed
    automatically.
    """
    record = find(registry, name)
    if record.state is State.PAUSED:
        return _discard_memory(registry, record)
    note = living(record)
    if note is None:
        return refresh(registry, record)  # it may have ended since it was found
    await end_process(note.process, state_dir_of(name), timeout_s)
    if note.engine is not None:
        # It ends with its sandbox's process, but slightly later.
        await kill(note.engine)
    return refresh(registry, record)


def _discard_memory(registry: Registry, record: Record) -> Record | None:
    """Stop a paused sandbox."""
    if record.auto_remove:
        forget(registry, record)
        return None
    detail = "it was stopped while it was paused: its processes were discarded"
    changes: dict[str, Any] = {"state": State.STOPPED, "end_reason": "stopped", "end_detail": detail}
    if not registry.update(record.name, if_run=record.run_id, **changes):
        raise StillRunningError(
            f"sandbox {record.name!r} was resumed meanwhile", hint=f"try again: ballonet stop {record.name}"
        )
    discard_paused(state_dir_of(record.name))
    return replace(record, **changes)


async def end_process(process: ProcessId, state: Path | None = None, timeout_s: float = 0) -> None:
    """Stop a sandbox's own process, and wait until it has ended.

    :param state: the sandbox's state directory, through which its process gets the timeout.
    :param timeout_s: timeout of a graceful stop (0: kill at once; negative: none).
    :raises SandboxError: the process does not end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        limit = math.inf if timeout_s < 0 else timeout_s
        if limit:
            if state is not None:
                with contextlib.suppress(HostError):  # a full disk: the default timeout applies
                    write_stop_seconds(private_dir(state), limit)
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # in case it was stopped with SIGSTOP
        # A graceful stop takes a few seconds after the command has ended.
        if not limit or not await process_ended(pidfd, limit):
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            if not await process_ended(pidfd, _FORCED_S):
                await kill(process)
    except ProcessLookupError:
        pass  # it has ended meanwhile
    finally:
        os.close(pidfd)


async def kill(process: ProcessId) -> None:
    """Kill a process and wait until it has ended. Does nothing if it has ended already.

    :raises SandboxError: the process does not end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await process_ended(pidfd, _FORCED_S):
            raise SandboxError(f"process {process.pid} cannot be killed")
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def wait_end(registry: Registry, name: str) -> Record | None:
    """Wait until a running or paused sandbox has ended; returns its record (``None``: it was removed automatically)."""
    import asyncio

    record = find(registry, name)
    while record.state.lives or record.state is State.PAUSED:
        if record.state is State.PAUSED:
            await asyncio.sleep(_PAUSED_LOOK_S)  # it may be resumed
            try:
                record = find(registry, name)
            except UnknownSandboxError:
                return None
            continue
        note = living(record)
        pidfd = None if note is None else note.process.open()
        if pidfd is None:
            await asyncio.sleep(0.1)  # it is about to start, or has just ended
        else:
            try:
                await process_ended(pidfd, None)
            finally:
                os.close(pidfd)
        end = EndNote.read(state_dir_of(name))
        now = refresh(registry, record)
        if now is None:  # removed automatically; its end note may have been read before
            return with_end(record, end) if end is not None and end.run_id == record.run_id else None
        record = now
    return record


async def remove_sandbox(registry: Registry, name: str, *, force: bool = False) -> None:
    """Remove a sandbox, its logs and its disk.

    :param force: stop it first if it is running, and remove it even if its row cannot be read.
    :raises StillRunningError: it is running, and ``force`` is false.
    """
    try:
        record: Record | None = find(registry, name)
    except RegistryError:
        if not force:
            raise
        await _remove_damaged(registry, name)
        return
    assert record is not None
    if record.state.lives:
        if not force:
            raise StillRunningError(
                f"sandbox {name!r} is {record.state}", hint=f"stop it first, or: ballonet rm --force {name}"
            )
        record = await stop_sandbox(registry, name, timeout_s=0)
    if record is not None and not forget(registry, record) and registry.find(name) is not None:
        raise StillRunningError(
            f"sandbox {name!r} was started again meanwhile", hint=f"try again: ballonet rm --force {name}"
        )


async def _remove_damaged(registry: Registry, name: str) -> None:
    """Remove a sandbox whose row cannot be read; its processes are ended first."""
    directory = state_dir_of(name)
    for machine in machines():
        if machine.options.state_dir == directory:
            await end_process(machine.process)
    registry.remove_unread(name)
    remove_files(directory)


async def discard_sandbox(registry: Registry, name: str) -> None:
    """Remove a sandbox, running or not, if it exists."""
    with contextlib.suppress(RegistryError):  # of a row that cannot be read
        record = registry.find(name)
        # Without the error of find(), which looks for similar names.
        if record is None or refresh(registry, record) is None:
            return
    with contextlib.suppress(UnknownSandboxError):
        await remove_sandbox(registry, name, force=True)


def run_blocking(work: Coroutine[Any, Any, _T]) -> _T:
    """Run :func:`stop_sandbox` or :func:`remove_sandbox` without an event loop, which takes long to load. Waiting for a
    process then blocks."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("it waits for something other than a process")


async def process_ended(pidfd: int, timeout_s: float | None) -> bool:
    """Wait for the end of a process; returns whether it ended in time."""
    if "asyncio" not in sys.modules:
        return _ended_blocking(pidfd, timeout_s)
    import asyncio

    if asyncio._get_running_loop() is None:
        return _ended_blocking(pidfd, timeout_s)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(timeout_s):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _ended_blocking(pidfd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None or math.isinf(timeout_s) else timeout_s * 1000))
