"""What the control server needs of a sandbox, and the facts it passes on. Sizes are MiB of guest-visible memory.

The supervisor implements :class:`Backend`; so do the tests' scripted sandboxes. Every dataclass here is also what
travels on the socket (see ``docs/control-protocol.md``). ``None`` means *unknown* and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from ballonet.base.memory import MAX_MIB
from ballonet.base.target import Clamp, clamp_target
from ballonet.control.wire import Range

#: ``converging``: on its way. ``applied``: *actual* has reached the target. ``guest-refused``: no progress; the guest
#: does not give (or take) more. ``guest-floor``: a shrink stopped at the guard, as going on would hurt the guest.
#: ``no-driver``: the guest never took the device. ``failed``: the engine refused or ended.
State = Literal["converging", "applied", "guest-refused", "guest-floor", "no-driver", "failed"]
Driver = Literal["present", "absent", "unknown"]
Outcome = Literal["settled", "timeout", "superseded"]

Mib = Annotated[int, Range(0, MAX_MIB)]


@dataclass(frozen=True)
class BalloonSnapshot:
    """The balloon at one instant."""

    ceiling_mib: Annotated[int, "the VM's configured memory; never exceeded"]
    initial_mib: Annotated[int, "guest-visible memory at boot"]
    floor_mib: Annotated[int, "the least guest-visible memory that a target may ask for"]
    limit_mib: Annotated[
        int | None, "the most that a target or pressure relief may reach now; null: the ceiling"
    ]
    requested_mib: Annotated[int, "the last target as it was asked, before clamping"]
    target_mib: Annotated[int, "the last target after clamping: the effective one"]
    actual_mib: Annotated[int | None, "what the guest has now, as the engine reports it"]
    state: Annotated[State, "how target and actual stand to each other"]
    since: Annotated[float, "when this state began, in seconds since 1970-01-01 UTC"]
    driver: Annotated[Driver, "whether the guest's balloon driver has taken the device"]
    resident_mib: Annotated[int | None, "host memory that the VM's process really holds"]
    detail: Annotated[str | None, "the reason for the state, for a person"] = None
    guest_ram_mib: Annotated[int | None, "the part of resident_mib that holds the guest's RAM"] = None
    engine_mib: Annotated[int | None, "the rest of it: the engine's own memory"] = None


@dataclass(frozen=True)
class SetResult:
    """What became of a requested target."""

    requested_mib: int
    target_mib: int
    clamped: Clamp | None
    generation: int
    """Names this request for :meth:`Backend.wait_settled`; every later set has a larger one."""


@dataclass(frozen=True)
class GuestMemory:
    """The guest's own statistics, as its balloon driver reports them; a hostile guest may make them up."""

    age_s: Annotated[float | None, "seconds since the guest last reported; null: it never did"] = None
    total_mib: Annotated[int | None, "all memory that the guest's kernel manages"] = None
    free_mib: Annotated[int | None, "memory that the guest does not use at all"] = None
    available_mib: Annotated[int | None, "memory that new programs could have without swapping"] = None
    disk_caches_mib: Annotated[int | None, "clean page cache that can be dropped"] = None
    swap_in_mib: Annotated[int | None, "read back from swap since boot"] = None
    swap_out_mib: Annotated[int | None, "written to swap since boot"] = None
    refault_mib: Annotated[
        int | None, "contents of files that were read again, since boot, after they had been reclaimed"
    ] = None
    major_faults: Annotated[int | None, "page faults since boot that needed a disk"] = None
    minor_faults: Annotated[int | None, "page faults since boot that needed none"] = None
    swap_total_mib: Annotated[int | None, "swap space that the guest has"] = None
    swap_free_mib: Annotated[int | None, "the part of it that is not used"] = None
    uptime_s: Annotated[float | None, "the guest's own clock at its report: seconds since its boot"] = None


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
    """What the VM's process costs the host, from ``/proc/PID/status``; PSS from ``smaps_rollup``, read more rarely."""

    resident_mib: Annotated[int | None, "resident set size (RSS)"] = None
    pss_mib: Annotated[int | None, "proportional set size: shared pages counted by share"] = None
    guest_ram_mib: Annotated[
        int | None, "the part of it that is guest memory, apart from the engine's own"
    ] = None
    engine_mib: Annotated[int | None, "the engine's own part of it"] = None
    pss_age_s: Annotated[float | None, "seconds since PSS was read"] = None
    reclaimed_mib: Annotated[
        int | None,
        "guest memory that came back to the host since boot: all its drops, as far as they were seen",
    ] = None


@dataclass(frozen=True)
class EarlierTotals:
    """What the totals of the sandbox's earlier runs came to, as far as its history knows them."""

    major_faults: int = 0
    swap_in_mib: int = 0
    swap_out_mib: int = 0
    oom_kills: int = 0
    pressure_some_us: int = 0
    pressure_full_us: int = 0
    reclaimed_mib: int = 0


@dataclass(frozen=True)
class Stats:
    """All that is known of the sandbox's memory beside the balloon itself."""

    guest: GuestMemory
    pressure: GuestPressure
    oom_kills: Annotated[
        int | None, "processes that the guest's kernel killed for lack of memory, since boot"
    ]
    host: HostMemory
    earlier: Annotated[EarlierTotals | None, "what is to be added to totals since boot; null: no history"] = (
        None
    )


@dataclass(frozen=True)
class TrimRequest:
    """How hard to reclaim now. Dirty data is written back first, never lost."""

    caches_percent: Annotated[int, Range(0, 100), "how much of the clean caches to drop"] = 100
    compact: Annotated[bool, "compact the guest's memory, so that free memory comes in large blocks"] = True
    inflate: Annotated[bool, "take the free memory with the balloon for a moment, then give it back"] = True
    timeout_s: Annotated[float, Range(0.1, 600), "the longest that all of this may take"] = 30


@dataclass(frozen=True)
class TrimResult:
    """What the host got from a trim."""

    returned_mib: Annotated[int | None, "resident before minus resident after; never below zero"]
    resident_before_mib: int | None
    resident_after_mib: int | None
    complete: Annotated[bool, "false: it ran out of time, or the guest did only a part"]
    detail: Annotated[str | None, "what was left out and why"] = None


@dataclass(frozen=True)
class Capabilities:
    """What this sandbox can do, fixed for its life."""

    balloon: Annotated[bool, "there is a balloon; without it balloon.* answer no-balloon"]
    statistics: Annotated[bool, "the guest's statistics are asked for"]
    pressure_relief: Annotated[bool, "the target is raised when the guest stalls on memory"]
    hard_cap: Annotated[bool, "the host enforces the target with a cgroup"]
    trim: Annotated[bool, "guest.trim works"]
    accelerator: Annotated[str, "kvm or tcg"]
    engine: Annotated[str, "the engine's name and version"]


class ChangeSignal(Protocol):
    """One watcher's view of the changes: only the newest counts, so a slow watcher never builds a queue."""

    async def wait_change(self, since_version: int) -> tuple[int, BalloonSnapshot]:
        """Return as soon as there is a version above ``since_version``: its number and the newest snapshot.

        Versions start at 1, so 0 returns at once.
        """
        ...


class Backend(Protocol):
    """A running sandbox, as the control server sees it.

    All methods run in the server's event loop and never block it. They raise ``ballonet.errors`` only; whatever they
    raise is answered to the one client who asked.
    """

    @property
    def balloon(self) -> BalloonSnapshot | None:
        """The state now, without asking the engine; ``None`` if the sandbox has no balloon."""
        ...

    async def set_target(self, requested_mib: int, *, force: bool) -> SetResult:
        """Clamp and apply a target; return when the engine has taken it, not when the guest has followed.

        Calls take effect in the order in which they were made. ``force``: do not stop at the guard.
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
        """Reclaim now; the server makes sure that only one runs at a time."""
        ...

    async def set_limit(self, limit_mib: int | None) -> None:
        """Bound targets and pressure relief to ``limit_mib`` (``None``: the ceiling), at once."""
        ...

    def capabilities(self) -> Capabilities:
        """What this sandbox can do."""
        ...


def clamp(requested_mib: int, snapshot: BalloonSnapshot) -> tuple[int, Clamp | None]:
    """The effective target for a request, and which bound moved it: see :func:`~ballonet.base.target.clamp_target`."""
    return clamp_target(
        requested_mib,
        floor_mib=snapshot.floor_mib,
        ceiling_mib=snapshot.ceiling_mib,
        limit_mib=snapshot.limit_mib,
    )
