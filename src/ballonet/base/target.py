"""Clamps a requested target to the range of a balloon. Pure."""

from __future__ import annotations

from typing import Literal

#: The bound that changed a request: an end of the range, or the limit set by the host.
Clamp = Literal["floor", "ceiling", "limit"]


def clamp_target(
    requested_mib: int, *, floor_mib: int, ceiling_mib: int, limit_mib: int | None
) -> tuple[int, Clamp | None]:
    """The effective target in MiB, and the bound that changed it: first [floor, ceiling], then the host's limit.

    A limit below the floor counts as the floor, which is guaranteed to the guest.
    """
    if requested_mib < floor_mib:
        return floor_mib, "floor"
    if limit_mib is not None and limit_mib < ceiling_mib:
        most = max(limit_mib, floor_mib)
        if requested_mib > most:
            return most, "limit"
    if requested_mib > ceiling_mib:
        return ceiling_mib, "ceiling"
    return requested_mib, None
