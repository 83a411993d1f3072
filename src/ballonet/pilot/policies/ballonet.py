"""Ours: every guest has what it needs and room to grow; what it merely holds goes back to the host. Pure.

In order, out of what may be promised: each sandbox's floor or reserve, and to a guest under pressure what it has; then
what each needs (:mod:`working_set`), by weight where that is too much; then everything to guests under pressure; then
room to grow for the others. So idle memory goes first, and a light sandbox's before a heavy one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ballonet.pilot.model import Decision, HostView, Input, SandboxView, Verdict, promisable_mib
from ballonet.pilot.policies.shares import divide
from ballonet.pilot.policies.working_set import Judgement, Kept, Tuning, judge

#: A target moves when it is off by this much (MiB), or by this share of the ceiling, whichever is more.
DEAD_BAND_MIB = 16
DEAD_BAND_SHARE = 1 / 64
#: The most that is taken in one period to save memory, as a share of the ceiling, by the seconds since a sandbox was
#: first seen: the first steps after a start are small, so that a wrong input shows before it hurts.
STEPS = ((2.0, 1 / 32), (4.0, 1 / 16), (6.0, 1 / 8), (float("inf"), 1 / 4))


class Memory(NamedTuple):
    """What is remembered from tick to tick."""

    at_s: float
    sandboxes: Mapping[str, Kept]


@dataclass(frozen=True)
class Ballonet:
    """Our policy."""

    tuning: Tuning = field(default_factory=Tuning)
    name: str = "ballonet"
    period_s: float = 1.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Memory | None) -> Decision:
        before: Mapping[str, Kept] = {} if memory is None else memory.sandboxes
        passed_s = self.period_s if memory is None else max(0.0, host.at_s - memory.at_s)
        judged = [judge(view, host.at_s, before.get(view.name), self.tuning) for view in sandboxes]
        kept = {
            view.name: found.kept
            for view, found in zip(sandboxes, judged, strict=True)
            if found.kept is not None
        }
        promisable = promisable_mib(host, sandboxes)
        if promisable is None:
            why = "left alone: the host does not tell its available memory"
            verdicts = [Verdict(view.name, None, why, inputs(host, view, None)) for view in sandboxes]
            return Decision(verdicts, Memory(host.at_s, kept), [why])
        notes: list[str] = []
        alone_mib = 0
        ours: list[tuple[SandboxView, Judgement]] = []
        for view, found in zip(sandboxes, judged, strict=True):
            if found.alone is None:
                ours.append((view, found))
            else:
                alone_mib += max(
                    view.target_mib, view.ceiling_mib if view.actual_mib is None else view.actual_mib
                )
        budget = max(0, promisable - alone_mib)
        targets = self._targets(host, ours, budget, passed_s, before, notes)
        verdicts = []
        at = 0
        for view, found in zip(sandboxes, judged, strict=True):
            seen = inputs(host, view, promisable)
            if found.alone is not None:
                verdicts.append(Verdict(view.name, None, f"left alone: {found.alone}", seen))
                continue
            target = targets[at]
            at += 1
            kept[view.name] = kept[view.name]._replace(target_mib=target)
            moved = None if target == view.target_mib else target
            verdicts.append(Verdict(view.name, moved, _reason(view, found, target), seen))
        return Decision(verdicts, Memory(host.at_s, kept), notes)

    def _targets(
        self,
        host: HostView,
        ours: Sequence[tuple[SandboxView, Judgement]],
        budget: int,
        passed_s: float,
        before: Mapping[str, Kept],
        notes: list[str],
    ) -> list[int]:
        least, work, most, want, weights = [], [], [], [], []
        for view, found in ours:
            low = view.least_mib
            wanted = found.want_mib
            if found.pressed is not None:
                low = min(view.ceiling_mib, max(low, view.actual_mib or 0))
            elif wanted < view.target_mib:
                wanted = max(wanted, view.target_mib - self._step(host, view, before, passed_s))
            least.append(low)
            work.append(max(low, found.work_mib))
            most.append(view.ceiling_mib if found.pressed is not None else max(low, found.work_mib))
            want.append(max(low, wanted))
            weights.append(view.weight)
        if sum(least) > budget:
            notes.append(
                f"{sum(least)} MiB of floors, reserves and guests under pressure are more than the {budget} MiB that "
                "may be promised: nobody else gets more than that"
            )
        targets = divide(
            budget, divide(budget, divide(budget, least, work, weights), most, weights), want, weights
        )
        kept = [
            view.target_mib if _near(view, found, target) else target
            for (view, found), target in zip(ours, targets, strict=True)
        ]
        if sum(kept) > max(budget, sum(least)):
            # Staying where they are, all together would have too much: only those stay that would grow.
            kept = [min(stay, target) for stay, target in zip(kept, targets, strict=True)]
        return kept

    def _step(self, host: HostView, view: SandboxView, before: Mapping[str, Kept], passed_s: float) -> int:
        """The most that may be taken now to save memory (MiB)."""
        known = before.get(view.name)
        seen_s = 0.0 if known is None else host.at_s - known.first_s
        share = next(share for until, share in STEPS if seen_s < until)
        return int(view.ceiling_mib * share * min(1.0, passed_s / self.period_s))


def dead_band_mib(ceiling_mib: int) -> int:
    """How far a target may be off without being moved."""
    return max(DEAD_BAND_MIB, int(ceiling_mib * DEAD_BAND_SHARE))


def inputs(host: HostView, view: SandboxView, promisable: int | None) -> dict[str, Input]:
    """All that a decision about ``view`` was made from."""
    seen: dict[str, Input] = view._asdict()
    del seen["name"]
    seen["host_available_mib"] = host.available_mib
    seen["host_reserve_mib"] = host.reserve_mib
    seen["promisable_mib"] = promisable
    return seen


def _near(view: SandboxView, found: Judgement, target: int) -> bool:
    if found.pressed is not None or not view.least_mib <= view.target_mib <= view.ceiling_mib:
        return False
    return abs(target - view.target_mib) < dead_band_mib(view.ceiling_mib)


def _reason(view: SandboxView, found: Judgement, target: int) -> str:
    if found.pressed is not None:
        lacking = (
            "" if target == view.ceiling_mib else f" of {view.ceiling_mib}: the host may promise no more"
        )
        return f"{found.pressed}: it gets {target} MiB{lacking}"
    if target == view.target_mib:
        return f"stays at {target} MiB: {found.why}"
    if target > view.target_mib:
        return f"grows by {target - view.target_mib} to {target} MiB: {found.why}"
    forced = ""
    if target < found.work_mib:
        forced = f", of which the host may promise it {target}"
    return f"gives {view.target_mib - target} MiB back, down to {target}: {found.why}{forced}"
