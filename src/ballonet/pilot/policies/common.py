"""Shared by the policies that follow other projects: missing inputs, range limits, and reasons in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ballonet.pilot.model import Decision, Input, SandboxView, Verdict


def missing_input(view: SandboxView) -> str | None:
    """Why a policy cannot decide about ``view``; ``None`` if it can."""
    if view.problem is not None:
        return view.problem
    for name in ("actual_mib", "guest_available_mib", "guest_free_mib"):
        if getattr(view, name) is None:
            return f"{name} is unknown"
    return None


def used_mib(view: SandboxView) -> int:
    """Memory that the guest uses and cannot give up: its actual memory minus its available memory."""
    return max(0, (view.actual_mib or 0) - (view.guest_available_mib or 0))


def move(view: SandboxView, target: float | None, reason: str, inputs: Mapping[str, Input]) -> Verdict:
    """A verdict with the target limited to its range; ``None``, or the target in force, changes nothing."""
    common: dict[str, Input] = {
        "target_mib": view.target_mib,
        "actual_mib": view.actual_mib,
        "guest_available_mib": view.guest_available_mib,
    }
    seen = common | dict(inputs)
    why = missing_input(view)
    if why is not None:
        return Verdict(view.name, None, f"left alone: {why}", seen)
    if target is None:
        return Verdict(view.name, None, f"stays at {view.target_mib} MiB: {reason}", seen)
    new = min(view.ceiling_mib, max(view.least_mib, int(target)))
    if new == view.target_mib:
        return Verdict(view.name, None, f"stays at {new} MiB: {reason}", seen)
    return Verdict(view.name, new, f"from {view.target_mib} to {new} MiB: {reason}", seen)


def keep_all(sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
    """No target changes while the host does not report its available memory."""
    why = "the host does not report its available memory"
    return Decision([move(view, None, why, {}) for view in sandboxes], memory, [why])
