"""Runs a command in a sandbox that ends with it, for ``ballonet run``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from ballonet.base.errors import GuestChannelError, SandboxError
from ballonet.cli.attach import Joined, run_joined
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.caught_signals import CaughtSignals, SignalledError
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import discard_sandbox

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess, SandboxEnd

#: How long to wait for the sandbox's end, which gives the reason, after the channel to the command is lost (seconds).
_END_S = 15.0


def run_attached(
    registry: Registry,
    name: str,
    argv: Sequence[str],
    joined: Joined,
    start: Callable[[], Awaitable[OwnedProcess]],
) -> int:
    """Run a command in the sandbox that ``start`` starts, which is removed when this returns or raises.

    :param start: removes the sandbox itself if it fails or is cancelled.
    """
    with CaughtSignals() as signals, asyncio.Runner() as runner:
        try:
            sandbox = runner.run(signals.unless_signalled(_started(name, start)))
            try:
                return run_joined(sandbox.agent_socket, argv, joined, signals)
            except GuestChannelError as error:
                end = runner.run(signals.unless_signalled(_end_of(sandbox)))
                if end is None:
                    raise  # the sandbox runs, but its guest does not answer
                raise SandboxError(f"the sandbox ended before its command: {end.detail}") from error
            finally:
                runner.run(sandbox.kill())
                runner.run(discard_sandbox(registry, name))
        except SignalledError as signalled:
            return 128 + signalled.number


async def _started(name: str, start: Callable[[], Awaitable[OwnedProcess]]) -> OwnedProcess:
    async with notice_if_slow(name):
        return await start()


async def _end_of(sandbox: OwnedProcess) -> SandboxEnd | None:
    try:
        async with asyncio.timeout(_END_S):
            return await sandbox.wait()
    except TimeoutError:
        return None
