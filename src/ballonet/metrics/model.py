"""The data model for the memory of a sandbox and of its host. Pure: each number has one meaning, one name and a time.

Sizes are bytes. An unknown value is ``None``, never zero; ``unknown`` has the reason. :mod:`ballonet.metrics.figures`
has the meaning, unit and source of each number. Keep this module small: each sandbox's process loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import dataclass, field, replace
from ballonet.base.memory import mib_to_bytes

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, Stats
    from ballonet.metrics.stored import StoredSample

#: Why the guest's values are missing if nothing else is wrong.
SILENT_GUEST = "the guest does not report"
STALE_GUEST = "the guest has stopped reporting"
#: Guest values older than this (seconds) are not used: a guest is queried at least once a minute.
STALE_S = 120.0
NO_BALLOON = "it has no balloon"
#: The states of a guest's health.
HEALTH_STATES = ("starting", "healthy", "unhealthy")
#: The states of a sandbox, as :class:`ballonet.lifecycle.record.State` has them.
STATES = ("created", "starting", "running", "stopped", "paused", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSample:
    """One sandbox at one time."""

    name: str
    #: A value of :class:`ballonet.lifecycle.record.State`.
    state: str
    #: Identify the run, and the sandbox among others of the same name.
    run_id: str | None = None
    created_at: float | None = None
    #: The guest's health, if it is checked: ``starting``, ``healthy`` or ``unhealthy``. Not in histories.
    health: str | None = None
    #: When the host's values were read, and when the guest reported its own (unix seconds on the host's clock).
    at: float
    guest_at: float | None = None
    #: The guest's clock at that time: seconds since its boot.
    guest_uptime_s: float | None = None
    #: Why values are unknown, by source: ``balloon``, ``host``, ``pss``, ``guest``.
    unknown: Mapping[str, str] = field(default_factory=dict)

    ceiling: int | None = None
    floor: int | None = None
    requested: int | None = None
    target: int | None = None
    actual: int | None = None
    #: The upper limit in force for targets and pressure relief: the host's limit or the ceiling.
    limit: int | None = None
    #: A value of :data:`ballonet.control.backend.State`.
    balloon_state: str | None = None

    #: Host memory of the engine's process: RSS, PSS (read less often: ``pss_age_s``), and the guest's RAM in it.
    resident: int | None = None
    pss: int | None = None
    pss_age_s: float | None = None
    guest_ram: int | None = None

    guest_total: int | None = None
    guest_free: int | None = None
    guest_available: int | None = None
    guest_caches: int | None = None
    guest_swap_total: int | None = None
    guest_swap_free: int | None = None
    #: Percentage of the last 10 s during which some, or all, tasks of the guest stalled on memory.
    pressure_some_avg10: float | None = None
    pressure_full_avg10: float | None = None

    #: Totals since the sandbox was created, including earlier runs as far as its history has them.
    major_faults: int | None = None
    swap_in: int | None = None
    swap_out: int | None = None
    oom_kills: int | None = None
    pressure_some_us: int | None = None
    pressure_full_us: int | None = None
    #: Guest RAM returned to the host: the sum of all decreases between samples.
    reclaimed: int | None = None

    @property
    def overhead(self) -> int | None:
        """The engine's own memory: resident − guest RAM."""
        if self.resident is None or self.guest_ram is None:
            return None
        return max(0, self.resident - self.guest_ram)

    @property
    def unheld(self) -> int | None:
        """The part of the ceiling that the host does not back: ceiling − guest RAM."""
        if self.ceiling is None or self.guest_ram is None:
            return None
        return max(0, self.ceiling - self.guest_ram)

    @property
    def guest_age_s(self) -> float | None:
        """Age of the guest's values when the host's were read."""
        return None if self.guest_at is None else max(0.0, self.at - self.guest_at)


#: The totals that restart with each boot of the guest, in the order of :class:`ballonet.control.backend.Stats`.
TOTALS = (
    "major_faults",
    "swap_in",
    "swap_out",
    "oom_kills",
    "pressure_some_us",
    "pressure_full_us",
    "reclaimed",
)


def sample_of(
    *,
    name: str,
    run_id: str | None,
    at: float,
    balloon: BalloonSnapshot | None,
    stats: Stats,
    ceiling_mib: int,
    created_at: float | None = None,
) -> SandboxSample:
    """Convert what a running sandbox reports to a sample. No other place does this conversion.

    :param at: when ``stats`` were read (unix seconds).
    :param ceiling_mib: used if there is no balloon.
    """
    # Imported here: readers of histories do not need the protocol.
    from ballonet.control.backend import EarlierTotals, GuestMemory, GuestPressure

    guest, pressure, host = stats.guest, stats.pressure, stats.host
    earlier = stats.earlier or EarlierTotals()
    unknown = {}
    if balloon is None:
        unknown["balloon"] = NO_BALLOON
    if guest.age_s is None:
        unknown["guest"] = SILENT_GUEST
    elif guest.age_s > STALE_S:
        unknown["guest"] = STALE_GUEST
        guest = GuestMemory(
            age_s=guest.age_s,
            major_faults=guest.major_faults,
            swap_in_mib=guest.swap_in_mib,
            swap_out_mib=guest.swap_out_mib,
        )
        pressure = GuestPressure(some_total_us=pressure.some_total_us, full_total_us=pressure.full_total_us)
    if host.resident_mib is None:
        unknown["host"] = "the engine's process has ended"
    elif host.pss_mib is None:
        unknown["pss"] = "it was not read"
    return SandboxSample(
        name=name,
        state="running",
        run_id=run_id,
        created_at=created_at,
        at=at,
        guest_at=None if guest.age_s is None else at - guest.age_s,
        guest_uptime_s=guest.uptime_s,
        unknown=unknown,
        ceiling=mib_to_bytes(ceiling_mib if balloon is None else balloon.ceiling_mib),
        floor=None if balloon is None else mib_to_bytes(balloon.floor_mib),
        requested=None if balloon is None else mib_to_bytes(balloon.requested_mib),
        target=None if balloon is None else mib_to_bytes(balloon.target_mib),
        actual=None if balloon is None else _bytes(balloon.actual_mib),
        limit=None
        if balloon is None
        else mib_to_bytes(balloon.ceiling_mib if balloon.limit_mib is None else balloon.limit_mib),
        balloon_state=None if balloon is None else balloon.state,
        resident=_bytes(host.resident_mib),
        pss=_bytes(host.pss_mib),
        pss_age_s=host.pss_age_s,
        guest_ram=_bytes(host.guest_ram_mib),
        guest_total=_bytes(guest.total_mib),
        guest_free=_bytes(guest.free_mib),
        guest_available=_bytes(guest.available_mib),
        guest_caches=_bytes(guest.disk_caches_mib),
        guest_swap_total=_bytes(guest.swap_total_mib),
        guest_swap_free=_bytes(guest.swap_free_mib),
        pressure_some_avg10=pressure.some_avg10,
        pressure_full_avg10=pressure.full_avg10,
        major_faults=_sum(guest.major_faults, earlier.major_faults),
        swap_in=_sum(_bytes(guest.swap_in_mib), mib_to_bytes(earlier.swap_in_mib)),
        swap_out=_sum(_bytes(guest.swap_out_mib), mib_to_bytes(earlier.swap_out_mib)),
        oom_kills=_sum(stats.oom_kills, earlier.oom_kills),
        pressure_some_us=_sum(pressure.some_total_us, earlier.pressure_some_us),
        pressure_full_us=_sum(pressure.full_total_us, earlier.pressure_full_us),
        reclaimed=_sum(_bytes(host.reclaimed_mib), mib_to_bytes(earlier.reclaimed_mib)),
    )


def with_totals(sample: SandboxSample, totals: Mapping[str, int | None]) -> SandboxSample:
    """``sample`` with the totals of :data:`TOTALS` that ``totals`` has."""
    changes: dict[str, Any] = {name: totals[name] for name in TOTALS}
    return replace(sample, **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSample:
    """The host, and totals of its sandboxes."""

    at: float
    total: int | None
    available: int | None
    #: Seconds since boot during which some, and all, of the host's tasks stalled on memory; percent of the last 10 s.
    pressure_some_s: float | None = None
    pressure_full_s: float | None = None
    pressure_some_avg10: float | None = None
    #: Why values are unknown, by source: ``meminfo``, ``pressure``.
    unknown: Mapping[str, str] = field(default_factory=dict)
    #: Sums of ceilings, targets and resident memory of the running sandboxes.
    committed: int = 0
    promised: int = 0
    held: int = 0

    @property
    def overcommit(self) -> float | None:
        """Committed memory divided by the host's memory; above 1, not all sandboxes can have their ceilings."""
        return None if not self.total else self.committed / self.total


@dataclass(frozen=True, slots=True)
class NetworkSample:
    """What the network of one running sandbox has counted since the sandbox was started."""

    name: str
    sent_bytes: int
    received_bytes: int
    #: Connections by the rule that decided; ``""``: allowed because no rule said otherwise.
    allowed: Mapping[str, int]
    #: Also by the words for the built-in rules.
    refused: Mapping[str, int]
    names_asked: int
    names_refused: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The host and its sandboxes at one time."""

    host: HostSample
    sandboxes: Sequence[SandboxSample] = ()
    #: ``None``: it was not read.
    stored: StoredSample | None = None
    #: Only of those that answered, and only if they were asked.
    networks: Sequence[NetworkSample] = ()


def sums(samples: Sequence[SandboxSample]) -> dict[str, int]:
    """The host's ``committed``, ``promised`` and ``held``: sums over the running sandboxes."""
    running = [sample for sample in samples if sample.state in ("starting", "running")]
    return {
        "committed": sum(sample.ceiling or 0 for sample in running),
        # If its target is unknown, a sandbox may have its ceiling.
        "promised": sum(
            (sample.target if sample.target is not None else sample.ceiling) or 0 for sample in running
        ),
        "held": sum(sample.resident or 0 for sample in running),
    }


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib_to_bytes(mib)


def _sum(value: int | None, earlier: int) -> int | None:
    return None if value is None else value + earlier
