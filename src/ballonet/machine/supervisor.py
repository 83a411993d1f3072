"""The life of one sandbox's process: claim, boot, serve, end. Leaves nothing behind on any way out.

The order is the promise: sockets are bound before the guest boots, readiness is reported when the agent answers,
and the end is reported when the engine is gone and the files are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from enum import StrEnum
from typing import Any

from ballonet.control.peers import AccessPolicy
from ballonet.errors import BallonetError
from ballonet.machine.build import build_vm
from ballonet.machine.hardcap import HardCap
from ballonet.machine.owner import OwnerLine, Report
from ballonet.machine.place import Place, claim_place
from ballonet.memory import mib_to_bytes
from ballonet.vmm.config import VmConfig
from ballonet.vmm.vm import ExitReason, Vm, VmExit

log = logging.getLogger(__name__)

#: How long a guest may take from the engine's start to its agent's first word (seconds): emulation on a busy
#: host is slow, and a guest that hangs must not be waited for for ever.
BOOT_TIMEOUT_S = 120.0
#: How long a guest may take to power off by itself when the sandbox is stopped (seconds).
POWEROFF_TIMEOUT_S = 5.0


class Ending(StrEnum):
    """What made the sandbox end."""

    STOP = "stop"
    OWNER_GONE = "owner-gone"
    GUEST = "guest"


class Supervisor:
    """Runs one sandbox from claim to end. Make it inside a running event loop."""

    def __init__(self, config: VmConfig, owner: OwnerLine) -> None:
        self._config = config
        self._owner = owner
        self._policy = AccessPolicy(
            allow_users=frozenset(config.balloon_allow_users),
            allow_groups=frozenset(config.balloon_allow_groups),
            read_only_users=frozenset(config.balloon_observe_users),
            read_only_groups=frozenset(config.balloon_observe_groups),
        )
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Live the sandbox's whole life; the process's exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, Ending.STOP)
        await self._owner.open()
        try:
            place = claim_place(
                self._config.name,
                self._config.balloon_control_socket,
                with_control=self._config.has_balloon,
                control_mode=self._policy.socket_mode(),
            )
            try:
                report = await self._live(place)
            finally:
                place.give_up()
        except BallonetError as error:
            log.error("%s", error)
            report = Report.failed(error)
        self._owner.tell(report)
        await self._owner.close()
        return 0 if report.event == "ended" else 1

    async def _live(self, place: Place) -> Report:
        started = time.monotonic()
        vm = build_vm(self._config)
        async with contextlib.AsyncExitStack() as stack:
            cap = self._hard_cap(vm)
            if cap is not None:
                stack.push_async_callback(cap.close)
            vm.launch(cgroup_procs=None if cap is None else cap.procs_file)
            stack.push_async_callback(vm.kill)
            from ballonet.machine.services import Services  # takes as long to load as the engine to start

            await vm.start()
            if cap is not None and vm.balloon is not None:
                cap.follow(vm.pid, vm.balloon)
            stack.push_async_callback(_cancel, asyncio.create_task(self._watch_engine(vm)))
            stack.push_async_callback(_cancel, asyncio.create_task(self._watch_owner()))
            services = Services(vm, place, cap, self._policy)
            stack.push_async_callback(services.close)
            await services.open_control()
            boot = asyncio.create_task(services.boot(BOOT_TIMEOUT_S, relief=self._config.pressure_relief))
            stack.push_async_callback(_cancel, boot)
            either: set[asyncio.Future[Any]] = {boot, self._ending}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._ending.done():
                boot.result()
                self._owner.tell(_ready_report(vm, place, time.monotonic() - started))
            ending = await self._ending
            if ending is Ending.STOP:
                await services.power_off(POWEROFF_TIMEOUT_S)
            ended = await vm.wait() if ending is Ending.GUEST else await vm.kill()
            if cap is not None and cap.kills():
                detail = f"the host killed it for going over its hard cap of {cap.limit_mib} MiB"
                ended = VmExit(ExitReason.HOST_OOM, ended.status, detail)
        log.info("sandbox %s ended (%s): %s", self._config.name, ending, ended.detail)
        return Report("ended", {"reason": ended.reason, "status": ended.status, "detail": ended.detail})

    def _hard_cap(self, vm: Vm) -> HardCap | None:
        if not self._config.hard_cap:
            return None
        balloon = vm.spec.balloon
        return HardCap(
            self._config.name, mib_to_bytes(vm.spec.memory_mib if balloon is None else balloon.initial_mib)
        )

    def _end(self, ending: Ending) -> None:
        """Something ends the sandbox; the first to say so counts."""
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _watch_engine(self, vm: Vm) -> None:
        await vm.wait()
        self._end(Ending.GUEST)

    async def _watch_owner(self) -> None:
        self._end(Ending.STOP if await self._owner.wait_stop() else Ending.OWNER_GONE)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _ready_report(vm: Vm, place: Place, boot_s: float) -> Report:
    control = place.control
    return Report(
        "ready",
        {
            "engine_pid": vm.pid,
            "agent_socket": str(place.agent.path),
            "control_socket": None if control is None else str(control.path),
            "boot_s": round(boot_s, 3),
        },
    )
