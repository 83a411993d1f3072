"""hypeman's rule, reimplemented from its constants: it acts only when the host is short of memory.

Every 2 s. When 10 % of the host or less are available, or any task of the host stalled on memory, each guest gives 64
to 256 MiB, in proportion to what it has above its floor (half of its ceiling, at least 512 MiB), until 15 % of the
host are available again. Two steps of one guest are five seconds apart. Otherwise guests get back what was taken, in
the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.model import Decision, HostView, SandboxView
from ballonet.pilot.policies.common import keep_all, move

ACT_BELOW, STOP_ABOVE = 0.10, 0.15
FLOOR_SHARE, FLOOR_MIB = 0.5, 512
STEP_LEAST_MIB, STEP_MOST_MIB = 64, 256
COOLDOWN_S = 5.0


class Memory(NamedTuple):
    """Whether guests must give memory, the host's stalls so far, and when each guest's target last changed."""

    taking: bool
    stalls_us: int | None
    moved_s: Mapping[str, float]


@dataclass(frozen=True)
class Hypeman:
    name: str = "hypeman"
    period_s: float = 2.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Memory | None) -> Decision:
        if host.available_mib is None:
            return keep_all(sandboxes, memory)
        old = memory or Memory(False, host.pressure_some_us, {})
        free = host.available_mib / max(1, host.total_mib)
        stalls = host.pressure_some_us
        stalled = stalls is not None and old.stalls_us is not None and stalls > old.stalls_us
        taking = free <= ACT_BELOW or stalled or (old.taking and free < STOP_ABOVE)
        # Each guest gives a part of what is missing, in proportion to what it could give.
        could = {view.name: max(0, view.target_mib - _floor(view)) for view in sandboxes}
        lacking = max(0, int((STOP_ABOVE - free) * host.total_mib))
        moved = dict(old.moved_s)
        verdicts = []
        for view in sandboxes:
            state = f"{free:.1%} of the host are available{', and its tasks stall' if stalled else ''}"
            step = 0.0
            if host.at_s - moved.get(view.name, float("-inf")) >= COOLDOWN_S:
                if taking and could[view.name]:
                    share = lacking * could[view.name] / sum(could.values())
                    step = -min(could[view.name], max(STEP_LEAST_MIB, min(STEP_MOST_MIB, share)))
                elif not taking and free > STOP_ABOVE and view.target_mib < view.ceiling_mib:
                    step = STEP_MOST_MIB
            verdict = move(
                view, view.target_mib + step if step else None, state, {"host_free": round(free, 3)}
            )
            if verdict.target_mib is not None:
                moved[view.name] = host.at_s
            verdicts.append(verdict)
        return Decision(verdicts, Memory(taking, stalls, moved))


def _floor(view: SandboxView) -> int:
    return max(view.least_mib, int(view.ceiling_mib * FLOOR_SHARE), min(FLOOR_MIB, view.ceiling_mib))
