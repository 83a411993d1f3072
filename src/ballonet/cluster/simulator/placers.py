"""The ways of placing that a simulation compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.cluster.bounds import Bounds
from ballonet.cluster.directory import Directory
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.request import Request
from ballonet.cluster.simulator.curves import STEPS, Curves
from ballonet.cluster.simulator.world import Hosts
from ballonet.pilot.simulator.simulation import ENGINE_MIB

#: How many hosts best fit tries.
TRIES = 64


class Asked(Protocol):
    """A sandbox that waits: its request, and (for the oracle) what it will do."""

    request: Request
    curve: int
    phase: int
    life_s: float


class Placer(Protocol):
    """A way of placing. It sees the offers of hosts, not the hosts."""

    name: str
    #: Whether the hosts check with ballonet's admission. Otherwise they start whatever fits into available memory.
    admission: bool

    def offered(self, offers: Sequence[HostOffer]) -> None:
        """Hosts made new offers."""
        ...

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        """The hosts to try, the best first; none: there is no room."""
        ...

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        """The host took it."""
        ...

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        """It has ended."""
        ...


class ByMemory:
    """The placement of ballonet: :func:`ballonet.cluster.placement.place`."""

    name = "ballonet"
    admission = True

    def __init__(self, bounds: Bounds) -> None:
        self._directory = Directory(bounds)

    def offered(self, offers: Sequence[HostOffer]) -> None:
        for offer in offers:
            self._directory.update(offer)

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        asked.request = self._directory.informed(asked.request)
        return [int(fit.host) for fit in self._directory.choose(asked.request, at_s).fits]

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        self._directory.reserve(asked.request, str(host))
        self._directory.settle(asked.request.name, str(host), at_s, created=True)

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        pass  # the host's next offer says it


class ByCeiling:
    """What requests in Kubernetes do when they are set to the limit: the sum of ceilings fits into the host."""

    name = "by ceiling"
    admission = False

    def __init__(self, hosts: Hosts) -> None:
        self._left: NDArray[np.float64] = hosts.usable.astype(np.float64)

    def offered(self, offers: Sequence[HostOffer]) -> None:
        pass

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        host = int(self._left.argmax())
        return [host] if self._left[host] >= asked.request.ceiling_mib + ENGINE_MIB else []

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        self._left[host] -= asked.request.ceiling_mib + ENGINE_MIB

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        self._left[host] += asked.request.ceiling_mib + ENGINE_MIB


class RoundRobin:
    """One host after the other, whatever they hold. A host that has no memory for a start refuses."""

    name = "round robin"
    admission = False

    def __init__(self, hosts: Hosts) -> None:
        self._count = hosts.count
        self._next = 0

    def offered(self, offers: Sequence[HostOffer]) -> None:
        pass

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        first = self._next
        self._next = (first + 1) % self._count
        return [(first + at) % self._count for at in range(self._count)]

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        pass

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        pass


class BestFit:
    """The host with the least memory available now that still has enough for a start, and for what is starting."""

    name = "best fit"
    admission = False

    def __init__(self, hosts: Hosts) -> None:
        self._available: NDArray[np.float64] = hosts.memory.astype(np.float64)
        self._reserve = hosts.reserve

    def offered(self, offers: Sequence[HostOffer]) -> None:
        for offer in offers:
            self._available[int(offer.host)] = offer.available_mib

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        left = self._available - self._reserve - asked.request.start_mib
        fitting = np.where(left >= 0, left, np.inf)
        first = int(fitting.argmin())
        if not np.isfinite(fitting[first]):
            return []
        return [int(host) for host in np.argsort(fitting)[:TRIES] if np.isfinite(fitting[host])]

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        self._available[host] -= asked.request.start_mib

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        pass


class Oracle:
    """Knows what each sandbox will hold at every moment, and when it ends. It takes the host whose peak stays lowest,
    of those it looks at, and keeps guarantees like everybody."""

    name = "oracle"
    admission = True
    #: How many hosts it looks at for each sandbox, and at which price it plans.
    looks = 24
    level = STEPS // 2

    def __init__(self, hosts: Hosts, curves: Curves, duration_s: int) -> None:
        self._hosts = hosts
        self._held = curves.held[self.level]
        self._length = curves.length_s
        self._plan: NDArray[np.float32] = np.zeros((hosts.count, duration_s + 1), np.float32)
        self._promised: NDArray[np.float64] = np.zeros(hosts.count)
        self._random = np.random.default_rng(0)

    def offered(self, offers: Sequence[HostOffer]) -> None:
        pass

    def _future(self, asked: Asked, at_s: float) -> tuple[slice, NDArray[np.float32]]:
        first = int(at_s)
        last = min(self._plan.shape[1], int(np.ceil(at_s + asked.life_s)))
        columns = (np.arange(first, last) + asked.phase) % self._length
        return slice(first, last), self._held[asked.curve, columns]

    def choose(self, asked: Asked, at_s: float) -> Sequence[int]:
        when, curve = self._future(asked, at_s)
        guaranteed = asked.request.least_mib + ENGINE_MIB
        some = np.flatnonzero(self._promised + guaranteed <= self._hosts.usable)
        if len(some) > self.looks:
            some = some[self._random.integers(len(some), size=self.looks)]
        if not len(some):
            return []
        fullness = (self._plan[some, when] + curve).max(axis=1) / self._hosts.usable[some]
        return [int(some[at]) for at in fullness.argsort() if fullness[at] <= 1]

    def placed(self, asked: Asked, host: int, at_s: float) -> None:
        when, curve = self._future(asked, at_s)
        self._plan[host, when] += curve
        self._promised[host] += asked.request.least_mib + ENGINE_MIB

    def ended(self, asked: Asked, host: int, at_s: float) -> None:
        self._promised[host] -= asked.request.least_mib + ENGINE_MIB
