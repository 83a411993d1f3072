"""Proxmox's automatic ballooning, reimplemented from its constants.

Every 10 s. The goal is 80 % of the host's memory in use. Nothing happens within 10 MiB of that, and no target changes
by more than 100 MiB at once. A sandbox's fair amount is its minimum and a share of the rest by its shares (here its
weight). Guests with more free memory than a quarter of their minimum shrink first; guests with less grow first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView
from ballonet.pilot.policies.common import keep_all, missing_input, move
from ballonet.pilot.policies.shares import divide

GOAL = 0.8
DEAD_BAND_MIB = 10
STEP_MIB = 100
FREE_SHARE = 0.25


@dataclass(frozen=True)
class Proxmox:
    name: str = "proxmox"
    period_s: float = 10.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        if host.available_mib is None:
            return keep_all(sandboxes, memory)
        spare = int(host.total_mib * GOAL) - (host.total_mib - host.available_mib)
        side = "below" if spare >= 0 else "above"
        why = f"the host uses {abs(spare)} MiB {side} {GOAL:.0%} of its memory"
        seeing = [view for view in sandboxes if missing_input(view) is None]
        new = {view.name: view.target_mib for view in seeing}
        if abs(spare) >= DEAD_BAND_MIB:
            together = sum(view.target_mib for view in seeing) + spare
            least = [view.least_mib for view in seeing]
            fair = divide(together, least, [v.ceiling_mib for v in seeing], [v.weight for v in seeing])
            rest = abs(spare)
            first = [view for view in seeing if _comfortable(view) == (spare < 0)]
            for view in [*first, *(view for view in seeing if view not in first)]:
                off = fair[seeing.index(view)] - view.target_mib
                if (off < 0) == (spare < 0) and off and rest:
                    step = min(abs(off), STEP_MIB, rest)
                    rest -= step
                    new[view.name] += step if spare > 0 else -step
        verdicts = [move(view, new.get(view.name), why, {"spare_mib": spare}) for view in sandboxes]
        return Decision(verdicts, memory)


def _comfortable(view: SandboxView) -> bool:
    return (view.guest_free_mib or 0) > FREE_SHARE * view.least_mib
