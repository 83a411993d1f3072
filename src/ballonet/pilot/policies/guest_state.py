"""What the ``ballonet`` policy remembers about one guest, and its parameters. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.limits import Totals
from ballonet.pilot.model import SandboxView


@dataclass(frozen=True)
class Tuning:
    """Parameters of the estimate. Times in seconds, sizes in MiB or as shares of the ceiling."""

    #: Half-lives with which the estimated need, and the recent peak from which bursts are predicted, decay. Both rise
    #: immediately.
    need_half_life_s: float = 20.0
    peak_half_life_s: float = 240.0
    #: Memory that a guest keeps available beyond its need: the same as the sandbox's guard (``vmm/guard.py``).
    guard_min_mib: int = 64
    guard_share: float = 0.1
    #: Room to grow for a guest without waste, beyond its recent peak.
    burst_share: float = 0.1
    #: Guest RAM on the host beyond the need counts as waste from this amount on, until it falls to half of it.
    waste_min_mib: int = 32
    waste_share: float = 1 / 32
    #: Waste is tolerated for a while: at price 1 an eighth of the ceiling for this long, more of it for less time.
    patience_s: float = 10.0
    #: Then the guest is limited to its need for this long; twice as long each time that waste soon appears again.
    tight_s: float = 15.0
    tight_most_s: float = 600.0
    #: A guest that read at least this much again since its last report, after reclaim, needed its caches.
    refault_mib: int = 4
    #: After pressure, nothing is taken for this long.
    hold_s: float = 5.0
    #: How long caches that proved necessary are kept before less is tried; doubled each time that fails again.
    retry_s: float = 300.0
    retry_most_s: float = 4800.0
    #: Idle caches are tolerated in the same way, but for less time, since dropping them is cheap.
    trim_patience_s: float = 4.0
    #: A guest that, this long after a request, has not dropped half of the caches ignored it. After ``ignored_most``
    #: ignored requests in a row, its balloon takes the caches.
    trim_s: float = 6.0
    ignored_most: int = 2
    #: A guest that was requested to drop caches while it is idle is not requested again for this long; twice as long
    #: each time that it dropped less than half.
    gentle_s: float = 12.0
    gentle_most_s: float = 600.0
    #: A guest that did not follow is requested again after this time, doubled each time up to the second value.
    refused_s: float = 30.0
    refused_most_s: float = 960.0


class GuestState(NamedTuple):
    """What the policy remembers about one guest."""

    first_s: float
    at_s: float
    used_mib: int
    need_mib: float
    peak_mib: float
    #: Its caches, and the part that it keeps because reclaiming it caused stalls or faults.
    caches_mib: int
    hot_mib: float
    retry_at_s: float
    retry_wait_s: float
    #: When the guest was last under pressure.
    pressed_s: float
    #: Whether it is limited to its need, until when, and for how long.
    tight: bool
    tight_until_s: float
    tight_wait_s: float
    #: Accumulated waste (MiB times seconds) since there was none.
    wasted: float
    #: The same for idle caches; how much of them the guest was last requested to drop, when, and how many requests in
    #: a row it ignored.
    idle_caches: float
    trimmed_mib: int
    trimmed_from_mib: int
    trimmed_s: float
    gentle: bool
    gentle_wait_s: float
    ignored: int
    #: When a guest that does not follow is requested again, and the waiting time.
    retry_balloon_s: float
    retry_balloon_wait_s: float
    totals: Totals


def guard_mib(ceiling_mib: int, tuning: Tuning) -> int:
    """Memory that a guest keeps available beyond its need."""
    return max(tuning.guard_min_mib, int(ceiling_mib * tuning.guard_share))


def waste_threshold_mib(view: SandboxView, tuning: Tuning) -> float:
    """Waste below this is ignored (MiB)."""
    return max(tuning.waste_min_mib, view.ceiling_mib * tuning.waste_share)
