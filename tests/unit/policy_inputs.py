"""Inputs for tests of policies: one sandbox with everything known, and hosts for it."""

from __future__ import annotations

from typing import Any

from ballonet.pilot.model import HostView, SandboxView


def sandbox(name: str = "a", **changes: Any) -> SandboxView:
    """A sandbox of 1 GiB that uses 300 MiB and has 200 MiB of caches, without problems."""
    view = SandboxView(
        name,
        ceiling_mib=1024,
        floor_mib=256,
        target_mib=1024,
        actual_mib=1024,
        resident_mib=560,
        guest_ram_mib=500,
        guest_total_mib=1000,
        guest_free_mib=524,
        guest_available_mib=724,
        guest_caches_mib=200,
        guest_age_s=0.1,
        pressure_some_us=0,
        pressure_full_us=0,
        major_faults=0,
        oom_kills=0,
        age_s=100.0,
    )
    return view._replace(**changes)


def host(at_s: float = 0.0, **changes: Any) -> HostView:
    """8 GiB, of which half is available."""
    view = HostView(at_s, 8192, 4096, reserve_mib=400, pressure_some_us=0, pressure_full_us=0)
    return view._replace(**changes)
