"""The configuration of a virtual machine that a sandbox's process receives, and the complete specification.

Pure data. :class:`VmConfig` is the requested configuration; :class:`~ballonet.vmm.builder.VmBuilder` turns it into a
:class:`VmSpec`, which is complete and clamped.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.target import Clamp, clamp_target
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume
from ballonet.vmm.net_rules import MAX_CONNECTIONS, HostPort, NetRule


class Machine(StrEnum):
    """The machine types that ballonet supports."""

    MICROVM = "microvm"
    Q35 = "q35"


class Accel(StrEnum):
    """How guest code runs: with hardware virtualisation, software emulation, or what the host supports."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class OnIdle(StrEnum):
    """What happens to a sandbox that was idle for its timeout."""

    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True)
class IoLimits:
    """The most that all disks of a VM together may read and write; ``None``: no limit."""

    rate_kib: int | None = None
    ops: int | None = None


@dataclass(frozen=True, kw_only=True)
class VmConfig:
    """The requested virtual machine of a sandbox. All sizes are MiB of guest-visible memory.

    ``None`` in a balloon field means that it is not set; a VM has a balloon if any of them is set.
    """

    name: str
    cpus: int = 1
    #: The ceiling.
    memory_mib: int = 512
    #: Guest-visible memory at boot.
    balloon_initial_mib: int | None = None
    #: The floor: the least guest-visible memory of a target.
    balloon_min_mib: int | None = None
    #: Path of the Unix socket that accepts targets at run time.
    balloon_control_socket: Path | None = None
    machine: Machine = Machine.MICROVM
    accel: Accel = Accel.AUTO
    #: The guest's kernel may take memory back from the balloon before it kills a process.
    deflate_on_oom: bool = True
    #: The guest reports freed pages to the host.
    free_page_reporting: bool = True
    #: Available memory that a shrink leaves to the guest, unless forced. ``None``: max(64 MiB, ceiling / 10).
    guard_mib: int | None = None
    #: The guest gets memory back automatically when it stalls because memory is short.
    pressure_relief: bool = True
    #: The host enforces the target: the engine runs in a cgroup whose limit follows the balloon.
    hard_cap: bool = False
    #: Ids of users and groups that may use the control socket in addition to its owner and root.
    balloon_allow_users: tuple[int, ...] = ()
    balloon_allow_groups: tuple[int, ...] = ()
    #: Those that may read, but not change anything.
    balloon_observe_users: tuple[int, ...] = ()
    balloon_observe_groups: tuple[int, ...] = ()
    #: File with a read-only file system (erofs or squashfs), the lower layer of the guest's root. ``None``: the
    #: built-in root, in the guest's memory.
    root: Path | None = None
    #: Size of the writable disk: the upper layer of the root, or mounted at :data:`DISK_TARGET` with the built-in root.
    disk_mib: int | None = None
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    net: Net = Net.NONE
    ports: tuple[Port, ...] = ()
    #: What the guest may reach with the network "user"; if there is any, nothing else.
    net_allow: tuple[NetRule, ...] = ()
    #: What it may not reach, even if it is allowed.
    net_deny: tuple[NetRule, ...] = ()
    #: Ports of the host's loopback that it may reach.
    net_allow_host: tuple[HostPort, ...] = ()
    #: The most that it may send, and the most that it may receive (KiB a second).
    net_rate_kib: int | None = None
    #: How many connections of the guest may exist at once.
    net_connections: int = MAX_CONNECTIONS
    #: The sandbox is stopped when it has run for so long (seconds); the time while it is paused does not count.
    ttl_s: int | None = None
    #: When it was idle for so long (seconds), it is paused or stopped.
    idle_timeout_s: int | None = None
    on_idle: OnIdle = OnIdle.PAUSE
    #: The autopilot may pause it when the host is nearly full.
    pausable: bool = False
    #: The host name of the guest; ``None``: the sandbox's name.
    hostname: str | None = None
    #: The guest is healthy when something listens on this TCP port, and when this shell command succeeds.
    wait_port: int | None = None
    health_cmd: str | None = None
    #: Time between checks, and after which one has failed (seconds); failures in a row that make it unhealthy.
    health_interval_s: int = 30
    health_timeout_s: int = 30
    health_retries: int = 3
    #: The most processor time that the engine and its helpers use (percent of one processor).
    cpu_quota_percent: int | None = None
    #: The most that all disks together may read and write (KiB a second; operations a second).
    io_rate_kib: int | None = None
    io_ops: int | None = None

    @property
    def has_health_check(self) -> bool:
        """Whether its health is checked."""
        return self.wait_port is not None or self.health_cmd is not None

    @property
    def io_limits(self) -> IoLimits:
        """The limits of its disks."""
        return IoLimits(self.io_rate_kib, self.io_ops)

    @property
    def guest_name(self) -> str:
        """The host name that the guest gets."""
        return self.hostname or self.name

    @property
    def has_balloon(self) -> bool:
        """Whether any balloon field is set."""
        given = (self.balloon_initial_mib, self.balloon_min_mib, self.balloon_control_socket)
        return any(value is not None for value in given)


#: Where the disk is mounted in a guest with the built-in root.
DISK_TARGET = "/disk"


@dataclass(frozen=True)
class Clamped:
    """A target, clamped to the range of a balloon."""

    requested_mib: int
    effective_mib: int
    #: The bound that changed it: an end of the range, the host's limit, or ``None``.
    by: Clamp | None


@dataclass(frozen=True)
class BalloonSpec:
    """The balloon of a VM: its range in MiB of guest-visible memory, and the options of the device."""

    ceiling_mib: int
    initial_mib: int
    floor_mib: int
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    #: Available memory that a shrink leaves to the guest, unless forced.
    guard_mib: int = 0

    def clamp(self, requested_mib: int, limit_mib: int | None = None) -> Clamped:
        """``requested_mib``, clamped to [floor, ceiling] and to the host's limit if there is one."""
        effective_mib, by = clamp_target(
            requested_mib, floor_mib=self.floor_mib, ceiling_mib=self.ceiling_mib, limit_mib=limit_mib
        )
        return Clamped(requested_mib, effective_mib, by)


@dataclass(frozen=True)
class DiskSpec:
    """A raw file as a block device; the guest identifies it by its serial (at most 20 characters)."""

    serial: str
    path: Path
    read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class VmSpec:
    """The complete specification of a virtual machine."""

    name: str
    cpus: int
    memory_mib: int
    machine: Machine
    accel: Accel
    kernel: Path
    initramfs: Path
    balloon: BalloonSpec | None = None
    #: Frequency of the host's time stamp counter, which the guest of an emulated microvm cannot measure.
    tsc_khz: int | None = None
    disks: tuple[DiskSpec, ...] = ()
    #: They may change while it runs.
    io_limits: IoLimits = IoLimits()
    #: Tags of the shared directories, in the order of their servers' sockets.
    shares: tuple[str, ...] = ()
    net: Net = Net.NONE
    ports: tuple[Port, ...] = ()
