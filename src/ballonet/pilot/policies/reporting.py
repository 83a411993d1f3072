"""Free-page reporting only: no target changes. The host gets back what the guest reports as free by itself.

Linux reports free blocks of order 9 (2 MiB) and above, about 2 s after they were freed (``mm/page_reporting.c``:
``PAGE_REPORTING_DELAY``). Page caches and smaller free blocks are not reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict


@dataclass(frozen=True)
class Reporting:
    """Leaves all targets as they are."""

    name: str = "reporting"
    period_s: float = 10.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        return Decision(
            [
                Verdict(
                    sandbox.name,
                    None,
                    f"stays at {sandbox.target_mib} MiB: this policy relies on free-page reporting",
                    {"target_mib": sandbox.target_mib, "guest_ram_mib": sandbox.guest_ram_mib},
                )
                for sandbox in sandboxes
            ],
            memory,
        )
