"""Checks the health of a guest: whether a program listens on its port, and whether its command succeeds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ballonet.base.errors import BallonetError, GuestChannelError
from ballonet.base.text import printable
from ballonet.guest.files import GuestFiles
from ballonet.machine.command import read_command
from ballonet.machine.live_save import LiveSave
from ballonet.vmm.config import VmConfig

log = logging.getLogger(__name__)

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
#: How often a guest is checked that has not been healthy yet (seconds), if its interval is not shorter.
_STARTING_S = 1.0
#: How much a command may print (bytes), and how much of that is shown (characters).
_MOST_OUTPUT, _SHOWN = 64 << 10, 200
#: The state of a socket that listens, in ``/proc/net/tcp`` (include/net/tcp_states.h).
_LISTEN = "0A"


class Health:
    """The health that follows from the results of checks. Pure.

    A guest is starting until its first success. It becomes unhealthy after ``retries`` failures in a row, or if it has
    not succeeded in the time of that many intervals.
    """

    def __init__(self, retries: int, interval_s: float, now: float) -> None:
        self._retries = retries
        self._give_up_at = now + retries * interval_s
        self._failures = 0
        self.state = STARTING

    def passed(self) -> None:
        self._failures = 0
        self.state = HEALTHY

    def failed(self, now: float) -> None:
        self._failures += 1
        over = now >= self._give_up_at if self.state == STARTING else self._failures >= self._retries
        if over:
            self.state = UNHEALTHY


class HealthChecks:
    """Checks one guest as long as it runs.

    :param changed: called with the state, and what the last check found, whenever the state changes.
    """

    def __init__(self, live: LiveSave, config: VmConfig, changed: Callable[[str, str | None], None]) -> None:
        self._live = live
        self._config = config
        self._changed = changed
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="health checks")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        config = self._config
        health = Health(config.health_retries, config.health_interval_s, time.monotonic())
        while True:
            if self._live.services.agent.paused is None:  # otherwise its guest is being saved
                before = health.state
                try:
                    problem = await self._problem()
                except GuestChannelError:
                    return  # it has ended
                if problem is None:
                    health.passed()
                else:
                    health.failed(time.monotonic())
                if health.state != before:
                    self._tell(health.state, problem)
            wait_s = float(config.health_interval_s)
            await asyncio.sleep(min(wait_s, _STARTING_S) if health.state == STARTING else wait_s)

    def _tell(self, state: str, problem: str | None) -> None:
        try:
            self._changed(state, problem)
        except BallonetError as error:  # a full disk
            log.warning("the health of the guest cannot be recorded: %s", error)

    async def _problem(self) -> str | None:
        """What is wrong with the guest; ``None`` if it is healthy.

        :raises GuestChannelError: the connection to the guest was lost.
        """
        config = self._config
        self._live.checks_running += 1
        try:
            async with asyncio.timeout(config.health_timeout_s):
                if config.wait_port is not None and not await self._listens(config.wait_port):
                    return f"no program listens on port {config.wait_port}"
                if config.health_cmd is not None:
                    return await self._command_problem(config.health_cmd)
                return None
        except TimeoutError:
            return f"the check did not end within {config.health_timeout_s} s"
        except GuestChannelError:
            raise
        except BallonetError as error:
            return error.message
        finally:
            self._live.checks_running -= 1

    async def _listens(self, port: int) -> bool:
        files = GuestFiles(self._agent)
        for path in ("/proc/net/tcp", "/proc/net/tcp6"):
            self._live.checks_started += 1
            try:
                table = await files.read(path, limit=_MOST_OUTPUT * 16)
            except GuestChannelError:
                raise
            except BallonetError:
                continue  # without IPv6
            if listens(table.decode(errors="replace"), port):
                return True
        return False

    async def _agent(self) -> Any:
        return self._live.services.agent

    async def _command_problem(self, command: str) -> str | None:
        """Run the command with the settings of the sandbox's own one."""
        own = read_command(self._live.state_dir) if self._live.command is not None else {}
        self._live.checks_started += 1
        process = await self._live.services.agent.exec(
            ["/bin/sh", "-c", command], env=own.get("env"), cwd=own.get("cwd"), user=own.get("user")
        )
        async with process:
            out, said = await process.communicate(limit=_MOST_OUTPUT)
            status = (await process.wait()).returncode
        if status == 0:
            return None
        words = printable((said or out).decode(errors="replace").strip())[-_SHOWN:]
        return f"the command ended with status {status}" + (f": {words}" if words else "")


def listens(table: str, port: int) -> bool:
    """Whether a socket listens on ``port`` according to ``/proc/net/tcp``. Pure."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and words[3] == _LISTEN and words[1].rpartition(":")[2] == f"{port:04X}":
            return True
    return False
