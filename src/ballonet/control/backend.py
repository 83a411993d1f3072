"""The interface of a sandbox to the control server, and the data that it exchanges. Sizes are MiB of guest-visible
memory.

The supervisor implements :class:`Backend`; so do scripted sandboxes in the tests. The dataclasses are also the objects
on the socket (see ``docs/control-protocol.md``). ``None`` always means *unknown*.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from ballonet.base.dataclass import dataclass
from ballonet.base.memory import MAX_MIB
from ballonet.base.target import Clamp, clamp_target
from ballonet.control.wire import Range

#: ``converging``: moving to the target. ``applied``: *actual* has reached the target. ``guest-refused``: no progress;
#: the guest does not give (or take) more. ``guest-floor``: a shrink stopped at the guard, to protect the guest.
#: ``no-driver``: no driver in the guest has taken the device. ``failed``: the engine refused or ended.
State = Literal["converging", "applied", "guest-refused", "guest-floor", "no-driver", "failed"]
Driver = Literal["present", "absent", "unknown"]
Outcome = Literal["settled", "timeout", "superseded"]

Mib = Annotated[int, Range(0, MAX_MIB)]


@dataclass(frozen=True)
class BalloonSnapshot:
    """The balloon at one moment."""

    ceiling_mib: Annotated[int, "the VM's configured memory; never exceeded"]
    initial_mib: Annotated[int, "guest-visible memory at boot"]
    floor_mib: Annotated[int, "the least guest-visible memory of a target"]
    limit_mib: Annotated[
        int | None, "the most that a target or pressure relief may reach now; null: the ceiling"
    ]
    requested_mib: Annotated[int, "the last target as requested, before clamping"]
    target_mib: Annotated[int, "the last target after clamping: the effective one"]
    actual_mib: Annotated[int | None, "what the guest has now, as the engine reports it"]
    state: Annotated[State, "how actual relates to the target"]
    since: Annotated[float, "when this state began, in seconds since 1970-01-01 UTC"]
    driver: Annotated[Driver, "whether the guest's balloon driver has taken the device"]
    resident_mib: Annotated[int | None, "host memory of the VM's process"]
    detail: Annotated[str | None, "the reason for the state, for a person"] = None
    guest_ram_mib: Annotated[int | None, "the part of resident_mib that holds the guest's RAM"] = None
    engine_mib: Annotated[int | None, "the other part: the engine's own memory"] = None
    engine_cpu_s: Annotated[float | None, "processor time of the VM's process since it started"] = None
    engine_io_mib: Annotated[
        int | None, "bytes that the VM's process has read and written since it started: mostly its disks"
    ] = None


@dataclass(frozen=True)
class SetResult:
    """The result of setting a target."""

    requested_mib: int
    target_mib: int
    clamped: Clamp | None
    generation: int
    """Identifies this request for :meth:`Backend.wait_settled`; later requests have larger numbers."""


@dataclass(frozen=True)
class GuestMemory:
    """The guest's statistics, as it reports them; a hostile guest may report anything."""

    age_s: Annotated[float | None, "seconds since the guest last reported; null: it never did"] = None
    total_mib: Annotated[int | None, "memory that the guest's kernel manages"] = None
    free_mib: Annotated[int | None, "memory that the guest does not use"] = None
    available_mib: Annotated[int | None, "memory that is available to new programs without swapping"] = None
    disk_caches_mib: Annotated[int | None, "clean page cache that can be dropped"] = None
    inactive_caches_mib: Annotated[
        int | None, "page cache that was not used again lately, which the kernel reclaims first"
    ] = None
    swap_in_mib: Annotated[int | None, "read back from swap since boot"] = None
    swap_out_mib: Annotated[int | None, "written to swap since boot"] = None
    refault_mib: Annotated[
        int | None, "file contents that were read again after they had been reclaimed, since boot"
    ] = None
    major_faults: Annotated[int | None, "page faults since boot that read from a disk"] = None
    minor_faults: Annotated[int | None, "page faults since boot that did not"] = None
    swap_total_mib: Annotated[int | None, "swap space of the guest"] = None
    swap_free_mib: Annotated[int | None, "the unused part of it"] = None
    uptime_s: Annotated[float | None, "the guest's uptime at its report, in seconds"] = None
    trims: Annotated[int | None, "trims that the guest has started since boot"] = None
    trimmed_mib: Annotated[int | None, "caches that the guest has reclaimed in trims since boot"] = None


@dataclass(frozen=True)
class GuestPressure:
    """The guest's ``/proc/pressure/memory`` (the kernel's Documentation/accounting/psi.rst), from the agent."""

    age_s: Annotated[float | None, "seconds since the agent last reported"] = None
    some_avg10: Annotated[float | None, "percent of the last 10 s in which some task stalled on memory"] = (
        None
    )
    some_avg60: Annotated[float | None, "the same over 60 s"] = None
    some_total_us: Annotated[int | None, "microseconds since boot in which some task stalled"] = None
    full_avg10: Annotated[float | None, "percent of the last 10 s in which every task stalled on memory"] = (
        None
    )
    full_avg60: Annotated[float | None, "the same over 60 s"] = None
    full_total_us: Annotated[int | None, "microseconds since boot in which every task stalled"] = None


@dataclass(frozen=True)
class HostMemory:
    """Host memory of the VM's process, from ``/proc/PID/status``; PSS from ``smaps_rollup``, read less often."""

    resident_mib: Annotated[int | None, "resident set size (RSS)"] = None
    pss_mib: Annotated[
        int | None, "proportional set size: shared pages are divided among the processes that map them"
    ] = None
    guest_ram_mib: Annotated[int | None, "the part of resident_mib that holds the guest's RAM"] = None
    engine_mib: Annotated[int | None, "the engine's own part of resident_mib"] = None
    pss_age_s: Annotated[float | None, "seconds since PSS was read"] = None
    reclaimed_mib: Annotated[
        int | None,
        "guest memory that the host got back since boot: the sum of all observed decreases",
    ] = None


@dataclass(frozen=True)
class EarlierTotals:
    """The totals of the sandbox's earlier runs, as far as its history has them."""

    major_faults: int = 0
    swap_in_mib: int = 0
    swap_out_mib: int = 0
    oom_kills: int = 0
    pressure_some_us: int = 0
    pressure_full_us: int = 0
    reclaimed_mib: int = 0


@dataclass(frozen=True)
class Stats:
    """The sandbox's memory, except for the balloon."""

    guest: GuestMemory
    pressure: GuestPressure
    oom_kills: Annotated[
        int | None, "processes that the guest's kernel killed because memory ran out, since boot"
    ]
    host: HostMemory
    earlier: Annotated[
        EarlierTotals | None, "to be added to totals since boot; null: there is no history"
    ] = None


@dataclass(frozen=True)
class TrimRequest:
    """How much to reclaim. Dirty data is written back first, never lost."""

    caches_percent: Annotated[int, Range(0, 100), "how much of the clean caches to drop"] = 100
    compact: Annotated[bool, "compact the guest's memory, so that free memory is contiguous"] = True
    inflate: Annotated[bool, "inflate the balloon by the free memory, then deflate it again"] = True
    timeout_s: Annotated[float, Range(0.1, 600), "time limit"] = 30
    gentle: Annotated[
        bool, "only while the guest is idle: at the lowest priority, and ended as soon as the guest works"
    ] = False


@dataclass(frozen=True)
class TrimResult:
    """The result of a trim."""

    returned_mib: Annotated[int | None, "resident memory before minus after; never negative"]
    resident_before_mib: int | None
    resident_after_mib: int | None
    complete: Annotated[bool, "false: it timed out, or the guest did only a part"]
    detail: Annotated[str | None, "what was not done, and why"] = None
    reclaimed_mib: Annotated[int | None, "caches that the guest reclaimed; null: unknown"] = None


@dataclass(frozen=True)
class Capabilities:
    """What this sandbox supports; does not change while it runs."""

    balloon: Annotated[bool, "there is a balloon; without it, balloon.* return the error no-balloon"]
    statistics: Annotated[bool, "the guest's statistics are available"]
    pressure_relief: Annotated[bool, "the target is raised when the guest stalls on memory"]
    hard_cap: Annotated[bool, "the host enforces the target with a cgroup"]
    trim: Annotated[bool, "guest.trim is available"]
    accelerator: Annotated[str, "kvm or tcg"]
    engine: Annotated[str, "the engine's name and version"]


class ChangeSignal(Protocol):
    """Changes for one watcher. Only the newest one is kept, so a slow watcher does not build up a queue."""

    async def wait_change(self, since_version: int) -> tuple[int, BalloonSnapshot]:
        """Return as soon as there is a version above ``since_version``: its number and the newest snapshot.

        Versions start at 1, so 0 returns at once.
        """
        ...


class Backend(Protocol):
    """A running sandbox, from the control server's point of view.

    All methods run in the server's event loop and never block it. They raise only ``ballonet.errors``, which are
    returned to the client that made the request.
    """

    @property
    def balloon(self) -> BalloonSnapshot | None:
        """The current state, without asking the engine; ``None`` if the sandbox has no balloon."""
        ...

    async def set_target(self, requested_mib: int, *, force: bool) -> SetResult:
        """Clamp and set a target. Returns when the engine has it, not when the guest has reached it.

        Calls take effect in the order in which they are made. ``force``: do not stop at the guard.
        """
        ...

    async def wait_settled(self, generation: int, timeout_s: float) -> tuple[BalloonSnapshot, Outcome]:
        """Wait until the target of ``generation`` settles in any state but ``converging``, is replaced by a later
        one (``superseded``), or ``timeout_s`` have passed. May be cancelled; the target then stays."""
        ...

    def subscribe(self) -> ChangeSignal:
        """A signal for one watcher; it needs no closing."""
        ...

    async def stats(self, max_age_s: float = 0.0) -> Stats:
        """Statistics; unknown ones are ``None``. The guest is asked if its last report is older than ``max_age_s``."""
        ...

    async def trim(self, request: TrimRequest) -> TrimResult:
        """Reclaim memory now. The server runs only one at a time."""
        ...

    async def set_limit(self, limit_mib: int | None) -> None:
        """Limit targets and pressure relief to ``limit_mib`` (``None``: the ceiling), starting with the current
        target."""
        ...

    def capabilities(self) -> Capabilities:
        """What this sandbox supports."""
        ...


def clamp(requested_mib: int, snapshot: BalloonSnapshot) -> tuple[int, Clamp | None]:
    """The effective target for a request, and the bound that changed it: see
    :func:`~ballonet.base.target.clamp_target`."""
    return clamp_target(
        requested_mib,
        floor_mib=snapshot.floor_mib,
        ceiling_mib=snapshot.ceiling_mib,
        limit_mib=snapshot.limit_mib,
    )
