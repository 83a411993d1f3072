"""Pauses running sandboxes. :func:`ballonet.lifecycle.start.start_sandbox` resumes them."""

from __future__ import annotations

import os

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError, SandboxError
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find, find_running, refresh
from ballonet.lifecycle.stop import process_ended

# asyncio and the agent's client are imported where they are used: importing this module stays fast.


#: How long a sandbox's process may take to answer (seconds).
_ANSWER_S = 10.0


@dataclass(frozen=True)
class Paused:
    """A sandbox that was paused: the size of its saved state, and how long that took."""

    record: Record
    size_bytes: int
    seconds: float


async def touch_sandbox(registry: Registry, name: str) -> None:
    """Count a running sandbox as used now: its idle timeout begins again.

    :raises NotRunningError: it is not running.
    :raises GuestError: its process does not answer.
    """
    from ballonet.guest.agent_client import AgentClient

    _, note = find_running(registry, name)
    agent = await AgentClient.connect(note.agent_socket)
    try:
        await agent.wait_ready(_ANSWER_S)
        await agent.manage("touch", timeout_s=_ANSWER_S)
    finally:
        await agent.close()


async def pause_sandbox(
    registry: Registry, name: str, *, force: bool = False, if_idle: bool = False
) -> Paused | None:
    """Pause a running sandbox, and return when nothing of it is in memory. ``None``: it is paused already.

    :param force: even if commands of clients are running in it, which that ends.
    :param if_idle: only if nothing is under way in it: no connection is open either, and its guest does not work.
    :raises StillRunningError: such commands are running; the sandbox was not changed.
    :raises NotRunningError: it is not running.
    :raises BallonetError: it could not be paused; it runs on, unless its process has ended.
    """
    from ballonet.guest.agent_client import AgentClient

    if find(registry, name).state is State.PAUSED:
        return None
    record, note = find_running(registry, name)
    pidfd = note.process.open()
    facts = {}
    try:
        agent = await AgentClient.connect(note.agent_socket)
        try:
            await agent.wait_ready(_ANSWER_S)
            facts = await agent.manage("pause", force=force, if_idle=if_idle)
        except GuestChannelError:
            if note.process.alive():
                raise
        finally:
            await agent.close()
        if pidfd is not None:
            await process_ended(pidfd, None)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    now = refresh(registry, record)
    if now is None or now.state is not State.PAUSED:
        why = "it was removed" if now is None else now.end_detail or f"it is {now.state}"
        raise SandboxError(f"sandbox {name!r} was not paused: it ended meanwhile: {why}")
    return Paused(now, int(facts.get("bytes", 0)), float(facts.get("seconds", 0)))
