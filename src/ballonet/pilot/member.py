"""A sandbox that the autopilot manages, as recorded in the registry. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A running sandbox with a control socket, as recorded in the registry."""

    name: str
    run_id: str
    control_socket: str
    ceiling_mib: int
    weight: int
    reserve_mib: int
    #: Whether the autopilot may pause it.
    pausable: bool
    #: Unix time at which its guest was up.
    started_at: float
