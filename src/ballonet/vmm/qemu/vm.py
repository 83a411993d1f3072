"""Runs a VM with QEMU: starts the process, holds its channels, and watches for its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ballonet.base.errors import EngineError
from ballonet.base.process import spawn, wait_exit
from ballonet.vmm.attach import Port
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.config import VmSpec
from ballonet.vmm.console import Tail
from ballonet.vmm.engine import Engine, Vm, VmExit
from ballonet.vmm.qemu.balloon_device import QemuBalloonDevice, changed_actual
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from ballonet.vmm.qemu.exit import explain_exit
from ballonet.vmm.qemu.ports import chosen_ports
from ballonet.vmm.qemu.qmp import Qmp

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

    def launch(self, *, cgroup_procs: str | None = None, shares: Sequence[socket.socket] = ()) -> None:
        self.engine.require(self.spec.machine, self.spec.accel)
        pairs = [socket.socketpair() for _ in range(4)]
        (
            (self._monitor, qmp_far),
            (self._agent, agent_far),
            (console, console_far),
            (messages, messages_far),
        ) = pairs
        far_ends = (qmp_far, agent_far, console_far)
        numbers = [end.fileno() for end in far_ends]
        share_numbers = tuple(share.fileno() for share in shares)
        argv = render_command(self.spec, self.engine, EngineFds(*numbers, shares=share_numbers))
        try:
            self._child = spawn(
                argv,
                pass_fds=[*numbers, *share_numbers],
                stderr=messages_far.fileno(),
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
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
            await self.qmp.connect(monitor)
            if self.spec.balloon is not None:
                device = QemuBalloonDevice(self.spec.machine, self.spec.balloon.ceiling_mib, self.qmp)
                self.balloon = Balloon(self.spec.balloon, device, self.pid)
                await self.balloon.start()
            await self.qmp.execute("cont")
        except EngineError as error:
            ended = await self.kill()
            raise EngineError(f"QEMU did not start: {ended.detail or error.message}") from error
        except BaseException:
            await self.kill()
            raise

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
        for channel in (self._monitor, self._agent):
            if channel is not None:
                channel.close()
        return ended

    async def published_ports(self) -> tuple[Port, ...]:
        if all(port.host != 0 for port in self.spec.ports):
            return self.spec.ports
        answer = await self.qmp.execute("human-monitor-command", command_line="info usernet")
        return chosen_ports(self.spec.ports, str(answer))

    async def _watch(self) -> VmExit:
        assert self._child is not None
        status = await wait_exit(self._child)
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
