"""Runs a VM with QEMU: starts the process, holds its channels, and watches for its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import EngineError
from ballonet.base.process import spawn, wait_exit
from ballonet.base.threads import in_thread
from ballonet.vmm.attach import Net, Port
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.config import IoLimits, VmSpec
from ballonet.vmm.console import Tail
from ballonet.vmm.engine import DiskCopy, Engine, NetworkLink, Vm, VmExit
from ballonet.vmm.guest_ram import create_guest_ram, fill_guest_ram
from ballonet.vmm.qemu.balloon_device import QemuBalloonDevice, changed_actual
from ballonet.vmm.qemu.command_line import (
    THROTTLE_ID,
    EngineFds,
    disk_node,
    render_command,
    throttle_limits,
)
from ballonet.vmm.qemu.exit import explain_exit, start_hint
from ballonet.vmm.qemu.ports import chosen_ports, count_connections
from ballonet.vmm.qemu.qmp import Qmp

if TYPE_CHECKING:
    from ballonet.vmm.saved_state import SavedState

log = logging.getLogger(__name__)

#: How long QEMU may take to end after the command "quit" (seconds).
_QUIT_S = 5.0


class QemuVm(Vm):
    """A VM that QEMU runs."""

    def __init__(self, spec: VmSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine
        self.console = Tail("guest console")
        self.balloon: Balloon | None = None
        self._messages = Tail("engine messages")
        self.qmp = Qmp(spec.name, self._on_event)
        self._child: subprocess.Popen[bytes] | None = None
        self._monitor: socket.socket | None = None
        self._agent: socket.socket | None = None
        self._ram = -1
        #: Of :meth:`prepare_save`.
        self._mapped: memoryview | None = None
        self._cgroup_procs: Sequence[str] = ()
        #: Of a VM that is restored: its state, the socket for the device state, and QEMU's number of the other end.
        self._incoming: tuple[SavedState, socket.socket, int] | None = None
        self._shutdown_reason: str | None = None
        self._stopping = False
        self._exit: asyncio.Task[VmExit] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "the VM was not started"
        return self._child.pid

    def take_agent_channel(self) -> socket.socket:
        assert self._agent is not None, "the VM was not started, or its channel is taken"
        channel, self._agent = self._agent, None
        return channel

    def launch(
        self,
        *,
        cgroup_procs: Sequence[str] = (),
        shares: Sequence[socket.socket] = (),
        link: NetworkLink | None = None,
        confine: Callable[[], None] | None = None,
        state: SavedState | None = None,
    ) -> None:
        self.engine.require(self.spec.machine, self.spec.accel)
        self._ram = create_guest_ram(self.spec.memory_mib)
        try:
            self._spawn(cgroup_procs, shares, link, confine, state)
        except BaseException:
            self._close_ram()
            raise

    def _spawn(
        self,
        cgroup_procs: Sequence[str],
        shares: Sequence[socket.socket],
        link: NetworkLink | None,
        confine: Callable[[], None] | None,
        state: SavedState | None,
    ) -> None:
        pairs = [socket.socketpair() for _ in range(4 if state is None else 5)]
        (
            (self._monitor, qmp_far),
            (self._agent, agent_far),
            (console, console_far),
            (messages, messages_far),
            *incoming,
        ) = pairs
        fds = EngineFds(
            qmp=qmp_far.fileno(),
            agent=agent_far.fileno(),
            console=console_far.fileno(),
            ram=self._ram,
            shares=tuple(share.fileno() for share in shares),
            tap=None if link is None else link.tap,
        )
        inherited = [fds.qmp, fds.agent, fds.console, fds.ram, *fds.shares]
        if link is not None:
            inherited.append(link.tap)
        if state is not None:
            self._cgroup_procs = cgroup_procs
            self._incoming = (state, incoming[0][0], incoming[0][1].fileno())
            inherited.append(self._incoming[2])
        argv = render_command(self.spec, self.engine, fds, restore=state is not None)
        try:
            self._child = spawn(
                argv,
                pass_fds=inherited,
                stderr=messages_far.fileno(),
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
                in_child=_all_of(*(() if link is None else (link.confine,)), *filter(None, (confine,))),
            )
        except BaseException:
            for near, _ in pairs:
                near.close()
            raise
        finally:
            for _, far in pairs:
                far.close()
        self.console.start(console)
        self._messages.start(messages)
        self._exit = asyncio.create_task(self._watch(), name="engine exit")

    async def start(self) -> None:
        if self._child is None:
            self.launch()
        assert self._monitor is not None, "the VM was started already"
        monitor, self._monitor = self._monitor, None
        try:
            if self._incoming is not None:  # while QEMU starts
                fill_guest_ram(self._ram, self._incoming[0], self._cgroup_procs)
            await self.qmp.connect(monitor)
            if self._incoming is not None:
                from ballonet.vmm.qemu.migration import restore_devices

                (state, near, far), self._incoming = self._incoming, None
                await restore_devices(self.qmp, state.device, near, far)
            if self.spec.balloon is not None:
                device = QemuBalloonDevice(self.spec.machine, self.spec.balloon.ceiling_mib, self.qmp)
                self.balloon = Balloon(self.spec.balloon, device, self.pid)
                await self.balloon.start(self.first_target)
            await self.qmp.execute("cont")
        except EngineError as error:
            ended = await self.kill()
            cause = ended.detail or error.message
            raise EngineError(f"QEMU did not start: {cause}", hint=start_hint(cause)) from error
        except BaseException:
            await self.kill()
            raise

    async def prepare_save(self, file: int) -> None:
        from ballonet.vmm.saved_state import map_ram, prepare_file

        self._mapped = mapped = map_ram(self._ram)
        await in_thread(lambda: prepare_file(file, self._ram, mapped))

    async def save(
        self,
        file: int,
        key: str,
        *,
        cpu_s: float = 0.0,
        notes: Callable[[], bytes] | None = None,
        first: Callable[[], Awaitable[None]] | None = None,
        then: Callable[[], Awaitable[None]] | None = None,
        quiet: bool = False,
    ) -> float:
        from ballonet.vmm.qemu.migration import save_devices
        from ballonet.vmm.saved_state import map_ram, write_state

        mapped, self._mapped = self._mapped or map_ram(self._ram), None
        stopped_at = time.monotonic()
        await self.qmp.execute("stop")  # also writes all caches of the disks
        try:
            if first is not None:
                await first()
            if quiet:
                from ballonet.vmm.qemu.posted_buffers import drop_posted_buffers

                await drop_posted_buffers(self.qmp, self._ram)
            device = await save_devices(self.qmp)
            noted = b"" if notes is None else notes()
            facts: dict[str, Any] = {
                "cpu_s": cpu_s,
                "engine": self.engine.title,
                "notes": noted,
                "mapped": mapped,
            }
            # In a thread: with much memory it takes long.
            await in_thread(lambda: write_state(file, key, self._ram, device, **facts))
            if then is not None:
                await then()
        finally:
            if not self._stopping and self._exit is not None and not self._exit.done():
                await self.qmp.execute("cont")
        return time.monotonic() - stopped_at

    async def limit_io(self, limits: IoLimits) -> None:
        if self.spec.disks:
            path, value = f"/objects/{THROTTLE_ID}", throttle_limits(limits)
            await self.qmp.execute("qom-set", path=path, property="limits", value=value)

    def copy_disk(self, serial: str, target: int) -> DiskCopy:
        from ballonet.vmm.qemu.disk_copy import QemuDiskCopy

        path = next(disk.path for disk in self.spec.disks if disk.serial == serial)
        return QemuDiskCopy(self.qmp, disk_node(serial), path, target)

    async def wait(self) -> VmExit:
        assert self._exit is not None, "the VM was not started"
        return await asyncio.shield(self._exit)

    async def kill(self) -> VmExit:
        assert self._exit is not None, "the VM was not started"
        if not self._exit.done():
            self._stopping = True
            with contextlib.suppress(EngineError, TimeoutError):
                async with asyncio.timeout(_QUIT_S):
                    await self.qmp.execute("quit")
                    await self.wait()
            if not self._exit.done() and self._child is not None:
                self._child.kill()
        ended = await self.wait()
        await self.qmp.close()
        await self.console.stop()
        await self._messages.stop()
        for channel in (self._monitor, self._agent, None if self._incoming is None else self._incoming[1]):
            if channel is not None:
                channel.close()
        self._close_ram()
        return ended

    async def open_connections(self) -> int:
        answer = await self.qmp.execute("human-monitor-command", command_line="info usernet")
        return count_connections(str(answer))

    async def published_ports(self) -> tuple[Port, ...]:
        if self.spec.net is not Net.ISOLATED or all(port.host != 0 for port in self.spec.ports):
            return self.spec.ports
        answer = await self.qmp.execute("human-monitor-command", command_line="info usernet")
        return chosen_ports(self.spec.ports, str(answer))

    def _close_ram(self) -> None:
        ram, self._ram = self._ram, -1
        if ram >= 0:
            os.close(ram)

    async def _watch(self) -> VmExit:
        assert self._child is not None
        status = await wait_exit(self._child)
        await self.qmp.drained()
        await self.console.drained()
        await self._messages.drained()
        if self.balloon is not None:
            self.balloon.engine_exited()
            await self.balloon.stop()
        ended = explain_exit(
            status, self._shutdown_reason, self._stopping, self.console.text, self._messages.last_lines(3)
        )
        log.info("virtual machine ended: %s", ended.detail)
        return ended

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._shutdown_reason = str(data.get("reason"))
        elif self.balloon is not None and (actual := changed_actual(name, data)) is not None:
            self.balloon.actual_changed(actual)


def _all_of(*steps: Callable[[], None]) -> Callable[[], None]:
    def in_child() -> None:
        for step in steps:
            step()

    return in_child
