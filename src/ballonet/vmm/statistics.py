"""The guest's own statistics, as the balloon device brings them (virtio 1.2 §5.5.6.3). Pure.

Unknown stays unknown: QEMU shows 2⁶⁴−1 for what the guest has not told, and a guest may tell anything, so a
size above its ceiling is not believed either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ballonet.base.memory import mib_to_bytes

UNKNOWN = 2**64 - 1
#: Counters above this are nonsense: nothing counts so far.
_ABSURD = 2**63


@dataclass(frozen=True)
class GuestStatistics:
    """One report of the guest. ``None`` is unknown. Sizes in bytes, faults and swaps are counts since boot."""

    #: Host time of the report, unix seconds (whole: the engine keeps no more); ``None`` if there was none.
    reported_at: int | None
    total_bytes: int | None
    free_bytes: int | None
    available_bytes: int | None
    disk_caches_bytes: int | None
    swap_in_bytes: int | None
    swap_out_bytes: int | None
    major_faults: int | None
    minor_faults: int | None


def parse_statistics(answer: Any, ceiling_mib: int) -> GuestStatistics:
    """Read the answer to ``qom-get guest-stats``; never raises on what a guest can put there."""
    document = answer if isinstance(answer, dict) else {}
    stats = document.get("stats")
    values: dict[str, Any] = stats if isinstance(stats, dict) else {}
    reported_at = document.get("last-update")
    ceiling = mib_to_bytes(ceiling_mib)

    def known(name: str, most: int = _ABSURD) -> int | None:
        value = values.get(f"stat-{name}")
        if not isinstance(value, int) or not 0 <= value <= most or value == UNKNOWN:
            return None
        return value

    total = known("total-memory", ceiling)
    within = ceiling if total is None else total
    return GuestStatistics(
        reported_at=reported_at if isinstance(reported_at, int) and reported_at > 0 else None,
        total_bytes=total,
        free_bytes=known("free-memory", within),
        available_bytes=known("available-memory", within),
        disk_caches_bytes=known("disk-caches", within),
        swap_in_bytes=known("swap-in"),
        swap_out_bytes=known("swap-out"),
        major_faults=known("major-faults"),
        minor_faults=known("minor-faults"),
    )
