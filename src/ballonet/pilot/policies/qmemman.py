"""The rule of Qubes' qmemman, reimplemented from its constants.

A guest's preferred memory is 1.3 times what it uses (without caches), at least 200 MiB; 50 MiB of the host are kept
back. If there is more than all guests prefer, all of it is given out in proportion to the preferred memory. If there
is less, guests that have more than they prefer give first. Changes below 150 MiB are not made. The original reacts to
reports of the guests, about one per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, backed_mib
from ballonet.pilot.policies.common import keep_all, missing_input, move, used_mib
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
            return keep_all(sandboxes, memory)
        seeing = [view for view in sandboxes if missing_input(view) is None]
        total -= RESERVE_MIB + sum(view.target_mib for view in sandboxes if view not in seeing)
        preferred = {view.name: max(PREFERRED_LEAST_MIB, int(PREFERRED * used_mib(view))) for view in seeing}
        prefer = list(preferred.values())
        if sum(prefer) <= total:
            fair = [int(total * mine / max(1, sum(prefer))) for mine in prefer]
        else:
            # Guests that have less than they prefer keep it and get what the others have in excess.
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
