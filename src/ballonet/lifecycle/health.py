"""Waits until a sandbox is healthy: its health checks are in :mod:`ballonet.machine.health`."""

from __future__ import annotations

import time

from ballonet.base.errors import ConfigError, SandboxError
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find_running

HEALTHY = "healthy"
#: How often to look (seconds).
_LOOK_S = 0.1
#: How long ``run -d`` and ``start`` wait for the port of ``--wait-port`` (seconds).
START_S = 60.0


async def wait_healthy(registry: Registry, name: str, timeout_s: float | None = None) -> None:
    """Return when the guest is healthy.

    :raises ConfigError: its health is not checked.
    :raises NotRunningError: the sandbox is not running, or has ended meanwhile.
    :raises SandboxError: it is not healthy after ``timeout_s`` seconds.
    """
    import asyncio

    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        _, note = find_running(registry, name)
        if note.health == HEALTHY:
            return
        if note.health is None:
            raise ConfigError(
                f"sandbox {name!r} has no health check", hint="create it with --wait-port or --health-cmd"
            )
        if until is not None and time.monotonic() >= until:
            raise SandboxError(
                f"sandbox {name!r} is not healthy after {timeout_s:g} s: it is {note.health}",
                hint=f"it runs on; look at its output: ballonet logs {name}",
            )
        await asyncio.sleep(_LOOK_S)


async def wait_for_port(registry: Registry, name: str) -> None:
    """After a start, wait until a program of the sandbox's own command listens on its port, if it has both.

    :raises BallonetError: as :func:`wait_healthy`.
    """
    record, note = find_running(registry, name)
    if record.command is not None and "--wait-port" in note.flags:
        await wait_healthy(registry, name, START_S)
