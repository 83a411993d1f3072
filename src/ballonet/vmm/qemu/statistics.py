"""Reads QEMU's answer about the guest's statistics. Pure.

QEMU shows 2⁶⁴−1 for what the guest has not reported. A guest may report anything, so a size above its ceiling counts as
unknown, too.
"""

from __future__ import annotations

from typing import Any

from ballonet.base.memory import mib_to_bytes
from ballonet.vmm.statistics import GuestStatistics

UNKNOWN = 2**64 - 1
#: Counters above this are implausible.
_IMPLAUSIBLE = 2**63


def parse_statistics(answer: Any, ceiling_mib: int) -> GuestStatistics:
    """Read the answer to ``qom-get guest-stats``; never raises on what a guest can put there."""
    document = answer if isinstance(answer, dict) else {}
    stats = document.get("stats")
    values: dict[str, Any] = stats if isinstance(stats, dict) else {}
    reported_at = document.get("last-update")
    ceiling = mib_to_bytes(ceiling_mib)

    def known(name: str, most: int = _IMPLAUSIBLE) -> int | None:
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
