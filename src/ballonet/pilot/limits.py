"""What our policy and the checks of every policy agree on: when a guest is under pressure, how large a step may be."""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.model import SandboxView
from ballonet.vmm.guard import THRASHING_FAULTS_S

#: States in which a balloon does not follow its target.
UNCOOPERATIVE = frozenset({"guest-refused", "no-driver", "failed"})
#: A guest's word older than this says nothing any more (seconds).
STALE_S = 15.0
#: Stalls from which a guest is under pressure: this much (microseconds) at once, and on average per second. It is
#: what its own relief answers to, too (``machine/guest_memory.py``).
STALL_US = 25_000
#: The most that is taken in one period to save memory, as a share of the ceiling, by the seconds since a sandbox was
#: first seen: the first steps after a start are small, so that a wrong input shows before it hurts.
STEPS = ((2.0, 1 / 32), (4.0, 1 / 16), (6.0, 1 / 8), (float("inf"), 1 / 4))


class Totals(NamedTuple):
    """A guest's totals since its boot; pressure is the difference between two."""

    pressure_us: int | None
    major_faults: int | None
    oom_kills: int | None


def totals(view: SandboxView) -> Totals:
    """Those of ``view``."""
    return Totals(view.pressure_some_us, view.major_faults, view.oom_kills)


def pressure(now: Totals, before: Totals, passed_s: float) -> str | None:
    """Why a guest is under pressure, in words; ``None`` if it is not, or does not tell."""
    if now.pressure_us is not None and before.pressure_us is not None:
        stalled = now.pressure_us - before.pressure_us
        if stalled >= STALL_US * max(1.0, passed_s):
            return f"its tasks stalled for {stalled / 1000:.0f} ms of the last {passed_s:.1f} s"
    if now.major_faults is not None and before.major_faults is not None:
        faults = (now.major_faults - before.major_faults) / max(passed_s, 0.5)
        if faults >= THRASHING_FAULTS_S:
            return f"it had {faults:.0f} major faults a second"
    if now.oom_kills is not None and before.oom_kills is not None and now.oom_kills > before.oom_kills:
        return f"its kernel killed {now.oom_kills - before.oom_kills} processes for lack of memory"
    return None


def step_mib(ceiling_mib: int, seen_s: float) -> int:
    """The most that may be taken in one period from a sandbox that was first seen ``seen_s`` ago, to save memory."""
    return int(ceiling_mib * next(share for until, share in STEPS if seen_s < until))


def dead_band_mib(ceiling_mib: int) -> int:
    """How far a target may be off without being moved: 16 MiB or 1/64 of the ceiling, whichever is more."""
    return max(16, ceiling_mib // 64)


def room_band_mib(ceiling_mib: int) -> int:
    """How far a target that leaves a guest room to grow may be off without being moved: 1/16 of the ceiling."""
    return max(16, ceiling_mib // 16)
