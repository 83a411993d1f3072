"""MOM's ``balloon.rules`` (oVirt), reimplemented from its constants.

Every 10 s, on averages of ten samples taken every 5 s. The host is under pressure when less than 20 % of it are free;
5 % are critical. A guest keeps 20 % of its memory free; under pressure that share is scaled by host free / 20 %, in
the critical state it is host free − 5 %. A change is at most 5 % and at least 0.25 % of the guest's memory. Without
pressure a guest grows by 5 %, or in one step to used + 20 % of its memory. As in the original, *used* is everything
that is not free, including caches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.policies.common import keep_all, missing_input, move

EVERY_S = 10.0
SAMPLES = 10
PRESSURE, CRITICAL = 0.20, 0.05
GUEST_FREE = 0.20
CHANGE_MOST, CHANGE_LEAST = 0.05, 0.0025


class Memory(NamedTuple):
    """The last samples: the host's free share, and each guest's memory and use."""

    acted_s: float
    host: tuple[float, ...]
    guests: Mapping[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Mom:
    name: str = "mom"
    #: Seconds between two samples.
    period_s: float = 5.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Memory | None) -> Decision:
        if host.available_mib is None:
            return keep_all(sandboxes, memory)
        old = memory or Memory(float("-inf"), (), {})
        free_shares = (*old.host, host.available_mib / max(1, host.total_mib))[-SAMPLES:]
        guests = {}
        for view in sandboxes:
            if missing_input(view) is None:
                sample = (view.actual_mib or 0, (view.actual_mib or 0) - (view.guest_free_mib or 0))
                guests[view.name] = (*old.guests.get(view.name, ()), sample)[-SAMPLES:]
        due = host.at_s - old.acted_s >= EVERY_S
        free = sum(free_shares) / len(free_shares)
        verdicts = [
            self._judge(view, guests.get(view.name, ()), free)
            if due
            else move(view, None, "this policy decides every 10 s", {})
            for view in sandboxes
        ]
        return Decision(verdicts, Memory(host.at_s if due else old.acted_s, free_shares, guests))

    @staticmethod
    def _judge(view: SandboxView, samples: tuple[tuple[int, int], ...], free: float) -> Verdict:
        if not samples:
            return move(view, None, "nothing is known about it", {})
        has = sum(sample[0] for sample in samples) / len(samples)
        used = sum(sample[1] for sample in samples) / len(samples)
        seen = {"host_free": round(free, 3), "average_mib": round(has), "average_used_mib": round(used)}
        least_change = CHANGE_LEAST * has
        if free < PRESSURE:
            keep = free - CRITICAL if free <= CRITICAL else GUEST_FREE * free / PRESSURE
            target = max(used + keep * has, has * (1 - CHANGE_MOST))
            why = (
                f"{free:.1%} of the host are free; the guest uses {used:.0f} of {has:.0f} MiB "
                f"and keeps {keep:.1%} free"
            )
            return move(view, target if view.target_mib - target > least_change else None, why, seen)
        target = min(view.ceiling_mib, max(used + GUEST_FREE * has, has * (1 + CHANGE_MOST)))
        why = f"{free:.1%} of the host are free; the guest uses {used:.0f} MiB"
        return move(view, target if target - view.target_mib > least_change else None, why, seen)
