"""Finds a running sandbox for a command, and resumes it if it is paused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ballonet.base.errors import (
    GuestChannelError,
    GuestError,
    GuestPausedError,
    NotRunningError,
    StillRunningError,
)
from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find, find_running
from ballonet.lifecycle.start import Gate, start_sandbox
from ballonet.machine.notes import MachineNote
from ballonet.machine.paused_file import is_saved

if TYPE_CHECKING:
    from ballonet.guest.messages import Ready
    from ballonet.machine.launch import OwnedProcess

#: How often another program's pause or resume is looked at (seconds).
_LOOK_S = 0.05
#: How long a sandbox may take to answer (seconds).
_ANSWER_S = 10.0


async def wake(
    registry: Registry, name: str, *, detached: bool = True, gate: Gate | None = None
) -> OwnedProcess | None:
    """Resume a paused sandbox. If another program resumes it, wait until it has. Does nothing to one that is not
    paused.

    :returns: the sandbox's process, if this call has started it.
    :raises ResumeError: it cannot be resumed here; it stays paused.
    :raises AdmissionError: the host has no memory for it.
    :raises BallonetError: it could not be resumed.
    """
    while True:
        record = find(registry, name)
        if is_being_resumed(record):
            await asyncio.sleep(_LOOK_S)  # the registry has no notifications
        elif record.state is not State.PAUSED:
            return None
        else:
            with contextlib.suppress(StillRunningError):  # another program was faster
                return await start_sandbox(registry, name, detached=detached, gate=gate, only_resume=True)


def is_being_resumed(record: Record) -> bool:
    """Whether a program is resuming the sandbox."""
    if record.state is not State.STARTING:
        return False
    directory = state_dir_of(record.name)
    # In this order: the note is written before the saved state is removed.
    saved, note = is_saved(directory), MachineNote.read(directory)
    return saved or (note is not None and note.run_id == record.run_id and note.resumed)


async def find_awake(
    registry: Registry, name: str, *, gate: Gate | None = None
) -> tuple[Record, MachineNote]:
    """The sandbox with that name, and its note, as :func:`~ballonet.lifecycle.sandboxes.find_running`; resumed first if
    it is paused, or as soon as it is."""
    while True:
        started = await wake(registry, name, gate=gate)
        if started is not None:
            started.let_go()
        try:
            return find_running(registry, name)
        except NotRunningError:
            record = find(registry, name)  # which may have changed since
            if not (record.state in (State.PAUSED, State.RUNNING) or is_being_resumed(record)):
                raise


async def was_paused(registry: Registry, name: str, pid: int) -> bool:
    """Whether a connection to a sandbox's process broke because the sandbox was paused, or is being paused.

    :param pid: of that process.
    """
    gives_up_at = time.monotonic() + _ANSWER_S
    while time.monotonic() < gives_up_at:
        record = find(registry, name)
        if record.state is State.PAUSED or is_being_resumed(record):
            return True
        try:
            _, note = find_running(registry, name)
        except NotRunningError:
            if find(registry, name).state in (State.STOPPED, State.FAILED):
                return False
        else:
            if note.process.pid != pid:
                return note.resumed
            # A process that has saved its sandbox is about to end.
            if not is_saved(state_dir_of(name)):
                answer = await _answer(note)
                if answer is not None:
                    return isinstance(answer, GuestPausedError)
        await asyncio.sleep(_LOOK_S)  # the registry has no notifications
    return False


async def _answer(note: MachineNote) -> Ready | GuestPausedError | None:
    """How a sandbox's process answers a new client; ``None`` if it does not: it may be about to end."""
    from ballonet.guest.agent_client import AgentClient

    try:
        agent = await AgentClient.connect(note.agent_socket)
    except GuestChannelError:
        return None
    try:
        ready = await agent.wait_ready(_ANSWER_S)
        await agent.ping(timeout_s=_ANSWER_S)
        return ready
    except GuestPausedError as error:
        return error
    except GuestError:
        return None
    finally:
        await agent.close()
