"""Qubes' qmemman, written anew from its constants.

A guest's preferred memory is 1.3 times what it uses (caches not counted), 200 MiB at least; 50 MiB of the host are
kept. When there is more than all prefer, it is given out in proportion to that; when there is less, those with more
than they prefer give first. Moves of less than 150 MiB are not worth it. The original is driven by the guests'
reports, about one a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, backed_mib
from ballonet.pilot.policies.moves import blind, move, mute_host, used_mib
from ballonet.pilot.policies.shares import divide

PREFERRED = 1.3
PREFERRED_LEAST_MIB = 200
RESERVE_MIB = 50
TRANSFER_LEAST_MIB = 150


@dataclass(frozen=True)
class Qmemman:
    name: str = "qmemman"
    period_s: float = 1.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        total = backed_mib(host, sandboxes)
        if total is None:
            return mute_host(sandboxes, memory)
        seeing = [view for view in sandboxes if blind(view) is None]
        total -= RESERVE_MIB + sum(view.target_mib for view in sandboxes if view not in seeing)
        preferred = {view.name: max(PREFERRED_LEAST_MIB, int(PREFERRED * used_mib(view))) for view in seeing}
        prefer = list(preferred.values())
        if sum(prefer) <= total:
            fair = [int(total * mine / max(1, sum(prefer))) for mine in prefer]
        else:
            # Those that have less than they prefer keep it, and get of what the others have too much.
            has = [min(view.target_mib, mine) for view, mine in zip(seeing, prefer, strict=True)]
            fair = divide(total, has, prefer, [max(1, mine - h) for h, mine in zip(has, prefer, strict=True)])
        new = dict(zip(preferred, fair, strict=True))
        verdicts = []
        for view in sandboxes:
            target = new.get(view.name)
            if (
                target is not None
                and abs(min(view.ceiling_mib, target) - view.target_mib) < TRANSFER_LEAST_MIB
            ):
                target = None
            seen = {"preferred_mib": preferred.get(view.name)}
            verdicts.append(move(view, target, f"it prefers {preferred.get(view.name)} MiB", seen))
        return Decision(verdicts, memory)
