"""Vm: one running engine. Starts it, holds its channels, and always notices its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ballonet.base.errors import EngineError
from ballonet.base.process import spawn, wait_exit
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.config import VmSpec
from ballonet.vmm.console import Tail
from ballonet.vmm.engine import Engine
from ballonet.vmm.qemu_args import EngineFds, render_command
from ballonet.vmm.qmp import Qmp

log = logging.getLogger(__name__)

#: How long the engine may take to end by itself when told to (seconds).
_QUIT_S = 5.0


class ExitReason(StrEnum):
    """Why a VM ended."""

    STOPPED = "stopped"
    #: The sandbox's own command ended.
    COMPLETED = "completed"
    #: The sandbox's own command was killed by the guest's kernel for lack of memory, or the kernel gave up.
    GUEST_OOM = "guest-oom"
    GUEST_POWEROFF = "guest-poweroff"
    GUEST_REBOOT = "guest-reboot"
    GUEST_PANIC = "guest-panic"
    ENGINE_KILLED = "engine-killed"
    HOST_OOM = "host-oom"
    ENGINE_FAILED = "engine-failed"
    #: The server of a shared directory ended.
    VOLUME_FAILED = "volume-failed"


@dataclass(frozen=True)
class VmExit:
    """How a VM ended: why, the engine's exit status (negative: the signal), and a sentence for a person."""

    reason: ExitReason
    status: int
    detail: str


class Vm:
    """A virtual machine. :meth:`start`, :meth:`take_agent_channel`, use :attr:`balloon`, then :meth:`kill`."""

    def __init__(self, spec: VmSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine
        self.console = Tail("guest console")
        self.balloon: Balloon | None = None
        self._words = Tail("engine messages")
        self.qmp = Qmp(spec.name, self._on_event)
        self._child: subprocess.Popen[bytes] | None = None
        self._monitor: socket.socket | None = None
        self._agent: socket.socket | None = None
        self._shutdown_reason: str | None = None
        self._stopping = False
        self._exit: asyncio.Task[VmExit] | None = None

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        assert self._child is not None, "the VM was not started"
        return self._child.pid

    def take_agent_channel(self) -> socket.socket:
        """Our end of the guest agent's virtio-serial port: a connected stream socket, the caller's from now on."""
        assert self._agent is not None, "the VM was not started, or its channel is taken"
        channel, self._agent = self._agent, None
        return channel

    def launch(self, *, cgroup_procs: str | None = None, shares: Sequence[socket.socket] = ()) -> None:
        """Start the engine, paused, without waiting for it: the caller may use the time until :meth:`start`.

        :param cgroup_procs: the ``cgroup.procs`` file of the cgroup that the engine is to live in.
        :param shares: connected to the servers of the shared directories; the engine gets copies.
        :raises EngineError: it has no such machine type or accelerator.
        :raises ProcessError: it cannot be executed; nothing is left behind.
        """
        self.engine.require(self.spec.machine, self.spec.accel)
        pairs = [socket.socketpair() for _ in range(4)]
        (self._monitor, qmp_far), (self._agent, agent_far), (console, console_far), (words, words_far) = pairs
        far_ends = (qmp_far, agent_far, console_far)
        numbers = [end.fileno() for end in far_ends]
        share_numbers = tuple(share.fileno() for share in shares)
        argv = render_command(self.spec, self.engine, EngineFds(*numbers, shares=share_numbers))
        try:
            self._child = spawn(
                argv,
                pass_fds=[*numbers, *share_numbers],
                stderr=words_far.fileno(),
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
        self._words.start(words)
        self._exit = asyncio.create_task(self._watch(), name="engine exit")

    async def start(self) -> None:
        """Let the guest run, after :meth:`launch`. Returns as soon as it runs, long before it has booted.

        :raises EngineError: the engine did not start; nothing is left behind.
        """
        if self._child is None:
            self.launch()
        assert self._monitor is not None, "the VM was started already"
        monitor, self._monitor = self._monitor, None
        try:
            await self.qmp.connect(monitor)
            if self.spec.balloon is not None:
                self.balloon = Balloon(self.spec.balloon, self.spec.machine, self.qmp, self.pid)
                await self.balloon.start()
            await self.qmp.execute("cont")
        except EngineError as error:
            ended = await self.kill()
            raise EngineError(f"QEMU did not start: {ended.detail or error.message}") from error
        except BaseException:
            await self.kill()
            raise

    async def wait(self) -> VmExit:
        """Wait for the engine's end, for whatever reason."""
        assert self._exit is not None, "the VM was not started"
        return await asyncio.shield(self._exit)

    async def kill(self) -> VmExit:
        """End the VM now, as pulling the plug would, and wait until it is gone. May be called again."""
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
        await self._words.stop()
        for channel in (self._monitor, self._agent):
            if channel is not None:
                channel.close()
        return ended

    async def _watch(self) -> VmExit:
        assert self._child is not None
        status = await wait_exit(self._child)
        await self.console.drained()
        await self._words.drained()
        if self.balloon is not None:
            self.balloon.engine_exited()
            await self.balloon.stop()
        ended = explain_exit(
            status, self._shutdown_reason, self._stopping, self.console.text, self._words.last_lines(3)
        )
        log.info("virtual machine ended: %s", ended.detail)
        return ended

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._shutdown_reason = str(data.get("reason"))
        elif self.balloon is not None:
            self.balloon.handle_event(name, data)


_PANIC = re.compile(r"Kernel panic - not syncing: (.{0,200})")


def explain_exit(status: int, reason: str | None, stopping: bool, console: str, words: str) -> VmExit:
    """Why the engine ended, from its exit status and the reason in its last SHUTDOWN event (QMP ShutdownCause).

    :param stopping: whether we told it to.
    :param console: what the guest last wrote to its console: a panic shows there.
    :param words: what the engine last wrote to standard error.
    """
    if panic := _PANIC.search(console):
        # "Out of memory and no killable processes...", "System is deadlocked on memory" (mm/oom_kill.c)
        starved = re.search(r"(?i)out of memory|deadlocked on memory", panic[1])
        reason_word = ExitReason.GUEST_OOM if starved else ExitReason.GUEST_PANIC
        return VmExit(reason_word, status, f"the guest's kernel panicked: {panic[1].strip()}")
    if reason == "guest-shutdown":
        return VmExit(ExitReason.GUEST_POWEROFF, status, "the guest powered itself off")
    if reason == "guest-reset":
        return VmExit(ExitReason.GUEST_REBOOT, status, "the guest rebooted itself, which ends a sandbox")
    if stopping:
        return VmExit(ExitReason.STOPPED, status, words)
    if status < 0:
        name = signal.Signals(-status).name
        return VmExit(ExitReason.ENGINE_KILLED, status, f"QEMU was killed by {name}")
    last = f": {words}" if words else ""
    return VmExit(ExitReason.ENGINE_FAILED, status, f"QEMU ended by itself with status {status}{last}")
