"""What a virtual machine is made of: the configuration a sandbox's process receives, and the finished spec.

Pure data. :class:`VmConfig` is what was asked (every field, the balloon's included, shows in its ``repr``);
:class:`VmSpec` is what :class:`~ballonet.vmm.builder.VmBuilder` makes of it, complete and clamped, ready
to be rendered as an engine command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ballonet.base.target import Clamp, clamp_target
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume


class Machine(StrEnum):
    """The engine's machine types that ballonet drives."""

    MICROVM = "microvm"
    Q35 = "q35"


class Accel(StrEnum):
    """How guest code runs: hardware virtualisation, software emulation, or whichever the host can do."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True)
class VmConfig:
    """A sandbox's virtual machine as it was asked for. All sizes are MiB of guest-visible memory.

    ``None`` in a balloon field means that it was not given; a VM has a balloon when any of them is given.
    """

    name: str
    cpus: int = 1
    #: The ceiling.
    memory_mib: int = 512
    #: Guest-visible memory at boot.
    balloon_initial_mib: int | None = None
    #: The least guest-visible memory that a target may ask for.
    balloon_min_mib: int | None = None
    #: Path of the Unix socket on which the host submits run-time targets.
    balloon_control_socket: Path | None = None
    machine: Machine = Machine.MICROVM
    accel: Accel = Accel.AUTO
    #: The guest's kernel may take memory back from the balloon before it kills a process.
    deflate_on_oom: bool = True
    #: The guest tells the host which pages it has freed.
    free_page_reporting: bool = True
    #: Available memory that a shrink leaves to the guest unless forced; ``None``: max(64 MiB, ceiling / 10).
    guard_mib: int | None = None
    #: The guest gets memory back by itself when it stalls for lack of it.
    pressure_relief: bool = True
    #: The host enforces what the balloon asks for: the engine lives in a cgroup whose limit follows it.
    hard_cap: bool = False
    #: Users and groups (ids) who may use the control socket beside its owner and root.
    balloon_allow_users: tuple[int, ...] = ()
    balloon_allow_groups: tuple[int, ...] = ()
    #: Those who may look, but not set anything.
    balloon_observe_users: tuple[int, ...] = ()
    balloon_observe_groups: tuple[int, ...] = ()
    #: The file of a read-only file system (erofs or squashfs) that the guest's root is made from; ``None``: the
    #: built-in root, in the guest's memory.
    root: Path | None = None
    #: Size of the writable disk: over the root, or at :data:`DISK_TARGET` beside the built-in root.
    disk_mib: int | None = None
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    net: Net = Net.NONE
    ports: tuple[Port, ...] = ()

    @property
    def has_balloon(self) -> bool:
        """Whether any balloon field was given."""
        given = (self.balloon_initial_mib, self.balloon_min_mib, self.balloon_control_socket)
        return any(value is not None for value in given)


#: Where a disk is in a guest with the built-in root.
DISK_TARGET = "/disk"


@dataclass(frozen=True)
class Clamped:
    """A target brought into a balloon's range."""

    requested_mib: int
    effective_mib: int
    #: What was in the way: an end of the range, the host's limit, or nothing.
    by: Clamp | None


@dataclass(frozen=True)
class BalloonSpec:
    """The balloon of a VM: its range in MiB of guest-visible memory, and how the device behaves."""

    ceiling_mib: int
    initial_mib: int
    floor_mib: int
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    #: Available memory that a shrink leaves to the guest, unless forced.
    guard_mib: int = 0

    def clamp(self, requested_mib: int, limit_mib: int | None = None) -> Clamped:
        """``requested_mib`` brought into [floor, ceiling], and under the host's limit if there is one."""
        effective_mib, by = clamp_target(
            requested_mib, floor_mib=self.floor_mib, ceiling_mib=self.ceiling_mib, limit_mib=limit_mib
        )
        return Clamped(requested_mib, effective_mib, by)


@dataclass(frozen=True)
class DiskSpec:
    """A raw file as a block device; the guest knows it by its serial (at most 20 characters)."""

    serial: str
    path: Path
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class VmSpec:
    """A complete virtual machine, ready to be started."""

    name: str
    cpus: int
    memory_mib: int
    machine: Machine
    accel: Accel
    kernel: Path
    initramfs: Path
    balloon: BalloonSpec | None = None
    #: Frequency of the host's time stamp counter: the guest of an emulated microvm cannot measure it.
    tsc_khz: int | None = None
    disks: tuple[DiskSpec, ...] = ()
    #: The tags of the shared directories, in the order of their servers' sockets.
    shares: tuple[str, ...] = ()
    net: Net = Net.NONE
    ports: tuple[Port, ...] = ()
