"""The hosts and sandboxes of a simulation, as arrays, in steps of one second.

It computes what each host would report: what its sandboxes hold at its price of memory, what is guaranteed, and what
they are expected to use (the rule of :mod:`ballonet.cluster.usage`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.cluster.offer import Held, HostOffer
from ballonet.cluster.request import Request
from ballonet.cluster.simulator.curves import STEPS, Curves
from ballonet.cluster.usage import MEMORY_S, PRIOR_S, TELLING_S
from ballonet.pilot.price import EASE_SHARE
from ballonet.pilot.simulator.simulation import ENGINE_MIB
from ballonet.vmm.guard import default_guard_mib

#: The image of all simulated sandboxes.
IMAGE = "agent"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Hosts:
    """The memory of each host, and the part that it never promises (MiB)."""

    memory: Ints
    reserve: Ints

    @property
    def count(self) -> int:
        return len(self.memory)

    @property
    def usable(self) -> Ints:
        return self.memory - self.reserve


def make_hosts(count: int, sizes_mib: Sequence[int]) -> Hosts:
    """``count`` hosts with these sizes in turn. A twentieth is the reserve, as for a budget of the autopilot."""
    memory = np.array([sizes_mib[at % len(sizes_mib)] for at in range(count)], np.int64)
    return Hosts(memory, memory // 20)


class Second(NamedTuple):
    """What happened in one second: seconds of work, and what was lost of them; what is lost at price 0, and under
    ``static``; and which hosts were out of memory."""

    busy: float
    lost: float
    lost_with_plenty: float
    lost_static: float
    short: NDArray[np.bool_]


class World:
    """All sandboxes, in slots that are used again."""

    def __init__(self, hosts: Hosts, curves: Curves, slots: int) -> None:
        self.hosts = hosts
        self.curves = curves
        self.at_s = 0
        self.host: Ints = np.full(slots, -1, np.int64)
        self.curve: Ints = np.zeros(slots, np.int64)
        self.phase: Ints = np.zeros(slots, np.int64)
        self.ends: Floats = np.zeros(slots)
        self.mean: Floats = np.zeros(slots)
        self.variance: Floats = np.zeros(slots)
        self.seen: Floats = np.zeros(slots)
        self.prior_mean: Floats = np.zeros(slots)
        self.prior_variance: Floats = np.zeros(slots)
        self.free_slots = list(range(slots - 1, -1, -1))
        self.guards: Ints = np.array([default_guard_mib(spec.ceiling_mib) for spec in curves.specs])
        #: Of each host, now.
        self.held: Floats = np.zeros(hosts.count)
        self.price: Floats = np.zeros(hosts.count)
        self.started: Floats = np.zeros(hosts.count)
        self.count: Ints = np.zeros(hosts.count, np.int64)
        self._sums: dict[str, Floats] = {}
        self._needs: Floats = np.zeros(hosts.count)

    def add(self, host: int, curve: int, phase: int, ends_s: float, request: Request) -> None:
        """A sandbox starts."""
        slot = self.free_slots.pop()
        self.host[slot], self.curve[slot], self.phase[slot], self.ends[slot] = host, curve, phase, ends_s
        self.prior_mean[slot], self.prior_variance[slot] = request.use_mib, request.variance
        self.seen[slot] = self.mean[slot] = self.variance[slot] = 0.0
        self.started[host] += request.start_mib
        self.count[host] += 1

    def step(self) -> Second:
        """One second passes."""
        self.at_s += 1
        self._end_due()
        alive = np.flatnonzero(self.host >= 0)
        host, curve = self.host[alive], self.curve[alive]
        column: Ints = (self.at_s + self.phase[alive]) % self.curves.length_s
        level = np.rint(self.price[host] * STEPS).astype(np.int64)
        held = self.curves.held[level, curve, column].astype(np.float64)
        count = self.hosts.count
        self.held = _by_host(host, held, count)
        self._needs = _by_host(host, self.curves.need[curve, column], count)
        busy = self.curves.busy[curve, column]
        working = np.flatnonzero(busy > 0)
        lost = self.curves.lost[level[working], curve[working], column[working]]
        short = self.held > self.hosts.memory
        # Nobody on a host without memory gets anything done in that second.
        lost = np.where(short[host[working]], busy[working], lost)
        self._observe(alive, held)
        self._sum_up(alive, host, curve, column)
        usable = self.hosts.usable - self.held
        self.price = 1.0 - np.clip(usable / (self.hosts.memory * EASE_SHARE), 0.0, 1.0)
        self.started = np.zeros(count)
        plenty = self.curves.lost[0, curve[working], column[working]]
        static = self.curves.lost_static[curve[working], column[working]]
        return Second(float(busy.sum()), float(lost.sum()), float(plenty.sum()), float(static.sum()), short)

    def _end_due(self) -> None:
        for slot in np.flatnonzero((self.host >= 0) & (self.ends <= self.at_s)):
            self.count[self.host[slot]] -= 1
            self.host[slot] = -1
            self.free_slots.append(int(slot))

    def _observe(self, alive: Ints, held: Floats) -> None:
        """The rule of :func:`ballonet.cluster.usage.observed` for one second."""
        before = np.minimum(self.seen[alive], MEMORY_S)
        share = 1.0 / (before + 1.0)
        off = held - self.mean[alive]
        self.mean[alive] += share * off
        self.variance[alive] = (1.0 - share) * (self.variance[alive] + share * off * off)
        self.seen[alive] = before + 1.0

    def expectations(self, slots: Ints) -> tuple[Floats, Floats]:
        """Mean and variance of what these sandboxes are expected to use: :attr:`Usage.expectation`."""
        share = PRIOR_S / (PRIOR_S + self.seen[slots])
        off = self.prior_mean[slots] - self.mean[slots]
        variance = share * self.prior_variance[slots] + (1 - share) * self.variance[slots]
        return self.mean[slots] + share * off, variance + share * (1 - share) * off * off

    def _sum_up(self, alive: Ints, host: Ints, curve: Ints, column: Ints) -> None:
        count = self.hosts.count
        least = self.curves.least[curve]
        ceilings = self.curves.ceilings[curve]
        works = self.curves.need[curve, column] - ENGINE_MIB + self.guards[curve]
        mean, variance = self.expectations(alive)
        tells = self.seen[alive] >= TELLING_S
        teller, told, spread = host[tells], self.mean[alive][tells], self.variance[alive][tells]
        kept = np.minimum(ceilings, np.maximum(least, works))
        self._sums = {
            "kept": _by_host(host, kept, count),
            "promised": _by_host(host, least + ENGINE_MIB, count),
            "ceilings": _by_host(host, ceilings + ENGINE_MIB, count),
            "mean": _by_host(host, mean, count),
            "variance": _by_host(host, variance, count),
            "tellers": _by_host(teller, np.ones(len(teller)), count),
            "told": _by_host(teller, told, count),
            "told_squares": _by_host(teller, spread + told * told, count),
        }

    @property
    def promised(self) -> Floats:
        """Guaranteed memory of each host's sandboxes, with their engines."""
        return self._sums["promised"]

    def available_mib(self, host: int) -> float:
        """What nobody holds now, less the reserve."""
        return float(self.hosts.usable[host] - self.held[host] - self.started[host])

    def free_mib(self, host: int) -> float:
        """What the host's own admission compares with, now."""
        guest_ram = self.held[host] - ENGINE_MIB * self.count[host]
        kept = self._sums["kept"][host] if self._sums else 0.0
        return self.available_mib(host) + float(guest_ram - kept)

    def offers(self, hosts: Iterable[int], at_s: float) -> list[HostOffer]:
        """The offers that these hosts make."""
        sums = self._sums or defaultdict(lambda: np.zeros(self.hosts.count))
        return [
            HostOffer(
                str(host),
                at_s,
                int(self.hosts.memory[host]),
                int(self.hosts.reserve[host]),
                int(self.hosts.memory[host] - self.held[host]),
                int(self.held[host] - ENGINE_MIB * self.count[host] - sums["kept"][host]),
                int(sums["promised"][host]),
                int(sums["ceilings"][host]),
                int(sums["mean"][host]),
                int(sums["variance"][host] ** 0.5),
                float(self.price[host]),
                int(self.count[host]),
                held={
                    IMAGE: Held(
                        int(sums["tellers"][host]),
                        float(sums["told"][host]),
                        float(sums["told_squares"][host]),
                    )
                },
            )
            for host in hosts
        ]


def _by_host(host: Ints, values: NDArray[Any], count: int) -> Floats:
    """The sum of ``values`` for each host."""
    return np.bincount(host, values, count).astype(np.float64)
