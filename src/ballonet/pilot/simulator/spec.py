"""One sandbox of a scenario."""

from __future__ import annotations

from dataclasses import dataclass, field

from ballonet.pilot.simulator.behaviour import Behaviour
from ballonet.pilot.simulator.trace import Trace


@dataclass(frozen=True)
class GuestSpec:
    """One sandbox of a scenario."""

    name: str
    ceiling_mib: int
    trace: Trace
    floor_mib: int
    weight: int = 100
    reserve_mib: int = 0
    initial_mib: int | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)
    #: Caches at the start, of files read once; and the size of those files, which are replaced when they are written or
    #: read again. ``None``: always other files.
    caches_mib: float = 0.0
    files_mib: float | None = None
    relief: bool = True
    deflate_on_oom: bool = True
    #: The sandbox's guard; ``None``: the default.
    guard_mib: int | None = None
    #: Whether the autopilot may pause it.
    pausable: bool = False
