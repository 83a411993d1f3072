"""A sandbox that the autopilot looks after, as the registry knows it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A running sandbox with a control socket, by the registry's word."""

    name: str
    run_id: str
    control_socket: str
    ceiling_mib: int
    weight: int
    reserve_mib: int
    #: Unix time of its guest's first word.
    started_at: float
