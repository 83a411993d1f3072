"""MOM's ``balloon.rules`` (oVirt), written anew from its constants.

Every 10 s, on averages of ten samples taken every 5 s. Pressure when less than 20 % of the host is free, critical
from 5 %. A guest keeps 20 % of what it has free; under pressure that is scaled by host free / 20 %; when critical it
is host free − 5 %. A change is at most 5 % and at least 0.25 % of what the guest has. Without pressure it grows by 5
%, or at once to used + 20 % of what it has. As in the original, *used* is all that is not free: caches, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.policies.moves import blind, move, mute_host

EVERY_S = 10.0
SAMPLES = 10
PRESSURE, CRITICAL = 0.20, 0.05
GUEST_FREE = 0.20
CHANGE_MOST, CHANGE_LEAST = 0.05, 0.0025


class Memory(NamedTuple):
    """The last samples: of the host's free share, and of each guest's memory and use."""

    acted_s: float
    host: tuple[float, ...]
    guests: Mapping[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Mom:
    name: str = "mom"
    #: How often it samples.
    period_s: float = 5.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Memory | None) -> Decision:
        if host.available_mib is None:
            return mute_host(sandboxes, memory)
        old = memory or Memory(float("-inf"), (), {})
        free_shares = (*old.host, host.available_mib / max(1, host.total_mib))[-SAMPLES:]
        guests = {}
        for view in sandboxes:
            if blind(view) is None:
                sample = (view.actual_mib or 0, (view.actual_mib or 0) - (view.guest_free_mib or 0))
                guests[view.name] = (*old.guests.get(view.name, ()), sample)[-SAMPLES:]
        due = host.at_s - old.acted_s >= EVERY_S
        free = sum(free_shares) / len(free_shares)
        verdicts = [
            self._judge(view, guests.get(view.name, ()), free)
            if due
            else move(view, None, "it decides every 10 s", {})
            for view in sandboxes
        ]
        return Decision(verdicts, Memory(host.at_s if due else old.acted_s, free_shares, guests))

    @staticmethod
    def _judge(view: SandboxView, samples: tuple[tuple[int, int], ...], free: float) -> Verdict:
        if not samples:
            return move(view, None, "nothing is known of it", {})
        has = sum(sample[0] for sample in samples) / len(samples)
        used = sum(sample[1] for sample in samples) / len(samples)
        seen = {"host_free": round(free, 3), "average_mib": round(has), "average_used_mib": round(used)}
        least_change = CHANGE_LEAST * has
        if free < PRESSURE:
            keep = free - CRITICAL if free <= CRITICAL else GUEST_FREE * free / PRESSURE
            target = max(used + keep * has, has * (1 - CHANGE_MOST))
            why = (
                f"the host has {free:.1%} free; it uses {used:.0f} of {has:.0f} MiB and keeps {keep:.1%} free"
            )
            return move(view, target if view.target_mib - target > least_change else None, why, seen)
        target = min(view.ceiling_mib, max(used + GUEST_FREE * has, has * (1 + CHANGE_MOST)))
        why = f"the host has {free:.1%} free; it uses {used:.0f} MiB"
        return move(view, target if target - view.target_mib > least_change else None, why, seen)
