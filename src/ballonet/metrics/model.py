"""One model of a sandbox's memory and of its host's. Pure: each number has one meaning, one name and a known time.

Sizes are bytes. Unknown is ``None``, never zero; ``unknown`` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SandboxSample:
    """One sandbox at one moment."""

    name: str
    state: str
    #: Names the run: totals below count from its start.
    run_id: str | None = None
    #: When the host read its own figures, and when the guest told its own (unix seconds, the host's clock).
    at: float
    guest_at: float | None = None
    #: Why what is unknown is unknown.
    unknown: str | None = None

    ceiling: int | None = None
    floor: int | None = None
    requested: int | None = None
    target: int | None = None
    actual: int | None = None
    #: The most that targets may ask for: the ceiling, or the host's limit.
    limit: int | None = None
    balloon_state: str | None = None

    #: Host memory of the engine's process: RSS, PSS, and the guest's RAM in it alone.
    resident: int | None = None
    pss: int | None = None
    guest_ram: int | None = None

    guest_total: int | None = None
    guest_free: int | None = None
    guest_available: int | None = None
    guest_caches: int | None = None

    #: Totals since the guest's boot.
    major_faults: int | None = None
    swap_in: int | None = None
    swap_out: int | None = None
    oom_kills: int | None = None
    pressure_some_s: float | None = None
    pressure_full_s: float | None = None
    #: Percent of the last 10 s in which some task of the guest stalled on memory.
    pressure_some_avg10: float | None = None

    @property
    def overhead(self) -> int | None:
        """What the engine itself holds: resident − guest RAM resident."""
        if self.resident is None or self.guest_ram is None:
            return None
        return self.resident - self.guest_ram

    @property
    def reclaimed(self) -> int | None:
        """Guest memory that the host has lent out to nobody: ceiling − guest RAM resident."""
        if self.ceiling is None or self.guest_ram is None:
            return None
        return max(0, self.ceiling - self.guest_ram)


@dataclass(frozen=True, kw_only=True)
class HostSample:
    """The host, and what its sandboxes come to."""

    at: float
    total: int | None
    available: int | None
    pressure_some_s: float | None = None
    pressure_full_s: float | None = None
    #: Σ ceilings, Σ targets and Σ resident of those that run.
    committed: int = 0
    promised: int = 0
    held: int = 0

    @property
    def overcommit(self) -> float | None:
        """Committed memory for each byte of the host's; above 1 the host could not hold all at their ceilings."""
        return None if not self.total else self.committed / self.total


@dataclass(frozen=True)
class Snapshot:
    """Everything at one moment."""

    host: HostSample
    sandboxes: Sequence[SandboxSample] = field(default_factory=tuple)


class Totals:
    """Keeps totals from going backwards when a sandbox is restarted: what earlier runs came to is added."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], tuple[str | None, float, float]] = {}

    def add(self, sample: SandboxSample, name: str, value: float | None) -> float | None:
        """``value`` of the sample's run, with all that earlier runs came to; the last known if it is unknown now."""
        key = (sample.name, name)
        run_id, base, last = self._runs.get(key, (sample.run_id, 0.0, 0.0))
        if value is None:
            return base + last if key in self._runs else None
        if run_id != sample.run_id or value < last:  # a new run; or a guest that lies counts on from there
            base, last = base + last, 0.0
        self._runs[key] = (sample.run_id, base, value)
        return base + value
