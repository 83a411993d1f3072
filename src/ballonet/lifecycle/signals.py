"""Sends signals to the commands of sandboxes."""

from __future__ import annotations

import signal

from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find, find_running
from ballonet.lifecycle.stop import stop_sandbox

#: How long a sandbox's process may take to answer (seconds).
_ANSWER_S = 10.0


async def signal_sandbox(registry: Registry, name: str, number: int) -> None:
    """Send a signal to the process group of the sandbox's own command. SIGKILL ends the sandbox at once instead.

    :raises NotRunningError: the sandbox is not running, or its command has ended.
    :raises ConfigError: it has no command of its own.
    :raises GuestError: its process does not answer.
    """
    if number == signal.SIGKILL:
        if not find(registry, name).state.lives:
            find_running(registry, name)  # raises the error
        await stop_sandbox(registry, name, timeout_s=0)
        return
    from ballonet.guest.agent_client import AgentClient

    _, note = find_running(registry, name)
    agent = await AgentClient.connect(note.agent_socket)
    try:
        await agent.wait_ready(_ANSWER_S)
        await agent.manage("signal", timeout_s=_ANSWER_S, number=int(number))
    finally:
        await agent.close()
