"""Which guests :mod:`bench.fleet` runs at each size, and within what budget. Pure."""

from __future__ import annotations

from typing import NamedTuple

from bench.fleet_work import TIMELINES

CEILING_MIB = 768
#: The part of the ceilings that the budget has, as in the simulator, and what each engine needs under emulation with a
#: disk.
BUDGET_SHARE = 0.6
ENGINE_MIB = 145
#: Each group of seven guests starts this much later than the last one (seconds).
STAGGER_S = 3.0
#: With ``--short``, timelines are this much shorter; jobs are the same.
SHORT = 0.3

#: The order in which roles are chosen for fewer than seven guests: one of each kind first.
_ROLES = ("build-1", "numbers-1", "reader", "idle-1", "build-2", "numbers-2", "idle-2")
assert set(_ROLES) == set(TIMELINES)


class Member(NamedTuple):
    """One guest of the fleet."""

    name: str
    role: str
    delay_s: float


def members(count: int) -> list[Member]:
    """``count`` guests: the roles in turn, the groups one after the other."""
    made = []
    for number in range(count):
        group, role = divmod(number, len(_ROLES))
        made.append(Member(f"{_ROLES[role]}-{group}", _ROLES[role], group * STAGGER_S))
    return made


def budget_mib(count: int) -> int:
    """The budget for ``count`` guests and their engines."""
    return int(count * (BUDGET_SHARE * CEILING_MIB + ENGINE_MIB))
