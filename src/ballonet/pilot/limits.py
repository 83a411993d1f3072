"""Thresholds shared by the ``ballonet`` policy and the checks of all policies: pressure, step sizes, dead bands."""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.model import SandboxView
from ballonet.vmm.guard import GUARD_MIN_MIB, THRASHING_FAULTS_S

#: States in which a balloon does not follow its target.
UNCOOPERATIVE = frozenset({"guest-refused", "no-driver", "failed"})
#: Guest statistics older than this are not used (seconds).
STALE_S = 15.0
#: A guest is under pressure when its tasks stall for at least this long (microseconds) at once, and on average per
#: second. The sandbox's own pressure relief uses the same threshold (``machine/guest_memory.py``).
STALL_US = 25_000
#: The largest reduction per period to save memory, as a share of the ceiling, by seconds since the sandbox was first
#: seen. The first steps are small so that a wrong input shows before it does harm.
STEPS = ((2.0, 1 / 32), (4.0, 1 / 16), (6.0, 1 / 8), (float("inf"), 1 / 4))


class Totals(NamedTuple):
    """A guest's totals since boot and when it reported them. Pressure is computed from two of these."""

    reported_s: float
    pressure_us: int | None
    major_faults: int | None
    oom_kills: int | None
    refault_mib: int | None
    #: Whether its balloon was inflating, what memory the guest had at that time, and how much of it was available.
    shrinks: bool
    actual_mib: int | None
    available_mib: int | None


def totals(view: SandboxView, at_s: float) -> Totals:
    """The totals of ``view``, observed at ``at_s``."""
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
    """Whether the guest stalled because its balloon driver reclaims caches. The kernel counts that as a memory stall
    like any other (``machine/guest_memory.py`` ignores it, too)."""
    took = now.actual_mib is not None and before.actual_mib is not None and now.actual_mib < before.actual_mib
    return (now.shrinks or before.shrinks or took) and (now.available_mib or 0) >= GUARD_MIN_MIB


def refaulted_mib(now: Totals, before: Totals) -> int | None:
    """File contents that the guest read again since ``before``, after reclaim; ``None`` if it does not report it."""
    if now.refault_mib is None or before.refault_mib is None:
        return None
    return max(0, now.refault_mib - before.refault_mib)


def pressure(now: Totals, before: Totals) -> str | None:
    """Why a guest is under pressure, in words; ``None`` if it is not, or if it does not report it."""
    elapsed_s = now.reported_s - before.reported_s
    if now.pressure_us is not None and before.pressure_us is not None:
        stalled = now.pressure_us - before.pressure_us
        if stalled >= STALL_US * max(1.0, elapsed_s) and not _gives_caches(now, before):
            return f"its tasks stalled for {stalled / 1000:.0f} ms in the last {elapsed_s:.1f} s"
    if now.major_faults is not None and before.major_faults is not None:
        faults = (now.major_faults - before.major_faults) / max(elapsed_s, 0.5)
        if faults >= THRASHING_FAULTS_S:
            return f"it had {faults:.0f} major faults per second"
    if now.oom_kills is not None and before.oom_kills is not None and now.oom_kills > before.oom_kills:
        return f"its kernel killed {now.oom_kills - before.oom_kills} processes because it was out of memory"
    return None


class LastTarget(NamedTuple):
    """The target that was in force at the last tick, and the target that was then set."""

    seen_mib: int
    set_mib: int


def raised(view: SandboxView, left: LastTarget | None) -> str | None:
    """Whether the target was raised since by another client, for example by pressure relief; in words.

    A target that did not change since the last tick proves nothing: it may never have been set (a dry run, a failed
    socket).
    """
    if left is None or view.target_mib <= left.set_mib:
        return None
    shrank = view.actual_mib is not None and view.actual_mib <= view.target_mib - dead_band_mib(
        view.ceiling_mib
    )
    if view.target_mib == left.seen_mib and not shrank:
        return None
    return (
        f"its target was raised from {left.set_mib} to {view.target_mib} MiB by another client, "
        f"for example by pressure relief"
    )


def follows(view: SandboxView) -> bool:
    """Whether its balloon follows targets, as far as is known. One that stops close to its target is only inexact."""
    if view.state == "guest-refused":
        return view.actual_mib is not None and abs(view.actual_mib - view.target_mib) < dead_band_mib(
            view.ceiling_mib
        )
    return view.state not in UNCOOPERATIVE


def commitment_mib(view: SandboxView) -> int:
    """What an unmanaged sandbox may come to hold: its target or actual memory, or its ceiling if those are unknown."""
    return view.ceiling_mib if view.actual_mib is None else max(view.target_mib, view.actual_mib)


def step_mib(ceiling_mib: int, seen_s: float) -> int:
    """The largest reduction per period, to save memory, for a sandbox first seen ``seen_s`` seconds ago."""
    return int(ceiling_mib * next(share for until, share in STEPS if seen_s < until))


def dead_band_mib(ceiling_mib: int) -> int:
    """Smaller changes of a target are not made: 16 MiB or 1/64 of the ceiling, whichever is more."""
    return max(16, ceiling_mib // 64)


def room_band_mib(ceiling_mib: int) -> int:
    """The same for changes that only concern a guest's room to grow: 16 MiB or 1/16 of the ceiling."""
    return max(16, ceiling_mib // 16)
