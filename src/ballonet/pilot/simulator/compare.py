"""Runs several policies on the same scenario and compares each with static and the oracle. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.pilot.policies.catalog import make_policy
from ballonet.pilot.simulator.oracle import Oracle
from ballonet.pilot.simulator.simulation import Outcome, Scenario, simulate

#: In this arm guests do not report free pages: a VM without any memory management.
WITHOUT_REPORTING = "static"


@dataclass(frozen=True)
class Arm:
    """The outcome of one policy, with the outcomes that it is compared with."""

    outcome: Outcome
    static: Outcome
    oracle: Outcome

    @property
    def footprint_of_static(self) -> float:
        """Footprint relative to static."""
        return self.outcome.footprint_gib_min / self.static.footprint_gib_min

    @property
    def footprint_of_oracle(self) -> float:
        """Footprint relative to the oracle."""
        return self.outcome.footprint_gib_min / self.oracle.footprint_gib_min

    @property
    def peak_of_static(self) -> float:
        """Peak relative to static."""
        return self.outcome.peak_mib / self.static.peak_mib

    @property
    def slowdown(self) -> float:
        """Share of busy time that was lost, minus static's share."""
        return self.outcome.slowdown - self.static.slowdown

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Sizes in MiB, times in seconds, shares between 0 and 1."""
        out = self.outcome
        return {
            "scenario": out.scenario,
            "policy": out.policy,
            "footprint_gib_min": round(out.footprint_gib_min, 3),
            "footprint_of_static": round(self.footprint_of_static, 4),
            "footprint_of_oracle": round(self.footprint_of_oracle, 4),
            "peak_mib": round(out.peak_mib, 1),
            "peak_of_static": round(self.peak_of_static, 4),
            "slowdown": round(self.slowdown, 5),
            "slowdown_worst_guest": round(out.slowdown_worst, 5),
            "below_working_set_s": round(out.below_s, 1),
            "guest_oom_kills": out.guest_oom_kills,
            "oom_deflated_mib": round(out.oom_deflated_mib, 1),
            "host_out_of_memory": out.host_oom,
            "host_available_least_mib": round(out.host_available_mib, 1),
            "targets_moved": out.targets_moved,
            "moved_gib": round(out.moved_gib, 2),
            "reliefs": out.reliefs,
            "pauses": out.pauses,
            "asked": out.asked,
            "decisions_with_notes": out.notes,
            "rules_broken": dict(Counter(violation.rule for violation in out.violations)),
            "sandbox_ticks": out.sandbox_ticks,
        }


def compare(scenario: Scenario, policies: Sequence[str], *, sample_s: float | None = None) -> list[Arm]:
    """Run each of ``policies`` on ``scenario``. Static and the oracle always run and come first and last.

    :raises ConfigError: a policy name is unknown.
    """
    names = [WITHOUT_REPORTING, *(name for name in policies if name not in (WITHOUT_REPORTING, "oracle"))]
    outcomes = [
        simulate(scenario, make_policy(name), reporting=name != WITHOUT_REPORTING, sample_s=sample_s)
        for name in names
    ]
    outcomes.append(simulate(scenario, Oracle(scenario), sample_s=sample_s))
    return [Arm(outcome, outcomes[0], outcomes[-1]) for outcome in outcomes]
