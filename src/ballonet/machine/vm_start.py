"""Starts a VM: restored from the template of its shape if there is one, otherwise booted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import (
    BallonetError,
    EngineError,
    GuestBootError,
    GuestChannelError,
    GuestError,
    HostError,
)
from ballonet.guest.restored import renew_guest
from ballonet.host.proc import read_cpu_s
from ballonet.machine.engine_confinement import Confinement, confinement_of
from ballonet.machine.start_counts import StartKind
from ballonet.machine.templates import Template, templates_dir
from ballonet.vmm.engine import Vm
from ballonet.vmm.saved_state import SavedState, SavedStateError

if TYPE_CHECKING:
    from ballonet.machine.network import GuestNetwork
    from ballonet.machine.shares import ShareServers

log = logging.getLogger(__name__)

#: How long a restored guest may take to answer (seconds), before the sandbox is booted instead. It needs a tenth of a
#: second, but a busy host may keep it waiting. Its engine may use as much processor time as the boot did, and at least
#: this (seconds).
RESTORE_TIMEOUT_S = 60.0
RESTORE_CPU_MIN_S = 2.0
#: How a saved sandbox was started.
RESUMED = "resumed"
#: How often the processor time is read (seconds).
_LOOK_S = 0.5
#: How long to wait for the end of a volume's server if the engine does not start (seconds).
_SERVER_END_S = 0.5
#: How long the engine may take to end after the channel to its guest (seconds).
_ENGINE_END_S = 5.0


@dataclass(frozen=True)
class StartedVm:
    """A VM whose guest runs."""

    vm: Vm
    #: The channel to its agent, from which nothing was read.
    channel: socket.socket
    #: How it was started, for a person.
    source: str
    kind: StartKind
    #: To be called when the agent is ready.
    at_ready: Callable[[], Awaitable[None]] | None


class VmStart:
    """One start.

    :param stack: ends the VM.
    :param servers: of the volumes.
    :param network: of the guest; it is connected while the engine starts.
    :param cold: boot, and neither use nor make a template.
    :param saved: restore this sandbox; it is not booted if that fails.
    :param launched: called each time an engine was launched, while it starts.
    :param ending: the sandbox ends when this is done: a restored guest is not waited for any more.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        servers: ShareServers | None,
        *,
        cgroup_procs: Sequence[str],
        cold: bool,
        saved: SavedState | None = None,
        network: GuestNetwork | None = None,
        launched: Callable[[Vm, Confinement], None],
        ending: asyncio.Future[Any],
    ) -> None:
        self._stack = stack
        self._servers = servers
        self._cgroup_procs = cgroup_procs
        self._cold = cold
        self._saved = saved
        self._network = network
        self._launched = launched
        self._ending = ending
        self._why_cold = "booted"

    async def run(self, vm: Vm) -> StartedVm:
        """Start ``vm``, or another one for the same specification if it cannot be restored.

        :raises BallonetError: it did not start.
        """
        if self._saved is not None:
            return await self._restore(vm, self._saved, RESUMED, StartKind.SAVED, math.inf)
        template = None if self._cold else self._template(vm)
        state = None if template is None else self._open(template)
        if template is not None and state is not None:
            with state:
                try:
                    least_s = max(RESTORE_CPU_MIN_S, state.cpu_s)
                    source = "restored from a start template"
                    return await self._restore(vm, state, source, StartKind.TEMPLATE, least_s)
                except (EngineError, GuestError) as error:
                    why = f"booted, because the guest could not be restored: {error}"
                    self._why_cold = why.partition("\n")[0]
                    log.warning("start template: %s", why)
                    template.discard()
                    vm = vm.engine.create(vm.spec)
        started = await self._boot(vm, StartKind.COLD if template is None else StartKind.BOOT)
        if template is None or not self._reserve(template):
            return started

        async def make() -> None:
            await template.make(vm)

        self._stack.callback(template.close)
        return replace(started, at_ready=make)

    async def _restore(
        self, vm: Vm, state: SavedState, source: str, kind: StartKind, most_cpu_s: float
    ) -> StartedVm:
        """:raises EngineError, GuestError: it could not be restored; its engine has ended."""
        started = await self._run(vm, state, source, kind)
        renewed = asyncio.create_task(renew_guest(started.channel, RESTORE_TIMEOUT_S))
        either: set[asyncio.Future[Any]] = {renewed, self._ending}
        try:
            while not await _any_done(either):
                if (read_cpu_s(vm.pid) or 0.0) > most_cpu_s:
                    raise GuestBootError("the restored guest does not answer")
            if renewed.done():
                renewed.result()
        except GuestChannelError as error:
            started.channel.close()
            raise GuestChannelError(f"{error}: {await _end_of(vm)}") from error
        except BaseException:
            started.channel.close()
            await vm.kill()
            raise
        finally:
            renewed.cancel()
        log.info("the guest is %s", started.source)
        return started

    async def _boot(self, vm: Vm, kind: StartKind) -> StartedVm:
        started = await self._run(vm, None, self._why_cold, kind)
        log.info("the guest is %s", started.source)
        return started

    async def _run(self, vm: Vm, state: SavedState | None, source: str, kind: StartKind) -> StartedVm:
        sockets = [] if self._servers is None else self._servers.sockets
        network = self._network
        link = None if network is None else network.link()
        confinement = confinement_of(vm.spec, vm.engine.binary)
        vm.launch(
            cgroup_procs=self._cgroup_procs,
            shares=sockets,
            link=link,
            confine=confinement.in_child,
            state=state,
        )
        self._stack.push_async_callback(vm.kill)
        self._launched(vm, confinement)
        if network is not None and self._saved is None:
            await self._start_connected(vm, network)
        else:
            if network is not None:
                await network.connect()  # first: if that fails, the guest must not have run
            await self._start(vm)
        return StartedVm(vm, vm.take_agent_channel(), source, kind, None)

    async def _start_connected(self, vm: Vm, network: GuestNetwork) -> None:
        """Let the VM run and connect its network meanwhile: a guest that is faster reaches nothing yet."""
        connecting = asyncio.create_task(network.connect())
        try:
            await self._start(vm)
        finally:
            await asyncio.wait({connecting})
            failure = connecting.exception()
        if failure is not None:
            raise failure

    async def _start(self, vm: Vm) -> None:
        """Let the VM run. If it fails because a volume's server has ended, raise that error."""
        servers = self._servers
        try:
            await vm.start()
        except EngineError:
            if servers is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SERVER_END_S):
                        raise HostError((await servers.first_end()).detail) from None
            raise
        if servers is not None:
            servers.hand_over()

    def _template(self, vm: Vm) -> Template | None:
        key = vm.engine.state_key(vm.spec)
        if key is None:
            return None
        try:
            return Template(key, templates_dir())
        except HostError as error:
            log.warning("start template: %s", error)
            return None

    def _open(self, template: Template) -> SavedState | None:
        try:
            return template.open()
        except SavedStateError as error:
            self._why_cold = f"booted, because {error}"
            template.discard()
            return None

    def _reserve(self, template: Template) -> bool:
        try:
            return template.reserve()
        except BallonetError as error:
            log.warning("no start template is made: %s", error)
            return False


async def _end_of(vm: Vm) -> str:
    """How a VM ended whose agent's channel has ended, with the end of its console output. It is gone then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENGINE_END_S):
            await vm.wait()
    ended = await vm.kill()
    return f"{ended.detail or ended.reason.value}\n{vm.console.end}"


async def _any_done(either: set[asyncio.Future[Any]]) -> bool:
    """Whether any is done, now or soon."""
    done, _ = await asyncio.wait(either, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)
