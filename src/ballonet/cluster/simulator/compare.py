"""Runs several ways of placing on the same plan, and finds how many sandboxes each can run at a bearable slowdown.
Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.suggest import hint_for
from ballonet.cluster.simulator.simulation import PLACERS, Outcome, Plan, simulate

#: Always run, first and last: the others are compared with them.
BASELINE, YARDSTICK = "by ceiling", "oracle"
#: The search for the most sandboxes ends when the result is known this well.
PRECISION = 0.01


@dataclass(frozen=True)
class Arm:
    """The outcome of one way of placing, with the outcomes that it is compared with."""

    outcome: Outcome
    ceiling: Outcome
    oracle: Outcome

    @property
    def of_ceiling(self) -> float:
        """Sandboxes, relative to placement by ceiling."""
        return self.outcome.running / self.ceiling.running

    @property
    def of_oracle(self) -> float:
        """Sandboxes, relative to the oracle."""
        return self.outcome.running / self.oracle.running

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.outcome.as_dict(),
            "of_ceiling": round(self.of_ceiling, 4),
            "of_oracle": round(self.of_oracle, 4),
        }


def check_placements(names: Sequence[str]) -> None:
    """
    :raises ConfigError: a name is unknown.
    """
    for name in names:
        if name not in PLACERS:
            raise ConfigError(
                f"unknown placement {name!r}",
                hint=hint_for(name, PLACERS, f"choose one of {', '.join(map(repr, PLACERS))}"),
            )


def compare(plan: Plan, names: Sequence[str], most_slowdown: float | None = None) -> list[Arm]:
    """Run each of ``names``, and those that they are compared with.

    :param most_slowdown: find for each the most sandboxes that lose at most this share of their work, on hosts that
        never run out of memory, instead of running all that are wanted.
    :raises ConfigError: a name is unknown.
    """
    check_placements(names)
    run = [BASELINE, *(name for name in names if name not in (BASELINE, YARDSTICK)), YARDSTICK]
    outcomes = [
        simulate(plan, name) if most_slowdown is None else most(plan, name, most_slowdown) for name in run
    ]
    return [Arm(outcome, outcomes[0], outcomes[-1]) for outcome in outcomes]


def most(plan: Plan, name: str, slowdown: float) -> Outcome:
    """The outcome with the most sandboxes at which hosts are not short of memory and ``slowdown`` is kept."""

    def bearable(outcome: Outcome) -> bool:
        return outcome.slowdown <= slowdown and outcome.short_s == 0

    best = simulate(plan, name)
    if bearable(best):
        return best
    low, high = 0, plan.wanted
    while high - low > max(1, PRECISION * high):
        wanted = (low + high) // 2
        found = simulate(dataclasses.replace(plan, wanted=wanted), name)
        if bearable(found):
            low, best = wanted, found
        else:
            high = wanted
    if low == 0:
        raise ConfigError(
            f"with the placement {name!r} not even {high} sandboxes keep a slowdown of {slowdown:.1%} on "
            f"{plan.hosts.count} hosts",
            hint="use larger hosts",
        )
    return best
