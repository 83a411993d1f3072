"""What ballonet needs of an engine, the program that runs virtual machines: the interface that each one implements.

:mod:`ballonet.vmm.default_engine` names the implementation. Its modules are loaded when they are used: a program that
only looks for an engine, or for its processes, does not load its monitor.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import EngineMissingError
from ballonet.vmm.attach import Port
from ballonet.vmm.config import Accel, IoLimits, Machine, VmSpec

if TYPE_CHECKING:
    from ballonet.vmm.balloon import Balloon
    from ballonet.vmm.console import Tail
    from ballonet.vmm.saved_state import SavedState


class ExitReason(StrEnum):
    """Why a VM ended."""

    STOPPED = "stopped"
    #: It was saved, and can be resumed.
    PAUSED = "paused"
    #: The sandbox's own command ended.
    COMPLETED = "completed"
    #: The guest's kernel killed the sandbox's own command because memory ran out, or panicked for that reason.
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
    """How a VM ended: the reason, the engine's exit status (negative: the signal), and a sentence for a person."""

    reason: ExitReason
    status: int
    detail: str


@dataclass(frozen=True)
class UserNetwork:
    """The addresses in a guest's network."""

    guest: str
    netmask: str
    gateway: str
    name_server: str


@dataclass(frozen=True)
class NetworkLink:
    """The engine's end of a guest's network."""

    #: The descriptor of a tap device (Documentation/networking/tuntap).
    tap: int
    #: To be called in the engine's process before it is executed: it takes away every other network.
    confine: Callable[[], None]


@dataclass(frozen=True)
class Engine(ABC):
    """An engine's binary and its capabilities."""

    #: What people call it.
    name: ClassVar[str]
    user_network: ClassVar[UserNetwork]

    binary: Path
    version: tuple[int, int, int]
    #: The values of :class:`~ballonet.vmm.config.Machine` that it supports.
    machines: tuple[str, ...]
    accelerators: tuple[str, ...]
    #: It can confine itself with seccomp(2).
    seccomp: bool

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.name} {self.version_text}"

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    def require(self, machine: Machine, accel: Accel) -> None:
        """:raises EngineMissingError: this binary was built without that machine type or accelerator."""
        if machine not in self.machines:
            raise EngineMissingError(
                f"{self.binary} has no machine type {machine}; it has {', '.join(self.machines) or 'neither'}",
                hint="choose another machine type",
            )
        if accel not in self.accelerators:
            raise EngineMissingError(
                f"{self.binary} has no accelerator {accel}; it has {', '.join(self.accelerators)}",
                hint="choose another accelerator, or auto",
            )

    @classmethod
    @abstractmethod
    def find(cls, cache: Path, *, binary: Path | None = None) -> Self:
        """Find the engine on this host and probe it.

        :param cache: directory that keeps the result of the probe.
        :param binary: use this one instead of searching.
        :raises EngineMissingError: there is none, it does not run, or it is too old.
        """

    @classmethod
    @abstractmethod
    def is_command(cls, argv: Sequence[str]) -> bool:
        """Whether a process with this command line is an engine that ballonet started."""

    @abstractmethod
    def show_command(self, spec: VmSpec) -> list[str]:
        """The command line for ``spec``, for a person: descriptors have the first free numbers."""

    @abstractmethod
    def state_key(self, spec: VmSpec) -> str | None:
        """Identifies the VMs that can restore each other's saved states: those that look the same to their guests and
        run with the same engine on the same processor. ``None``: a VM of ``spec`` cannot be saved."""

    @abstractmethod
    def create(self, spec: VmSpec) -> Vm:
        """A VM for ``spec``, not started."""


class DiskCopy(ABC):
    """A copy of a disk of a running guest. Call :meth:`prepare`, then :meth:`take` while the guest is stopped, then
    :meth:`finish`; always :meth:`close`. Each raises :class:`EngineError` if the engine refuses it, or ``OSError`` if
    the copy cannot be written."""

    @abstractmethod
    async def prepare(self) -> None:
        """Copy the disk as far as possible, while the guest runs."""

    @abstractmethod
    async def take(self) -> None:
        """Define the moment. The guest is stopped; it may continue when this returns.

        It must be called before the state of the devices is saved."""

    @abstractmethod
    async def finish(self) -> None:
        """Wait until the copy is complete and on the host's disk."""

    @abstractmethod
    async def close(self) -> None:
        """Give up, unless it is finished. May be called again."""


class Vm(ABC):
    """One virtual machine. Call :meth:`start`, :meth:`take_agent_channel`, use :attr:`balloon`, then :meth:`kill`."""

    spec: VmSpec
    engine: Engine
    #: The guest's console.
    console: Tail
    #: Present from :meth:`start` on if the specification has a balloon.
    balloon: Balloon | None
    #: The first target of the balloon, if it is not the initial one, and its limit (MiB).
    first_target: tuple[int, int | None] | None = None

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id of the engine."""

    @abstractmethod
    def take_agent_channel(self) -> socket.socket:
        """The host's end of the guest agent's port: a connected stream socket, which the caller owns from now on."""

    @abstractmethod
    def launch(
        self,
        *,
        cgroup_procs: Sequence[str] = (),
        shares: Sequence[socket.socket] = (),
        link: NetworkLink | None = None,
        confine: Callable[[], None] | None = None,
        state: SavedState | None = None,
    ) -> None:
        """Start the engine, paused, and return at once: the caller may use the time until :meth:`start`.

        :param cgroup_procs: the ``cgroup.procs`` files of the cgroups that the engine runs in.
        :param shares: connected to the servers of the shared directories; the engine gets copies.
        :param link: of the guest's network, if that is :attr:`~ballonet.vmm.attach.Net.USER`; the engine gets a copy.
        :param confine: to be called in the engine's process before it is executed, after that of ``link``.
        :param state: restore this state, of the same :meth:`Engine.state_key`, instead of booting. It must stay
            open until :meth:`start` returns.
        :raises EngineError: it does not support the machine type or the accelerator.
        :raises ProcessError: it cannot be executed; nothing is left behind.
        """

    @abstractmethod
    async def start(self) -> None:
        """Let the guest run, after :meth:`launch`. Returns as soon as it runs, long before it has booted.

        :raises EngineError: the engine did not start; nothing is left behind.
        """

    @abstractmethod
    async def prepare_save(self, file: int) -> None:
        """Write the memory to the open, empty file ``file`` while the guest runs, which shortens the stop of the
        :meth:`save` that must follow.

        :raises OSError: the file cannot be written.
        """

    @abstractmethod
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
        """Stop the guest, write its state to the open file ``file``, which is empty or prepared, and let it run on,
        even if that failed. While the guest is stopped, its disks do not change, and have everything that it has
        written.

        :param key: of :meth:`Engine.state_key`.
        :param cpu_s: the processor time that the engine has used; kept in the file.
        :param first: called when the guest is stopped, before anything is saved.
        :param notes: called when the guest is stopped: what else is to be kept in the file.
        :param then: called when the state is written, before the guest runs on. It may also :meth:`kill` the VM.
        :param quiet: nothing is sent to the agent meanwhile, so that its empty buffers can be discarded.
        :returns: how long the guest was stopped (seconds).
        :raises EngineError: the engine could not save it.
        :raises OSError: the file cannot be written.
        """

    @abstractmethod
    async def limit_io(self, limits: IoLimits) -> None:
        """Limit what all disks of a running VM together read and write from now on.

        :raises EngineError: the engine does not answer.
        """

    @abstractmethod
    def copy_disk(self, serial: str, target: int) -> DiskCopy:
        """Prepare a copy of a disk as it is at the moment of a :meth:`save`. One at a time.

        :param target: the empty file for the copy, open for reading and writing.
        """

    @abstractmethod
    async def wait(self) -> VmExit:
        """Wait for the engine's end, whatever the reason."""

    @abstractmethod
    async def kill(self) -> VmExit:
        """End the VM now, without asking the guest, and wait until it is gone. May be called again."""

    @abstractmethod
    async def open_connections(self) -> int:
        """How many TCP connections through its network are open.

        :raises EngineError: the engine does not answer.
        """

    @abstractmethod
    async def published_ports(self) -> tuple[Port, ...]:
        """The published ports of a running VM that the engine publishes, with the host ports that the kernel chose."""
