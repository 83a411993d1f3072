"""Decides from the guest's report how far it may be shrunk. Pure.

The guard is an amount of available memory that a shrink leaves to the guest. Memory beyond it is taken in one step;
then the guest is asked again. A guest that does not report is not shrunk.
"""

from __future__ import annotations

from ballonet.base.dataclass import dataclass
from ballonet.base.memory import MIB, mib_to_bytes

#: The default guard: a tenth of the ceiling, and at least this (MiB).
GUARD_MIN_MIB = 64
#: Major faults per second at which a guest counts as thrashing: its working set does not fit any more.
THRASHING_FAULTS_S = 100
#: A smaller step is not taken (MiB): the guest is at the guard.
_STEP_MIN_MIB = 4


def default_guard_mib(ceiling_mib: int) -> int:
    """max(64 MiB, ceiling / 10)."""
    return max(GUARD_MIN_MIB, ceiling_mib // 10)


@dataclass(frozen=True)
class GuestReading:
    """A report of the guest; ``at`` is on the caller's clock."""

    at: float
    available_bytes: int | None
    major_faults: int | None


@dataclass(frozen=True)
class Permission:
    """How low actual may go now (bytes), and why not lower if that is not the target."""

    lowest_bytes: int
    reason: str | None


def permit(
    target_bytes: int, actual_bytes: int, guard_mib: int, now: GuestReading, before: GuestReading | None
) -> Permission:
    """Decide about a shrink from ``actual_bytes`` towards ``target_bytes``.

    :param actual_bytes: what the guest had *before* it reported ``now``. If it moved meanwhile, the decision errs on
        the safe side.
    :param before: the previous reading of the same shrink, for the rate of faults.
    """
    stay = min(actual_bytes, max(target_bytes, actual_bytes))
    if now.available_bytes is None:
        return Permission(stay, "the guest does not report its available memory")
    faults = _faults_per_second(before, now)
    if faults is not None and faults >= THRASHING_FAULTS_S:
        return Permission(stay, f"the guest is thrashing ({faults:.0f} major faults per second)")
    spare = now.available_bytes - mib_to_bytes(guard_mib)
    if spare >= actual_bytes - target_bytes:
        return Permission(target_bytes, None)
    reason = f"the guest has {now.available_bytes // MIB} MiB available; the guard leaves it {guard_mib} MiB"
    if spare < mib_to_bytes(_STEP_MIN_MIB):
        return Permission(stay, reason)
    return Permission(actual_bytes - spare, reason)


def _faults_per_second(before: GuestReading | None, now: GuestReading) -> float | None:
    if before is None or before.major_faults is None or now.major_faults is None or now.at <= before.at:
        return None
    return (now.major_faults - before.major_faults) / (now.at - before.at)
