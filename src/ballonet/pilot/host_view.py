"""The host as a policy sees it: the whole host, or a budget. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.base.memory import bytes_to_mib
from ballonet.host.memory import HostMemory
from ballonet.pilot.model import HostView, SandboxView


def default_reserve_mib(total_mib: int) -> int:
    """Memory that is never promised to sandboxes: 5 % of the total, at least 64 MiB."""
    return max(64, total_mib // 20)


def host_view(
    memory: HostMemory,
    at_s: float,
    sandboxes: Sequence[SandboxView],
    *,
    budget_mib: int | None = None,
    reserve_mib: int | None = None,
    overcommit: float = 1.0,
) -> HostView:
    """The host, or ``budget_mib`` of it: what the engines of all sandboxes may hold together.

    With a budget, the view is that of a host with this much memory that runs nothing else, but never with more
    available memory than the real host. Available memory is negative if the engines hold more than the budget.
    """
    total = None if memory.total_bytes is None else bytes_to_mib(memory.total_bytes)
    available = None if memory.available_bytes is None else bytes_to_mib(memory.available_bytes)
    if budget_mib is not None:
        # If its resident memory is unknown, a sandbox may hold its target.
        held = sum(box.target_mib if box.resident_mib is None else box.resident_mib for box in sandboxes)
        left = budget_mib - held
        available = left if available is None else min(left, available)
        total = budget_mib if total is None else min(budget_mib, total)
    total = total or 0
    return HostView(
        at_s=at_s,
        total_mib=total,
        available_mib=available,
        reserve_mib=default_reserve_mib(total) if reserve_mib is None else reserve_mib,
        pressure_some_us=_microseconds(memory.pressure_some_s),
        pressure_full_us=_microseconds(memory.pressure_full_s),
        overcommit=overcommit,
    )


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)
