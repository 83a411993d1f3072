"""Runs a command in a sandbox that ends with it, for ``ballonet run``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ballonet.base.errors import GuestChannelError, SandboxError
from ballonet.cli.attach import Joined, SignalPasser, run_joined
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import discard_sandbox

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess

#: How long to wait for the sandbox's end, which gives the reason, after the channel to the command is lost (seconds).
_END_S = 15.0


async def run_attached(
    registry: Registry,
    name: str,
    argv: list[str],
    joined: Joined,
    signals: SignalPasser,
    start: Callable[[], Awaitable[OwnedProcess]],
) -> int:
    """Run a command in the sandbox that ``start`` starts, which is removed when this returns or raises.

    :param start: removes the sandbox itself if it fails.
    """
    from ballonet.guest.agent_client import AgentClient

    async with AsyncExitStack() as stack:
        async with notice_if_slow(name):
            sandbox = await start()
        stack.push_async_callback(discard_sandbox, registry, name)
        stack.push_async_callback(sandbox.kill)
        agent = await AgentClient.connect(sandbox.agent_socket)
        stack.push_async_callback(agent.close)
        try:
            return await run_joined(agent, argv, joined, signals)
        except GuestChannelError as error:
            try:
                async with asyncio.timeout(_END_S):
                    end = await sandbox.wait()
            except TimeoutError:
                raise error from None  # the sandbox runs, but its guest does not answer
            raise SandboxError(f"the sandbox ended before its command: {end.detail}") from error
    raise AssertionError("unreachable")
