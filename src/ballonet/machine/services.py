"""The services of a running VM: its control socket, the agent socket, pressure relief and sampling."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ballonet.base.errors import GuestBootError, GuestError, HostError
from ballonet.base.process import return_free_memory
from ballonet.control.backend import EarlierTotals, TrimRequest, TrimResult
from ballonet.control.peers import AccessPolicy
from ballonet.control.server import ControlServer
from ballonet.guest.messages import Ready
from ballonet.guest.relay import AgentRelay
from ballonet.machine.agent_server import AgentServer
from ballonet.machine.backend import MachineBackend
from ballonet.machine.event_file import EventFile
from ballonet.machine.guest_memory import GuestMemory
from ballonet.machine.hardcap import HardCap
from ballonet.machine.run_directory import RunDirectory
from ballonet.machine.sampler import Sampler
from ballonet.vmm.engine import Vm

log = logging.getLogger(__name__)

#: The accepted age of the guest's last report when it powers off (seconds).
_LAST_AGE_S = 0.5


class Services:
    """Created when the VM runs. The control socket is served at once, the agent socket when the guest has booted."""

    def __init__(
        self,
        vm: Vm,
        channel: socket.socket,
        run_directory: RunDirectory,
        cap: HardCap | None,
        policy: AccessPolicy,
    ) -> None:
        self._vm = vm
        self._run_directory = run_directory
        self._relay = AgentRelay(channel)
        self._guest = GuestMemory(self._relay, vm.balloon)
        self._agents = AgentServer(self._relay, run_directory.agent)
        self._backend = MachineBackend(vm, self._guest, cap)
        self._sampler: Sampler | None = None
        self._following: asyncio.Task[None] | None = None
        self._control: ControlServer | None = None
        if run_directory.control is not None:
            self._control = ControlServer(self._backend, run_directory.control, policy=policy)

    async def open_control(self) -> None:
        """Start serving the control socket."""
        if self._control is not None:
            await self._control.start()

    async def boot(
        self,
        timeout_s: float,
        steps: Sequence[Sequence[str]],
        *,
        relief: bool,
        at_ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Wait until the guest's agent answers, have it set up the guest, check the balloon driver, and serve the agent
        socket.

        :param steps: of :mod:`ballonet.machine.guest_setup`.
        :param relief: whether the guest gets memory back automatically when it stalls.
        :param at_ready: called when the agent answers, before it sets up the guest.
        :raises GuestBootError: it did not boot; the message has the end of its console output.
        """
        try:
            ready = await self._relay.wait_ready(timeout_s)
        except GuestError as error:
            hint = "more memory (--memory) or the other machine type (--machine q35) may help"
            raise self._boot_error(error, hint) from error
        if at_ready is not None:
            await at_ready()
        try:
            if steps:
                await self._relay.set_up(steps, timeout_s=timeout_s)
        except GuestError as error:
            raise self._boot_error(error, error.hint) from error
        await self._begin(ready, relief=relief)

    async def resume(self, timeout_s: float, steps: Sequence[Sequence[str]], *, relief: bool) -> None:
        """Let the agent of a restored guest continue, when it has answered, and serve as after a boot.

        :param steps: that name the guest anew.
        :raises GuestError: it does not answer.
        """
        ready = await self._relay.wait_ready(timeout_s)
        if steps:
            await self._relay.set_up(steps, timeout_s=timeout_s)
        self._relay.resume(restored=True)
        await self._relay.ping(timeout_s=timeout_s)
        await self._begin(ready, relief=relief)

    async def _begin(self, ready: Ready, *, relief: bool) -> None:
        for module in ready.failed_modules:
            log.warning("the guest could not load %s (errno %d)", module.name, module.errno)
        if self._vm.balloon is not None:
            await self._vm.balloon.check_driver()
        await self._guest.start(ready, relief=relief)
        await self._agents.start()
        return_free_memory()

    def _boot_error(self, error: GuestError, hint: str | None) -> GuestBootError:
        return GuestBootError(f"the guest did not boot: {error}\n{self._vm.console.end}", hint=hint)

    async def repair(self) -> None:
        """Create the run directory and bind the sockets again if they are missing.

        :raises HostError: no run directory can be created.
        :raises BindError: a socket cannot be bound. Both may be tried again.
        """
        self._run_directory.repair()
        await self._agents.repair()
        if self._control is not None:
            self._control.repair_socket()

    def keep_history(
        self, name: str, run_id: str, state_dir: Path, resumed: EarlierTotals | None = None
    ) -> None:
        """Start writing samples of the sandbox to its state directory.

        :param resumed: the earlier totals of a resumed sandbox.
        """
        try:
            self._sampler = Sampler(name, run_id, state_dir, self._backend, resumed)
        except HostError as error:
            log.warning("no history: %s", error)
            return
        self._sampler.start()

    def keep_events(self, file: EventFile) -> None:
        """Start writing the events of the sandbox's memory."""
        if self._vm.balloon is not None:
            from ballonet.machine.memory_events import MemoryEvents

            events = MemoryEvents(file, self._vm.balloon, lambda: self._relay.paused is not None)
            self._guest.relieved = events.relieved
            self._following = asyncio.create_task(events.follow(), name="memory events")

    @property
    def earlier(self) -> EarlierTotals | None:
        """The totals of earlier runs, if the sandbox has a history."""
        return self._backend.earlier

    async def trim(self, request: TrimRequest) -> TrimResult:
        """Have the guest release memory, without a client's request."""
        return await self._backend.trim(request)

    @property
    def agent(self) -> AgentRelay:
        """The guest's agent, for use by this process."""
        return self._relay

    async def oom_kills(self) -> int | None:
        """How many processes the guest's kernel has killed because memory ran out; ``None`` if it does not report
        that."""
        report = await self._guest.report()
        return None if report is None else report.oom_kill

    async def power_off(self, timeout_s: float) -> None:
        """Have the guest end its processes, sync and power off; gives up after ``timeout_s``."""
        with contextlib.suppress(GuestError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                if self._sampler is not None:
                    await self._sampler.close(guest_age_s=_LAST_AGE_S)
                await self._relay.shutdown()
                await self._vm.wait()

    async def close(self) -> None:
        """Stop serving, and close all connections."""
        if self._following is not None:
            self._following.cancel()
        if self._sampler is not None:
            await self._sampler.close()
        await self._agents.close()
        if self._control is not None:
            await self._control.close()
        await self._guest.close()
        await self._relay.close()
