"""Proxmox's automatic ballooning, written anew from its constants.

Every 10 s. 80 % of the host's memory is to be in use; nothing happens within 10 MiB of that, and no sandbox moves by
more than 100 MiB at once. What a sandbox is to have: its least, and a share of what is left by its shares (here its
weight). To shrink, those with more free than a quarter of their least come first; to grow, those with less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView
from ballonet.pilot.policies.moves import blind, move, mute_host
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
            return mute_host(sandboxes, memory)
        spare = int(host.total_mib * GOAL) - (host.total_mib - host.available_mib)
        why = f"the host may use {spare} MiB more" if spare >= 0 else f"the host uses {-spare} MiB too much"
        seeing = [view for view in sandboxes if blind(view) is None]
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
