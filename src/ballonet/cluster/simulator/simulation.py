"""One simulation: sandboxes are created, live and end on many hosts, placed in one way; and its outcome."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ballonet.cluster.bounds import Bounds
from ballonet.cluster.request import Request
from ballonet.cluster.simulator.curves import Curves
from ballonet.cluster.simulator.placers import BestFit, ByCeiling, ByMemory, Oracle, Placer, RoundRobin
from ballonet.cluster.simulator.world import IMAGE, Hosts, World

#: The cluster fills during the first seconds; from ``MEASURED_FROM_S`` on, the outcome is measured.
FILL_S = 240
MEASURED_FROM_S = 600
DURATION_S = 900
#: Each host makes an offer every so many seconds; one of a hundred hosts makes none for a minute.
OFFER_S = 5
SILENT_SHARE = 0.01
SILENT_S = 60
#: The mean life of a sandbox (seconds). Each that ends is replaced.
LIFE_S = 1200.0


@dataclass(frozen=True)
class Plan:
    """What is simulated, apart from the way of placing."""

    hosts: Hosts
    curves: Curves
    #: How many sandboxes are wanted at the same time.
    wanted: int
    seed: int
    bounds: Bounds
    #: The share of the sandboxes that do the same at the same moment.
    together: float = 0.0
    duration_s: int = DURATION_S


@dataclass
class Outcome:
    """The results, from :data:`MEASURED_FROM_S` on where that matters."""

    placement: str
    hosts: int
    wanted: int
    #: Sandboxes that ran on average.
    running: float = 0.0
    #: What sandboxes held, as a share of the hosts' memory, and the mean price of memory.
    used_share: float = 0.0
    price: float = 0.0
    #: Share of the work that was lost: beyond what the same sandboxes lose on hosts with plenty of memory, and beyond
    #: what they lose if no memory is ever given back (``static``).
    slowdown: float = 0.0
    slowdown_of_static: float = 0.0
    #: How often a host ran out of memory, and host-seconds without memory.
    host_oom: int = 0
    short_s: int = 0
    #: Over the whole run: created, refused by a host itself, and seconds in which the next sandbox found no room.
    created: int = 0
    refused: int = 0
    full_s: int = 0
    #: Host-seconds in which more was guaranteed than a host may promise.
    broken: int = 0

    @property
    def per_host(self) -> float:
        return self.running / self.hosts

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Shares between 0 and 1."""
        return {
            "placement": self.placement,
            "hosts": self.hosts,
            "wanted": self.wanted,
            "running": round(self.running, 1),
            "per_host": round(self.per_host, 2),
            "used_share": round(self.used_share, 4),
            "price": round(self.price, 4),
            "slowdown": round(self.slowdown, 5),
            "slowdown_of_static": round(self.slowdown_of_static, 5),
            "host_out_of_memory": self.host_oom,
            "host_short_s": self.short_s,
            "created": self.created,
            "refused_by_hosts": self.refused,
            "full_s": self.full_s,
            "promises_broken_s": self.broken,
        }


@dataclass
class _Asked:
    request: Request
    curve: int
    phase: int
    life_s: float


#: All ways of placing by name.
PLACERS: dict[str, Callable[[Plan], Placer]] = {
    "by ceiling": lambda plan: ByCeiling(plan.hosts),
    "round robin": lambda plan: RoundRobin(plan.hosts),
    "best fit": lambda plan: BestFit(plan.hosts),
    "ballonet": lambda plan: ByMemory(plan.bounds),
    "oracle": lambda plan: Oracle(plan.hosts, plan.curves, plan.duration_s),
}


def simulate(plan: Plan, placement: str) -> Outcome:
    """Simulate ``plan`` with one way of placing. The n-th sandbox is the same in all of them."""
    placer = PLACERS[placement](plan)
    world = World(plan.hosts, plan.curves, plan.wanted)
    random = np.random.default_rng(plan.seed)
    out = Outcome(placement, plan.hosts.count, plan.wanted)
    silent_from = np.where(
        random.random(plan.hosts.count) < SILENT_SHARE,
        random.integers(0, plan.duration_s, plan.hosts.count),
        -SILENT_S,
    )
    asked = _Asks(plan, random)
    running: list[tuple[float, int, _Asked, int]] = []
    work = lost = plenty = static = 0.0
    was_short = np.zeros(plan.hosts.count, bool)
    measured = 0
    wait_until = 0
    for second in range(plan.duration_s):
        while running and running[0][0] <= second:
            _, _, ended, host = heapq.heappop(running)
            placer.ended(ended, host, second)
        offering = [
            host
            for host in range(second % OFFER_S if second else 0, plan.hosts.count, OFFER_S if second else 1)
            if not 0 <= second - silent_from[host] < SILENT_S
        ]
        placer.offered(world.offers(offering, float(second)))
        target = min(plan.wanted, plan.wanted * (second + 1) // FILL_S)
        while len(running) < target and second >= wait_until:
            one = asked.next()
            tried = placer.choose(one, second)
            free_mib = world.free_mib if placer.admission else world.available_mib
            host = next((host for host in tried if free_mib(host) >= one.request.start_mib), -1)
            out.refused += len(tried) if host < 0 else tried.index(host)
            if host < 0:
                asked.put_back(one)
                out.full_s += 1
                wait_until = second + OFFER_S
                break
            placer.placed(one, host, second)
            world.add(host, one.curve, one.phase, second + one.life_s, one.request)
            heapq.heappush(running, (second + one.life_s, out.created, one, host))
            out.created += 1
        now = world.step()
        out.broken += int((world.promised > plan.hosts.usable).sum())
        if second >= MEASURED_FROM_S:
            measured += 1
            work, lost = work + now.busy, lost + now.lost
            plenty, static = plenty + now.lost_with_plenty, static + now.lost_static
            out.running += len(running)
            out.used_share += float(world.held.sum() / plan.hosts.memory.sum())
            out.price += float(world.price.mean())
            out.host_oom += int((now.short & ~was_short).sum())
            out.short_s += int(now.short.sum())
        was_short = now.short
    out.running /= measured
    out.used_share /= measured
    out.price /= measured
    out.slowdown = (lost - plenty) / work if work else 0.0
    out.slowdown_of_static = (lost - static) / work if work else 0.0
    return out


class _Asks:
    """The sandboxes that are asked for, in order."""

    def __init__(self, plan: Plan, random: np.random.Generator) -> None:
        self._plan = plan
        self._random = random
        self._count = 0
        self._back: list[_Asked] = []

    def next(self) -> _Asked:
        if self._back:
            return self._back.pop()
        curves = self._plan.curves
        curve = int(self._random.integers(curves.count))
        phase = int(self._random.integers(curves.length_s))
        if self._random.random() < self._plan.together:
            curve, phase = 0, 0
        spec = curves.specs[curve]
        self._count += 1
        initial = spec.ceiling_mib if spec.initial_mib is None else spec.initial_mib
        least = int(curves.least[curve])
        request = Request(f"box-{self._count}", spec.ceiling_mib, least, initial, image=IMAGE)
        return _Asked(request, curve, phase, float(self._random.exponential(LIFE_S)) + 1)

    def put_back(self, asked: _Asked) -> None:
        self._back.append(asked)
