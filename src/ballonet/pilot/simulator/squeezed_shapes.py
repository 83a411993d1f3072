"""The eight situations that XAPI's squeezed is tested with, described anew in our terms. Pure.

There, sizes are abstract units and all memory is given out; here they are MiB, and the guests fill whatever they have
with files read once. What a new domain requires is the host's reserve: the policy must free it. Two of the eight are
the others with a fault built into the balancer (f is e, g is a): the tests break the policy there.
"""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.simulator.behaviour import Behaviour, Kind
from ballonet.pilot.simulator.guest import GuestSpec, Physics
from ballonet.pilot.simulator.trace import Point, Trace
from ballonet.pilot.simulator.world import ENGINE_MIB, Scenario

#: Balloons move slowly there; and these guests' own guard is small, so that minimums can be reached.
_PHYSICS = Physics(inflate_mib_s=300.0, deflate_mib_s=300.0)
_GUARD_MIB = 64
#: Long enough for a guest that is stuck every other interval to be asked again a few times.
DURATION_S = 240.0


class Domain(NamedTuple):
    """One guest of a shape (MiB)."""

    least: int
    actual: int
    most: int
    behaviour: Behaviour = Behaviour()


class Shape(NamedTuple):
    """Guests, what the host has left, and what it must have."""

    about: str
    domains: tuple[Domain, ...]
    host_free: int
    required: int


_LIMITED = Behaviour(Kind.LOWER_LIMIT, limit_mib=1250, inexact_mib=4)
_STICKY = Behaviour(Kind.INTERMITTENT, interval_s=0.25, inexact_mib=4)
_A = Shape(
    "a small guest with a hidden lower limit, a large one that is sticky",
    (Domain(1000, 1500, 2000, _LIMITED), Domain(2500, 3500, 4500, _STICKY)),
    0,
    1000,
)
_E = Shape(
    "one must give and is stuck; the other, which should have grown, must give instead",
    (Domain(5000, 7000, 7000, Behaviour(Kind.STUCK)), Domain(5000, 6000, 11000)),
    0,
    1000,
)
SHAPES: dict[str, Shape] = {
    "a": _A,
    "b": Shape(
        "two sticky guests, one for longer than counts as stuck, one for less",
        (
            Domain(500, 3500, 4500, Behaviour(Kind.INTERMITTENT, interval_s=6.0, inexact_mib=4)),
            Domain(500, 1500, 2500, Behaviour(Kind.INTERMITTENT, interval_s=1.5, inexact_mib=4)),
        ),
        0,
        1000,
    ),
    "c": Shape(
        "minimums too high to free what is required",
        (Domain(1000, 1500, 2000), Domain(2000, 2500, 3000)),
        0,
        1500,
    ),
    "d": Shape(
        "enough by the minimums, but one guest stays above its own",
        (
            Domain(1000, 1500, 2000),
            Domain(2000, 2500, 3000, Behaviour(Kind.LOWER_LIMIT, limit_mib=2250)),
        ),
        0,
        1000,
    ),
    "e": _E,
    "f": _E._replace(about="as e, for a policy that counts on what the stuck one should give"),
    "g": _A._replace(about="as a, for a policy that takes an inexact balloon for a stuck one"),
    "h": Shape(
        "a small guest with a hidden upper limit; the other takes up the slack",
        (
            Domain(1000, 1500, 2000, Behaviour(Kind.UPPER_LIMIT, limit_mib=1500, inexact_mib=4)),
            Domain(1000, 1500, 2000, Behaviour(inexact_mib=4)),
        ),
        1000,
        0,
    ),
}


def scenario_of(letter: str, kind: Kind | None = None) -> Scenario:
    """A shape as a scenario.

    :param kind: the first guest behaves like this instead, with limits that fit its sizes.
    """
    shape = SHAPES[letter]
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
    """A behaviour of ``kind`` with limits halfway between what ``domain`` has and its ends."""
    if kind is Kind.LOWER_LIMIT:
        return Behaviour(kind, limit_mib=(domain.least + domain.actual) / 2)
    if kind is Kind.UPPER_LIMIT:
        return Behaviour(kind, limit_mib=(domain.actual + domain.most) / 2)
    return Behaviour(kind, interval_s=6.0)


def lowest_mib(spec: GuestSpec) -> float:
    """The least that a guest of a shape can be brought to."""
    actual = float(spec.ceiling_mib if spec.initial_mib is None else spec.initial_mib)
    if spec.behaviour.kind is Kind.STUCK:
        return actual
    if spec.behaviour.kind is Kind.LOWER_LIMIT:
        return max(float(spec.floor_mib), min(actual, spec.behaviour.limit_mib))
    return float(spec.floor_mib)
