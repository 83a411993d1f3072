"""What an async sandbox object knows of its sandbox: the registry's record, the process, the connections to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import GuestChannelError, GuestPausedError, NotRunningError, SandboxClosedError
from ballonet.base.forked import never_destroy
from ballonet.base.paths import sandbox_dir_path
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.machine.launch import OwnedProcess, SandboxEnd
from ballonet.machine.notes import AGENT_SOCKET, MachineNote
from ballonet.sdk.balloon import BalloonHandle
from ballonet.sdk.connections import PerLoop
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Port
from ballonet.vmm.engine import ExitReason

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient
    from ballonet.images.image import Image

#: Why the process of a sandbox ended that can be resumed.
PAUSED = ExitReason.PAUSED.value
#: What a sandbox's process reports of itself: to its owner when it is up, and in its note.
_FACTS = ("engine_pid", "control_socket", "agent_socket", "boot_s", "ports")


class SandboxState:
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that the others build on: what is known, and its checks."""

    # The registry is opened for each look: keeping it open would cost a program three descriptors for each sandbox.

    def __init__(self, record: Record, process: OwnedProcess | None = None) -> None:
        self._record = record
        self._process = process
        #: The process that made this object: a forked child has a copy, which must not touch the parent's sandbox.
        self._program = os.getpid()
        self._closed = False
        #: An owned sandbox is over once it has ended; a detached one may be started again.
        self._owned = process is not None
        self._end: SandboxEnd | None = None
        #: It was paused while this program owned it.
        self._paused = False
        #: What ends the sandbox when this object is closed.
        self._closing: asyncio.Task[None] | None = None
        self._agents: PerLoop[AgentClient] = PerLoop(self._new_agent, lambda agent: agent.lost is not None)
        #: The balloon: inspect it, move it, watch it.
        self.balloon: BalloonHandle = BalloonHandle(self)
        #: Seconds from the start of the sandbox's process to the first message of the guest's agent; 0 if unknown.
        self.boot_s: float = 0.0
        self._image: Image | None = None
        self._engine_pid = self._process_pid = 0
        self._control_socket: str | None = None
        self._agent_socket: Path | None = None
        self._ports: tuple[str, ...] = ()
        if process is not None:
            self._process_pid = process.pid
            self._take(process.facts)
        elif (note := living(record)) is not None:
            self._take_note(note)

    def __repr__(self) -> str:
        end = self._end
        if self._closed:
            how = "closed"
        elif end is not None:
            how = f"ended ({end.reason})"
        elif self._process_pid:
            how = f"running, pid {self._process_pid}"
        else:
            how = str(self._record.state)
        return f"<{type(self).__name__} {self.name!r}, {how}>"

    @property
    def name(self) -> str:
        """The sandbox's name."""
        return self._record.name

    @property
    def config(self) -> SandboxConfig:
        """The desired configuration, which the next start uses."""
        return lifecycle.config_of(self._record)

    @property
    def pid(self) -> int:
        """Process ID of the sandbox's own process, 0 if it is not running. See also :attr:`engine_pid`."""
        return self._process_pid

    @property
    def engine_pid(self) -> int:
        """Process ID of the engine (QEMU), 0 if it is not running."""
        return self._engine_pid

    @property
    def agent_socket(self) -> Path:
        """The socket of the guest's agent (docs/agent.md). It exists while the sandbox runs."""
        return self._agent_socket or sandbox_dir_path(self.name) / AGENT_SOCKET

    @property
    def control_socket(self) -> Path | None:
        """The socket that controls the balloon; ``None`` without a balloon, or if the sandbox is not running."""
        return None if self._control_socket is None else Path(self._control_socket)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The published ports of a running sandbox. Port 0 is replaced by the port that the host chose."""
        return tuple(map(Port.parse, self._ports))

    def record(self) -> Record:
        """Read the sandbox's current state from the registry and from its process.

        :raises UnknownSandboxError: the sandbox no longer exists.
        """
        with Registry.open() as registry:
            self._record = lifecycle.find(registry, self.name)
        return self._record

    def _take(self, facts: Mapping[str, Any]) -> None:
        self._engine_pid = int(facts["engine_pid"])
        self._control_socket = facts["control_socket"]
        self._agent_socket = Path(facts["agent_socket"])
        self._ports = tuple(facts["ports"])
        self.boot_s = float(facts["boot_s"] or 0)

    def _take_note(self, note: MachineNote) -> None:
        self._process_pid = note.process.pid
        self._take({name: getattr(note, name) for name in _FACTS})

    def _forget_facts(self) -> None:
        self._engine_pid = self._process_pid = 0
        self._control_socket, self._ports = None, ()

    def _leave_to_parent(self) -> None:
        """In a forked child: leave the process that the parent owns alone, and continue without it."""
        if self._program != os.getpid():
            never_destroy(self._process)
            self._process = None
            self._paused = False
            self._program = os.getpid()

    def _followed(self) -> OwnedProcess | None:
        """The sandbox's process if it can be followed here: in the program and the event loop that started it."""
        self._leave_to_parent()
        self._look_whether_paused()
        process = self._process
        return process if process is not None and process.loop is asyncio.get_running_loop() else None

    def _check_open(self) -> None:
        """:raises SandboxClosedError: this object was closed."""
        if self._closed:
            raise SandboxClosedError(
                f"the Sandbox object of {self.name!r} is closed",
                hint=f"use it before its 'with' block ends, or get another one: Sandbox.get({self.name!r})",
            )

    def _check_usable(self) -> None:
        """:raises SandboxClosedError: this object was closed.
        :raises NotRunningError: the sandbox has ended.
        """
        self._check_open()
        self._leave_to_parent()
        self._look_whether_paused()
        end = self._end
        if end is None and self._process is not None:
            end = self._process.end
        if end is not None and self._owned:
            raise NotRunningError(f"sandbox {self.name!r} is no longer running: {end.detail or end.reason}")

    def _check_running(self) -> None:
        """:raises NotRunningError: the sandbox is not running (checked anew, before a connection is made)."""
        self._check_usable()
        with Registry.open() as registry:
            self._record, note = lifecycle.find_running(registry, self.name)
        self._take_note(note)

    def _look_whether_paused(self) -> None:
        end = None if self._process is None else self._process.end
        if end is not None and end.reason == PAUSED:
            self._note_paused()

    def _note_paused(self) -> None:
        """Its process has ended, and it can be resumed."""
        self._paused = self._owned
        self._process = None
        self._forget_facts()

    async def _hang_up(self) -> None:
        await self.balloon.close()
        await self._agents.close()

    def _has_agent(self) -> bool:
        """Whether a connection to its agent is open: then it is still the sandbox that it was."""
        return self._agents.is_open()

    async def _connect_agent(self) -> AgentClient:
        self._check_usable()
        return await self._agents.get()

    async def _new_agent(self) -> AgentClient:
        from ballonet.guest.agent_client import AgentClient

        while True:
            try:
                self._check_running()
            except NotRunningError:
                if not await self._woken():
                    raise
                continue
            try:
                return await AgentClient.connect(self.agent_socket)
            except GuestChannelError as error:
                if not await self._was_paused(self._process_pid, error):
                    raise

    async def _woken(self) -> bool:
        """Whether a sandbox that was not running is now, perhaps because this resumed it."""
        from ballonet.lifecycle.wake import is_being_resumed

        record = self.record()
        if record.state is State.PAUSED or is_being_resumed(record):
            await self._wake()
            return True
        return record.state is State.RUNNING

    async def _was_paused(self, pid: int, error: GuestChannelError) -> bool:
        """Whether a connection to the process ``pid`` broke because the sandbox was paused, or is being paused."""
        from ballonet.lifecycle.wake import was_paused

        if isinstance(error, GuestPausedError):
            return True
        with Registry.open() as registry:
            return await was_paused(registry, self.name, pid)

    async def _wake(self, *, admission: bool = True) -> None:
        """Resume the sandbox if it is paused."""
        from ballonet.lifecycle.wake import wake
        from ballonet.pilot.admission_control import admission_control

        with Registry.open() as registry:
            owned = self._owned and self._paused
            process = await wake(registry, self.name, detached=not owned, gate=admission_control(admission))
            self._record = registry.get(self.name)
        if process is None:
            return  # another program has resumed it
        self._process_pid = process.pid
        self._take(process.facts)
        if owned:
            self._process, self._paused = process, False
        else:
            process.let_go()
