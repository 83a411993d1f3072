"""The rule of XAPI's squeezed, reimplemented: every guest is shrunk by the same fraction of its range.

Every 10 s. All guests get the same fraction, (target − min) / (max − min), such that all memory is given out. A guest
that makes no progress towards its target for 5 s is inactive: it is left out and counts with its actual memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.model import Decision, HostView, SandboxView, backed_mib
from ballonet.pilot.policies.common import keep_all, missing_input, move

STUCK_S = 5.0
#: Tolerance for reaching a target, and the least progress that counts (MiB): balloons are not exact.
INEXACT_MIB = 4


class Progress(NamedTuple):
    """When a guest last made progress, and its memory at that time."""

    at_s: float
    actual_mib: int
    target_mib: int


@dataclass(frozen=True)
class Squeezed:
    name: str = "squeezed"
    period_s: float = 10.0

    def decide(
        self, host: HostView, sandboxes: Sequence[SandboxView], memory: Mapping[str, Progress] | None
    ) -> Decision:
        total = backed_mib(host, sandboxes)
        if total is None:
            return keep_all(sandboxes, memory)
        progress = {view.name: _follow(host, view, (memory or {}).get(view.name)) for view in sandboxes}
        active = []
        for view in sandboxes:
            here = progress[view.name]
            stuck = (
                abs((view.actual_mib or 0) - view.target_mib) > INEXACT_MIB
                and host.at_s - here.at_s >= STUCK_S
            )
            if missing_input(view) is None and not stuck:
                active.append(view)
            else:
                total -= view.ceiling_mib if view.actual_mib is None else view.actual_mib
        least = sum(view.least_mib for view in active)
        range_mib = sum(view.ceiling_mib for view in active) - least
        gamma = min(1.0, max(0.0, (total - least) / range_mib)) if range_mib else 1.0
        verdicts = []
        for view in sandboxes:
            if view in active:
                target = view.least_mib + int(gamma * (view.ceiling_mib - view.least_mib))
                reason = f"every guest gets {gamma:.1%} of its range"
                verdicts.append(move(view, target, reason, {"gamma": gamma}))
            else:
                reason = "its balloon makes no progress (inactive)"
                verdicts.append(move(view, None, reason, {"gamma": gamma}))
        notes = (
            []
            if total >= least
            else [f"the minimums of all guests, {least} MiB, exceed the {total} MiB that are available"]
        )
        return Decision(verdicts, progress, notes)


def _follow(host: HostView, view: SandboxView, before: Progress | None) -> Progress:
    actual = view.actual_mib or 0
    if (
        before is None
        or before.target_mib != view.target_mib
        or abs(actual - before.actual_mib) > INEXACT_MIB
    ):
        return Progress(host.at_s, actual, view.target_mib)
    return before
