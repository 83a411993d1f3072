"""vm0's rule, reimplemented from its constants: each guest by itself, by its available memory.

Every 5 s. Above 384 MiB of available memory the balloon inflates, below 192 MiB it deflates, both towards 256 MiB, by
at most 256 MiB. The floor is a quarter of the ceiling (1 GiB of 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.policies.common import move

INFLATE_ABOVE_MIB, DEFLATE_BELOW_MIB, AIM_MIB = 384, 192, 256
STEP_MIB = 256
FLOOR_SHARE = 0.25


@dataclass(frozen=True)
class Vm0:
    name: str = "vm0"
    period_s: float = 5.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        return Decision([_judge(view) for view in sandboxes], memory)


def _judge(view: SandboxView) -> Verdict:
    available = view.guest_available_mib
    if available is None or DEFLATE_BELOW_MIB <= available <= INFLATE_ABOVE_MIB:
        return move(view, None, f"{available} MiB are available", {})
    step = max(-STEP_MIB, min(STEP_MIB, AIM_MIB - available))
    target = max(view.target_mib + step, view.ceiling_mib * FLOOR_SHARE)
    return move(view, target, f"{available} MiB are available, {AIM_MIB} MiB are intended", {})
