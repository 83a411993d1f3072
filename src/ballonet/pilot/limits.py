"""What our policy and the checks of every policy agree on: when a guest is under pressure, how large a step may be."""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.model import SandboxView
from ballonet.vmm.guard import GUARD_MIN_MIB, THRASHING_FAULTS_S

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
    """A guest's totals since its boot, and when it told them; pressure is the difference between two."""

    told_s: float
    pressure_us: int | None
    major_faults: int | None
    oom_kills: int | None
    refault_mib: int | None
    #: Whether its balloon was on its way to take memory, what the guest then had, and what of it was available.
    shrinks: bool
    actual_mib: int | None
    available_mib: int | None


def totals(view: SandboxView, at_s: float) -> Totals:
    """Those of ``view``, which was seen at ``at_s``."""
    shrinks = view.state == "converging" and view.actual_mib is not None and view.target_mib < view.actual_mib
    return Totals(
        at_s - (view.guest_age_s or 0.0),
        view.pressure_some_us,
        view.major_faults,
        view.oom_kills,
        view.refault_mib,
        shrinks,
        view.actual_mib,
        view.guest_available_mib,
    )


def _gives_caches(now: Totals, before: Totals) -> bool:
    """Whether a guest's stalls are its balloon's driver at work: dropping caches for it counts as a stall for lack of
    memory like any other (``machine/guest_memory.py`` passes over it, too)."""
    took = now.actual_mib is not None and before.actual_mib is not None and now.actual_mib < before.actual_mib
    return (now.shrinks or before.shrinks or took) and (now.available_mib or 0) >= GUARD_MIN_MIB


def refaulted_mib(now: Totals, before: Totals) -> int | None:
    """What a guest read again of its files since, after it had been reclaimed; ``None`` if it does not tell."""
    if now.refault_mib is None or before.refault_mib is None:
        return None
    return max(0, now.refault_mib - before.refault_mib)


def pressure(now: Totals, before: Totals) -> str | None:
    """Why a guest is under pressure, in words; ``None`` if it is not, or does not tell."""
    passed_s = now.told_s - before.told_s
    if now.pressure_us is not None and before.pressure_us is not None:
        stalled = now.pressure_us - before.pressure_us
        if stalled >= STALL_US * max(1.0, passed_s) and not _gives_caches(now, before):
            return f"its tasks stalled for {stalled / 1000:.0f} ms of the last {passed_s:.1f} s"
    if now.major_faults is not None and before.major_faults is not None:
        faults = (now.major_faults - before.major_faults) / max(passed_s, 0.5)
        if faults >= THRASHING_FAULTS_S:
            return f"it had {faults:.0f} major faults a second"
    if now.oom_kills is not None and before.oom_kills is not None and now.oom_kills > before.oom_kills:
        return f"its kernel killed {now.oom_kills - before.oom_kills} processes for lack of memory"
    return None


class Left(NamedTuple):
    """A target as it was seen at the last tick, and as it was to be left."""

    seen_mib: int
    asked_mib: int


def raised(view: SandboxView, left: Left | None) -> str | None:
    """Whether somebody else has raised its target since, such as its own relief; in words.

    A target that is still what it was may never have been moved (a dry run, a socket that failed): that is no sign.
    """
    if left is None or view.target_mib <= left.asked_mib:
        return None
    shrank = view.actual_mib is not None and view.actual_mib <= view.target_mib - dead_band_mib(
        view.ceiling_mib
    )
    if view.target_mib == left.seen_mib and not shrank:
        return None
    return f"its target was raised from {left.asked_mib} to {view.target_mib} MiB meanwhile, as its own relief does"


def follows(view: SandboxView) -> bool:
    """Whether its balloon follows targets, as far as is known. One that stops near its target is inexact, not stuck."""
    if view.state == "guest-refused":
        return view.actual_mib is not None and abs(view.actual_mib - view.target_mib) < dead_band_mib(
            view.ceiling_mib
        )
    return view.state not in UNCOOPERATIVE


def claim_mib(view: SandboxView) -> int:
    """What a sandbox that is left alone may come to hold: its target or what it has, its ceiling if that is unknown."""
    return view.ceiling_mib if view.actual_mib is None else max(view.target_mib, view.actual_mib)


def step_mib(ceiling_mib: int, seen_s: float) -> int:
    """The most that may be taken in one period from a sandbox that was first seen ``seen_s`` ago, to save memory."""
    return int(ceiling_mib * next(share for until, share in STEPS if seen_s < until))


def dead_band_mib(ceiling_mib: int) -> int:
    """How far a target may be off without being moved: 16 MiB or 1/64 of the ceiling, whichever is more."""
    return max(16, ceiling_mib // 64)


def room_band_mib(ceiling_mib: int) -> int:
    """How far a target that leaves a guest room to grow may be off without being moved: 1/16 of the ceiling."""
    return max(16, ceiling_mib // 16)
