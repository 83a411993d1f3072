"""Stops sandboxes, waits for their end, and removes them."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from pathlib import Path

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
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find, forget, refresh, remove_files, with_end
from ballonet.machine.notes import EndNote, write_stop_seconds

# asyncio is imported where it is used: its caller may be quick without it.

#: How long a sandbox may take to end in order before it is ended without (seconds), as in Docker.
STOP_TIMEOUT_S = 10.0
#: How long a process may take to end once nothing is waited for any more (seconds).
_FORCED_S = 30.0


async def stop_sandbox(registry: Registry, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> Record | None:
    """End a sandbox in order; without, once ``timeout_s`` has passed (0: at once; below 0: never). Its record then.

    A sandbox that does not run is left as it is. ``None``: it went away with its end.
    """
    record = find(registry, name)
    note = living(record)
    if note is None:
        return record
    await end_process(note.process, state_dir_of(name), timeout_s)
    if note.engine is not None:
        # It dies with its sandbox's process, a moment later.
        await kill(note.engine)
    return refresh(registry, record)


async def end_process(process: ProcessId, state: Path | None = None, timeout_s: float = 0) -> None:
    """End a sandbox by its own process, and wait for that.

    :param state: the sandbox's state directory: where its process finds how long it may take.
    :param timeout_s: how long it may take in order (0: not at all; below 0: as long as it takes).
    :raises SandboxError: the kernel does not let it end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        limit = math.inf if timeout_s < 0 else timeout_s
        if limit:
            if state is not None:
                with contextlib.suppress(HostError):  # a full disk: it then takes its usual time
                    write_stop_seconds(private_dir(state), limit)
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # a frozen one (SIGSTOP) would not hear of it
        # An end in order takes the guest a few seconds after its command has ended.
        if not limit or not await _ended(pidfd, limit):
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            if not await _ended(pidfd, _FORCED_S):
                await kill(process)
    except ProcessLookupError:
        pass  # it ended meanwhile
    finally:
        os.close(pidfd)


async def kill(process: ProcessId) -> None:
    """Kill that very process and wait for its end; nothing is done if it has ended.

    :raises SandboxError: the kernel does not let it end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await _ended(pidfd, _FORCED_S):
            raise SandboxError(f"process {process.pid} cannot be ended")
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def wait_end(registry: Registry, name: str) -> Record | None:
    """Wait for the end of a sandbox that runs; its record then (``None``: it is gone, with its end)."""
    import asyncio

    record = find(registry, name)
    while record.state.lives:
        note = living(record)
        pidfd = None if note is None else note.process.open()
        if pidfd is None:
            await asyncio.sleep(0.1)  # it is about to start, or has just ended
        else:
            try:
                await _ended(pidfd, None)
            finally:
                os.close(pidfd)
        end = EndNote.read(state_dir_of(name))
        now = refresh(registry, record)
        if now is None:  # it went away with its end, which we may have seen
            return with_end(record, end) if end is not None and end.run_id == record.run_id else None
        record = now
    return record


async def remove_sandbox(registry: Registry, name: str, *, force: bool = False) -> None:
    """Remove a sandbox, its logs and its disk.

    :param force: end it first if it runs.
    :raises StillRunningError: it runs, and ``force`` was not given.
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
            f"sandbox {name!r} was started again meanwhile", hint=f"again: ballonet rm --force {name}"
        )


async def _remove_damaged(registry: Registry, name: str) -> None:
    """Remove a sandbox whose row cannot be read; what runs by that name is ended first."""
    directory = state_dir_of(name)
    for machine in machines():
        if machine.options.state_dir == directory:
            await end_process(machine.process)
    registry.remove_unread(name)
    remove_files(directory)


async def discard_sandbox(registry: Registry, name: str) -> None:
    """Remove a sandbox, running or not, if it is there."""
    with contextlib.suppress(UnknownSandboxError):
        await remove_sandbox(registry, name, force=True)


async def _ended(pidfd: int, timeout_s: float | None) -> bool:
    """Wait for a process's end; whether it came in time."""
    import asyncio

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
