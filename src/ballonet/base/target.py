"""How a requested target is brought into range: the one rule, for the device and for those who ask before. Pure."""

from __future__ import annotations

from typing import Literal

#: What was in the way of a request: an end of the range, or the host's limit.
Clamp = Literal["floor", "ceiling", "limit"]


def clamp_target(
    requested_mib: int, *, floor_mib: int, ceiling_mib: int, limit_mib: int | None
) -> tuple[int, Clamp | None]:
    """The effective target in MiB, and what moved it: [floor, ceiling], then under the host's limit.

    A limit below the floor means the floor: the floor is promised to the guest.
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
