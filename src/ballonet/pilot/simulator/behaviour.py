"""How a modelled balloon follows its target: the five guest models that XAPI's squeezed is tested with. Pure.

Reimplemented from what squeezed's tests do (``test/squeeze_test.ml``): an ideal guest, one that does not shrink below
a limit, one that does not grow above a limit, one whose driver does nothing, and one whose driver works only in every
other interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kind of balloon behaviour."""

    IDEAL = "ideal"
    LOWER_LIMIT = "lower-limit"
    UPPER_LIMIT = "upper-limit"
    STUCK = "stuck"
    INTERMITTENT = "intermittent"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of one guest: its kind and, if applicable, the limit (MiB) or the interval (seconds)."""

    kind: Kind = Kind.IDEAL
    limit_mib: float = 0.0
    interval_s: float = 0.25
    #: It stops this far from its target.
    inexact_mib: float = 0.0

    def reach(self, actual_mib: float, goal_mib: float, most_mib: float, at_s: float) -> float:
        """The actual memory after one step of at most ``most_mib`` from ``actual_mib`` towards ``goal_mib``."""
        kind = self.kind
        if self.inexact_mib > 0.0:
            off = goal_mib - actual_mib
            if abs(off) <= self.inexact_mib:
                return actual_mib
            goal_mib -= self.inexact_mib if off > 0 else -self.inexact_mib
        if kind is Kind.STUCK or (kind is Kind.INTERMITTENT and int(at_s / self.interval_s) % 2):
            return actual_mib
        if goal_mib < actual_mib:
            reached = max(goal_mib, actual_mib - most_mib)
            return max(reached, min(actual_mib, self.limit_mib)) if kind is Kind.LOWER_LIMIT else reached
        reached = min(goal_mib, actual_mib + most_mib)
        return min(reached, max(actual_mib, self.limit_mib)) if kind is Kind.UPPER_LIMIT else reached
