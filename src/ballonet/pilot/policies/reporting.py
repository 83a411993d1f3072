"""Free-page reporting only: no target ever moves. What comes back is what the guest reports as free by itself.

Linux reports free blocks of order 9 (2 MiB) or larger, about 2 s after they were freed (``mm/page_reporting.c``:
``PAGE_REPORTING_DELAY``). Page caches and smaller free blocks stay with the guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict


@dataclass(frozen=True)
class Reporting:
    """Leaves every target as it is."""

    name: str = "reporting"
    period_s: float = 10.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        return Decision(
            [
                Verdict(
                    sandbox.name,
                    None,
                    f"the guest reports its free memory by itself; the target stays at {sandbox.target_mib} MiB",
                    {"target_mib": sandbox.target_mib, "guest_ram_mib": sandbox.guest_ram_mib},
                )
                for sandbox in sandboxes
            ],
            memory,
        )
