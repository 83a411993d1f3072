"""Saves a running sandbox: its guest's memory and devices, and what is needed to continue its own command elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import asdict
from ballonet.base.errors import ConfigError, GuestError, GuestPausedError, SandboxError
from ballonet.host.proc import read_cpu_s
from ballonet.machine.saved_sandbox import SavedSandbox, disk_facts
from ballonet.vmm.engine import Vm

if TYPE_CHECKING:
    from ballonet.machine.command import MainCommand
    from ballonet.machine.notes import MachineNote
    from ballonet.machine.services import Services

#: How long the agent may take to fall silent (seconds). It has a high priority, but a client may not read its output.
SUSPEND_TIMEOUT_S = 10.0


class LiveSave:
    """Saves one running sandbox.

    :param command: its own command, if it has one.
    :param note: the sandbox's current note.
    """

    def __init__(
        self,
        name: str,
        vm: Vm,
        services: Services,
        command: MainCommand | None,
        state_dir: Path,
        note: Callable[[], MachineNote],
    ) -> None:
        self.name = name
        self.vm = vm
        self.services = services
        self.command = command
        self.state_dir = state_dir
        self._note = note
        #: How long it has run (seconds).
        self.ran_s: Callable[[], float] = lambda: 0.0
        #: How many TCP connections through its network are open.
        self.open_connections: Callable[[], Awaitable[int]] = vm.open_connections
        #: Processes of health checks: how many are running, and how many were started.
        self.checks_running = self.checks_started = 0
        self._turn = asyncio.Lock()

    def check(self) -> str:
        """The key under which it is saved.

        :raises ConfigError: a sandbox like this one cannot be saved.
        """
        key = self.vm.engine.state_key(self.vm.spec)
        if key is None:
            raise ConfigError(
                f"sandbox {self.name!r} cannot be saved because it has volumes: {self.vm.engine.title} "
                "cannot save virtiofs devices",
                hint="use a sandbox without volumes (-v), and copy files with 'ballonet cp'",
            )
        return key

    @property
    def clients(self) -> int:
        """How many commands of clients are running."""
        own = self.command is not None and self.command.running
        return max(0, self.services.agent.processes - own - self.checks_running)

    async def save(
        self,
        file: int,
        *,
        target: tuple[int, int | None] | None = None,
        for_another: bool = False,
        first: Callable[[], Awaitable[None]] | None = None,
        then: Callable[[], Awaitable[None]] | None = None,
    ) -> float:
        """Write the state to the open, empty file ``file``. The guest, with the commands of clients, runs on, unless
        ``then`` ends the VM.

        :param target: target and limit of the balloon that a restored guest gets (MiB); by default the current ones.
        :param for_another: another sandbox is to be made of it, with ports and a configuration of its own.
        :param first: called when the guest is stopped, before anything is saved.
        :param then: called while the guest is stopped and the file is complete: its disk has the same moment.
        :returns: how long the guest was stopped (seconds).
        :raises ConfigError: it cannot be saved.
        :raises GuestError: the guest does not answer, or ends.
        :raises EngineError: the engine could not save it.
        :raises OSError: the file cannot be written.
        """
        async with self._turn:
            return await self._save(file, target, for_another, first, then)

    async def _save(
        self,
        file: int,
        target: tuple[int, int | None] | None,
        for_another: bool,
        first: Callable[[], Awaitable[None]] | None,
        then: Callable[[], Awaitable[None]] | None,
    ) -> float:
        key = self.check()
        agent = self.services.agent
        if for_another:  # a sandbox that is paused does not run on: it need not be quick
            await self.vm.prepare_save(file)
        try:
            await agent.suspend(timeout_s=SUSPEND_TIMEOUT_S)
            account = None if self.command is None else await self.command.account()
            if self.command is not None and account is None:
                raise SandboxError(f"the command of sandbox {self.name!r} has ended")

            def notes() -> bytes:
                note, status = self._note(), None if self.vm.balloon is None else self.vm.balloon.status
                now = None if status is None else (status.target_mib, status.limit_mib)
                restored = target or now or (None, None)
                earlier = None if for_another else self.services.earlier
                return SavedSandbox(
                    name=self.name,
                    flags=() if for_another else note.flags,
                    saved_at=time.time(),
                    ports=() if for_another else note.ports,
                    command=account,
                    target_mib=restored[0],
                    limit_mib=restored[1],
                    disk=disk_facts(self.state_dir),
                    earlier=None if earlier is None else asdict(earlier),
                    ran_s=0.0 if for_another else round(self.ran_s(), 3),
                ).encode()

            cpu_s = read_cpu_s(self.vm.pid) or 0.0
            return await self.vm.save(file, key, cpu_s=cpu_s, notes=notes, first=first, then=then)
        finally:
            with contextlib.suppress(GuestError):  # the guest has ended
                agent.resume()


def paused_error(name: str) -> GuestPausedError:
    """For clients of a sandbox that is paused."""
    return GuestPausedError(
        f"sandbox {name!r} was paused", hint=f"the next command wakes it: ballonet exec {name} …"
    )
