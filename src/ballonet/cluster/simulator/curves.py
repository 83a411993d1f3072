"""What sandboxes use, hold and lose over time, from the guest model and the autopilot's own policy.

A hundred thousand guests cannot be stepped one by one in reasonable time. So a pool of guests is simulated in full
(:mod:`ballonet.pilot.simulator.guest`), each at several fixed prices of memory, and every simulated sandbox follows
one of these curves from a random position, at the price of its host. To get the price, the host's memory is set to
what the guests hold and the matching part of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.pilot.model import HostView, Policy
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.policies.static import Static
from ballonet.pilot.price import EASE_SHARE
from ballonet.pilot.simulator import workloads
from ballonet.pilot.simulator.compare import WITHOUT_REPORTING
from ballonet.pilot.simulator.guest import Guest
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.scenarios import sandbox
from ballonet.pilot.simulator.simulation import ENGINE_MIB
from ballonet.pilot.simulator.spec import GuestSpec

Floats = NDArray[np.float32]

#: The prices at which curves are computed; between them, values are interpolated.
PRICES = (0.0, 0.5, 0.9, 1.0)
TICK_S = 0.1
#: The length of a curve, without the first minute, in which the autopilot gets to know the guest (seconds).
LENGTH_S = 840
WARM_UP_S = 60
#: The guests of a pool: as in the scenario ``agents``.
COUNT = 48
CEILING_MIB = 2048
#: Between two of :data:`PRICES`, values are interpolated in steps of this size.
STEPS = 20


@dataclass(frozen=True)
class Curves:
    """A pool of guests: one row for each, one column for each second. Memory in MiB, with the engine."""

    specs: tuple[GuestSpec, ...]
    #: The most that it needs in that second: its kernel, its work and the files that its work reads repeatedly.
    need: Floats
    #: What it holds on the host on average, for each price: 0, 1 / STEPS, …, 1.
    held: Floats
    #: Seconds of work, and the part that it loses to reclaim, balloon and page faults: for each price, and under
    #: ``static``.
    busy: Floats
    lost: Floats
    lost_static: Floats
    ceilings: NDArray[np.int64]
    least: NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(self.specs)

    @property
    def length_s(self) -> int:
        return int(self.need.shape[1])


def agents(
    seed: int, *, count: int = COUNT, floor_mib: int | None = None, length_s: int = LENGTH_S
) -> list[GuestSpec]:
    """Coding agents of the published shape, as in the scenario ``agents`` of ``ballonet simulate``.

    :param floor_mib: their floor; ``None``: the default of ``ballonet run``.
    """
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    specs = []
    for at in range(count):
        trace = workloads.agent(random, seconds=length_s + WARM_UP_S, ceiling_mib=CEILING_MIB)
        spec = sandbox(f"agent-{at}", CEILING_MIB, trace, caches_mib=random.uniform(100, 500))
        specs.append(spec if floor_mib is None else dataclasses.replace(spec, floor_mib=floor_mib))
    return specs


def compute(specs: list[GuestSpec], overcommit: float, length_s: int = LENGTH_S) -> Curves:
    """Simulate the guests at each price.

    :param overcommit: that of the autopilot.
    """
    runs = [_run(specs, Ballonet(), price, overcommit, length_s) for price in PRICES]
    static = _run(specs, Static(), 0.0, overcommit, length_s)
    steps = np.linspace(0.0, 1.0, STEPS + 1)
    return Curves(
        tuple(specs),
        runs[0].need + ENGINE_MIB,
        _interpolated([run.held + ENGINE_MIB for run in runs], steps),
        runs[0].busy,
        _interpolated([run.lost for run in runs], steps),
        static.lost,
        np.array([spec.ceiling_mib for spec in specs], np.int64),
        np.array([max(spec.floor_mib, spec.reserve_mib) for spec in specs], np.int64),
    )


def _interpolated(values: list[Floats], steps: NDArray[np.float64]) -> Floats:
    result = []
    for step in steps:
        above = next(at for at, price in enumerate(PRICES) if price >= step)
        below = max(0, above - 1)
        width = PRICES[above] - PRICES[below]
        share = (step - PRICES[below]) / width if width else 0.0
        result.append((1 - share) * values[below] + share * values[above])
    return np.asarray(result, np.float32)


class _Run(NamedTuple):
    need: Floats
    held: Floats
    busy: Floats
    lost: Floats


def _run(specs: list[GuestSpec], policy: Policy, price: float, overcommit: float, length_s: int) -> _Run:
    """All guests on one host, which is always as full as the price says."""
    guests = [Guest(spec, Physics(), reporting=policy.name != WITHOUT_REPORTING) for spec in specs]
    by_name = {guest.spec.name: guest for guest in guests}
    need, held, busy, lost = (np.zeros((len(specs), length_s), np.float32) for _ in range(4))
    memory = None
    ticks = round(1 / TICK_S)
    for second in range(WARM_UP_S + length_s):
        before = [(guest.busy_s, guest.lost_s) for guest in guests]
        most = [0.0] * len(guests)
        sums = [0.0] * len(guests)
        for tick in range(ticks):
            at_s = second + tick * TICK_S
            for n, guest in enumerate(guests):
                guest.step(at_s, TICK_S)
                if guest.relieved:
                    guest.relieve(at_s)
                sums[n] += guest.resident
                most[n] = max(most[n], guest.kernel + guest.anon + min(guest.hot, guest.hot_want))
        at_s = second + 1.0
        total = sum(guest.resident for guest in guests) / (1 - (1 - price) * EASE_SHARE)
        available = int(total * (1 - price) * EASE_SHARE)
        host = HostView(at_s, int(total), available, overcommit=overcommit)
        decision = policy.decide(host, [guest.view(at_s) for guest in guests], memory)
        memory = decision.memory
        for verdict in decision.verdicts:
            guest = by_name[verdict.sandbox]
            if verdict.trim_mib > 0:
                guest.trim(verdict.trim_mib, verdict.gentle)
            if verdict.target_mib is not None:
                guest.set_target(verdict.target_mib, at_s)
        column = second - WARM_UP_S
        if column >= 0:
            held[:, column] = [value / ticks for value in sums]
            need[:, column] = most
            busy[:, column] = [guest.busy_s - was for guest, (was, _) in zip(guests, before, strict=True)]
            lost[:, column] = [guest.lost_s - was for guest, (_, was) in zip(guests, before, strict=True)]
    return _Run(need, held, busy, lost)
