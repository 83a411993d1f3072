"""What a host offers: the memory that it can promise now, and what it has. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ballonet.cluster.request import Request
from ballonet.pilot.admission import ENGINE_MIB, held_mib
from ballonet.pilot.model import HostView, SandboxView


class Expectation(NamedTuple):
    """What one sandbox is expected to use, with its engine (:mod:`ballonet.cluster.usage`)."""

    mean_mib: float
    #: MiB².
    variance: float


class Held(NamedTuple):
    """What sandboxes of one image held: their number, the sum of their means (MiB), and of their mean squares."""

    sandboxes: int
    sum_mib: float
    sum_squares: float


class HostOffer(NamedTuple):
    """A host at one time. Sizes in MiB, with engines; sums are over all sandboxes that run or start there."""

    host: str
    #: When it was made, on the clock of whoever places.
    at_s: float
    #: What its sandboxes may hold together, and the part of it that is never promised.
    budget_mib: int
    reserve_mib: int
    #: The part of the budget that nobody holds; negative if sandboxes hold more than the budget.
    available_mib: int
    #: What its sandboxes could give back at once without harm; negative if they do not hold yet what cannot be
    #: taken from them.
    reclaimable_mib: int
    #: Guaranteed memory: floors or reserves.
    promised_mib: int
    ceilings_mib: int
    #: Expected use, and how far it deviates from that (the standard deviation of the sum).
    expected_mib: int
    deviation_mib: int
    #: The price of memory (:mod:`ballonet.pilot.price`); ``None``: the host does not report its available memory.
    price: float | None = 0.0
    sandboxes: int = 0
    #: Sandboxes by group.
    groups: Mapping[str, int] = {}
    labels: Mapping[str, str] = {}
    images: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    version: str = ""
    #: What its sandboxes held, by image.
    held: Mapping[str, Held] = {}
    #: Why it takes no more sandboxes; ``None``: it does.
    closed: str | None = None

    @property
    def usable_mib(self) -> int:
        """What may be promised at most."""
        return max(0, self.budget_mib - self.reserve_mib)

    @property
    def free_mib(self) -> int:
        """What a new sandbox could get now: the number that the host's admission compares with."""
        return self.available_mib + self.reclaimable_mib - self.reserve_mib

    def document(self) -> dict[str, Any]:
        """What JSON can express. Its time must be relative to now."""
        found = self._asdict() | {
            "age_s": round(-self.at_s, 3),
            "images": sorted(self.images),
            "states": sorted(self.states),
            "held": {image: held._asdict() for image, held in self.held.items()},
        }
        del found["at_s"]
        return found

    def with_placed(self, request: Request) -> HostOffer:
        """The offer after ``request`` was placed there, until the host itself reports it."""
        groups = self.groups
        if request.group is not None:
            groups = {**groups, request.group: groups.get(request.group, 0) + 1}
        return self._replace(
            available_mib=self.available_mib - request.start_mib,
            promised_mib=self.promised_mib + request.promise_mib,
            ceilings_mib=self.ceilings_mib + request.ceiling_mib + ENGINE_MIB,
            expected_mib=self.expected_mib + request.use_mib,
            deviation_mib=math.ceil(math.sqrt(self.deviation_mib**2 + request.variance)),
            sandboxes=self.sandboxes + 1,
            groups=groups,
        )


def make_offer(
    host_name: str,
    host: HostView,
    sandboxes: Sequence[SandboxView],
    expectations: Iterable[Expectation],
    *,
    at_s: float,
    groups: Mapping[str, int] = {},
    labels: Mapping[str, str] = {},
    images: frozenset[str] = frozenset(),
    states: frozenset[str] = frozenset(),
    version: str = "",
    held: Mapping[str, Held] = {},
    closed: str | None = None,
) -> HostOffer:
    """The offer of a host from what its autopilot observes.

    :param expectations: one for each of ``sandboxes``.
    """
    known = list(expectations)
    if host.available_mib is None and closed is None:
        closed = "it does not report its available memory"
    return HostOffer(
        host_name,
        at_s,
        host.total_mib,
        host.reserve_mib,
        host.available_mib or 0,
        sum((view.guest_ram_mib or 0) - held_mib(view) for view in sandboxes),
        sum(view.least_mib + _engine_mib(view) for view in sandboxes),
        sum(view.ceiling_mib + _engine_mib(view) for view in sandboxes),
        math.ceil(sum(one.mean_mib for one in known)),
        math.ceil(math.sqrt(sum(one.variance for one in known))),
        host.price,
        len(sandboxes),
        groups,
        labels,
        images,
        states,
        version,
        held,
        closed,
    )


def _engine_mib(view: SandboxView) -> int:
    """What the engine itself holds."""
    if view.resident_mib is None or view.guest_ram_mib is None:
        return ENGINE_MIB
    return max(0, view.resident_mib - view.guest_ram_mib)
