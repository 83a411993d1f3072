"""Every sandbox keeps its ceiling. The baseline that the other policies are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict


@dataclass(frozen=True)
class Static:
    """Sets every target to the ceiling and never takes memory back."""

    name: str = "static"
    period_s: float = 10.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        return Decision([_keep_ceiling(sandbox) for sandbox in sandboxes], memory)


def _keep_ceiling(sandbox: SandboxView) -> Verdict:
    inputs = {"target_mib": sandbox.target_mib, "ceiling_mib": sandbox.ceiling_mib}
    if sandbox.problem is not None:
        return Verdict(sandbox.name, None, f"left alone: {sandbox.problem}", inputs)
    if sandbox.target_mib == sandbox.ceiling_mib:
        return Verdict(sandbox.name, None, f"stays at its ceiling, {sandbox.ceiling_mib} MiB", inputs)
    return Verdict(
        sandbox.name,
        sandbox.ceiling_mib,
        f"every sandbox gets its ceiling, {sandbox.ceiling_mib} MiB",
        inputs,
    )
