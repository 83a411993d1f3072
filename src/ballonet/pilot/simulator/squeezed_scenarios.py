"""The scenarios ``squeezed-a`` to ``squeezed-h``: the eight situations that XAPI's squeezed is tested with. Pure.

In the original, sizes are abstract units and all memory is given out. Here sizes are MiB, and the guests fill their
memory with files read once. What a new domain requires is the host's reserve, which the policy must free. Two of the
eight repeat others with a faulty balancer (f is e, g is a): there the tests use faulty policies.
"""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.simulator.behaviour import Behaviour, Kind
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.simulation import ENGINE_MIB, Scenario
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.trace import Point, Trace

#: Balloons move slowly in the original. The guard is small so that minimums can be reached.
_PHYSICS = Physics(inflate_mib_s=300.0, deflate_mib_s=300.0)
_GUARD_MIB = 64
#: Long enough for several attempts with a guest that is stuck in every other interval.
DURATION_S = 240.0


class Domain(NamedTuple):
    """One guest of a situation (MiB)."""

    least: int
    actual: int
    most: int
    behaviour: Behaviour = Behaviour()


class Situation(NamedTuple):
    """The guests, the host's free memory, and the memory that must become free."""

    about: str
    domains: tuple[Domain, ...]
    host_free: int
    required: int


_LIMITED = Behaviour(Kind.LOWER_LIMIT, limit_mib=1250, inexact_mib=4)
_INTERMITTENT = Behaviour(Kind.INTERMITTENT, interval_s=0.25, inexact_mib=4)
_A = Situation(
    "a small guest with a hidden lower limit, and a large one that is stuck intermittently",
    (Domain(1000, 1500, 2000, _LIMITED), Domain(2500, 3500, 4500, _INTERMITTENT)),
    0,
    1000,
)
_E = Situation(
    "one guest must shrink but is stuck; the other, which should have grown, must shrink instead",
    (Domain(5000, 7000, 7000, Behaviour(Kind.STUCK)), Domain(5000, 6000, 11000)),
    0,
    1000,
)
SITUATIONS: dict[str, Situation] = {
    "a": _A,
    "b": Situation(
        "two guests that are stuck intermittently, one for longer than the stuck timeout, one for less",
        (
            Domain(500, 3500, 4500, Behaviour(Kind.INTERMITTENT, interval_s=6.0, inexact_mib=4)),
            Domain(500, 1500, 2500, Behaviour(Kind.INTERMITTENT, interval_s=1.5, inexact_mib=4)),
        ),
        0,
        1000,
    ),
    "c": Situation(
        "the minimums are too high to free the required memory",
        (Domain(1000, 1500, 2000), Domain(2000, 2500, 3000)),
        0,
        1500,
    ),
    "d": Situation(
        "the minimums would suffice, but one guest stays above its minimum",
        (
            Domain(1000, 1500, 2000),
            Domain(2000, 2500, 3000, Behaviour(Kind.LOWER_LIMIT, limit_mib=2250)),
        ),
        0,
        1000,
    ),
    "e": _E,
    "f": _E._replace(about="as e, for a policy that relies on the memory of the stuck guest"),
    "g": _A._replace(about="as a, for a policy that mistakes an inexact balloon for a stuck one"),
    "h": Situation(
        "a small guest with a hidden upper limit; the other takes up the slack",
        (
            Domain(1000, 1500, 2000, Behaviour(Kind.UPPER_LIMIT, limit_mib=1500, inexact_mib=4)),
            Domain(1000, 1500, 2000, Behaviour(inexact_mib=4)),
        ),
        1000,
        0,
    ),
}


def situation_scenario(letter: str, kind: Kind | None = None) -> Scenario:
    """Create the scenario for a situation.

    :param kind: behaviour of the first guest instead of its own, with limits that fit its sizes.
    """
    shape = SITUATIONS[letter]
    guests = []
    for at, domain in enumerate(shape.domains):
        behaviour = domain.behaviour if kind is None or at else behaviour_like(kind, domain)
        work = Trace([Point(0.0, 100.0, 0.0, 50.0, False)])
        guests.append(
            GuestSpec(
                f"domain-{at}",
                domain.most,
                work,
                domain.least,
                initial_mib=domain.actual,
                behaviour=behaviour,
                caches_mib=float(domain.actual),
                guard_mib=_GUARD_MIB,
            )
        )
    host = sum(domain.actual for domain in shape.domains) + shape.host_free + ENGINE_MIB * len(guests)
    return Scenario(
        f"squeezed-{letter}", shape.about, guests, DURATION_S, host, shape.required, physics=_PHYSICS
    )


def behaviour_like(kind: Kind, domain: Domain) -> Behaviour:
    """A behaviour of ``kind``, with limits halfway between the actual memory of ``domain`` and its range's ends."""
    if kind is Kind.LOWER_LIMIT:
        return Behaviour(kind, limit_mib=(domain.least + domain.actual) / 2)
    if kind is Kind.UPPER_LIMIT:
        return Behaviour(kind, limit_mib=(domain.actual + domain.most) / 2)
    return Behaviour(kind, interval_s=6.0)


def lowest_mib(spec: GuestSpec) -> float:
    """The lowest memory that a guest of a situation can be brought to."""
    actual = float(spec.ceiling_mib if spec.initial_mib is None else spec.initial_mib)
    if spec.behaviour.kind is Kind.STUCK:
        return actual
    if spec.behaviour.kind is Kind.LOWER_LIMIT:
        return max(float(spec.floor_mib), min(actual, spec.behaviour.limit_mib))
    return float(spec.floor_mib)
