"""The hosts and what was placed on them, as whoever places knows it. Pure: time is passed in.

It is rebuilt from offers at any time: a host's registry is the truth, this is a copy. What was placed on a host counts
there until an offer includes it, so that many creates at once do not all go to the same host.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ballonet.base.errors import BallonetError
from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds
from ballonet.cluster.offer import Held, HostOffer
from ballonet.cluster.placement import Fit, Placement, Refusal, judge, place
from ballonet.cluster.refusal_message import no_host
from ballonet.cluster.request import Request
from ballonet.cluster.usage import informed

#: How many hosts are judged before all are: the first of them by load, and as many that have what is needed.
SAMPLE = 16


@dataclass
class _Host:
    #: As the host made it, and with what was placed since.
    made: HostOffer
    offer: HostOffer
    load: float
    #: Sandboxes that no offer includes yet, and when the host answered (``None``: not yet).
    pending: dict[str, tuple[Request, float | None]] = field(default_factory=dict)


class Directory:
    """All hosts of a cluster."""

    def __init__(self, bounds: Bounds = DEFAULT_BOUNDS, version: str = "", sample: int = SAMPLE) -> None:
        self.bounds = bounds
        self.sample = sample
        self.version = version
        self._hosts: dict[str, _Host] = {}
        #: Hosts by load, the lowest first.
        self._order: list[tuple[float, str]] = []
        self._holders: dict[str, set[str]] = {}
        #: What sandboxes of each image held, on all hosts.
        self._held: dict[str, Held] = {}

    @property
    def offers(self) -> Mapping[str, HostOffer]:
        """Each host's offer with what was placed there since."""
        return {name: host.offer for name, host in self._hosts.items()}

    def update(self, made: HostOffer) -> None:
        """Take a host's new offer.

        It may tell of the same look at the host's memory as the last one, and that look seem older because the answer
        took longer. It is taken anyway: what else it says is newer, as whether the host takes sandboxes.
        """
        known = self._hosts.get(made.host)
        if known is None:
            known = self._hosts[made.host] = _Host(made, made, 0.0)
            insort(self._order, (0.0, made.host))
        else:
            self._hold(known.made, add=False)
        known.made = made
        known.pending = {
            name: (request, settled)
            for name, (request, settled) in known.pending.items()
            if settled is None or settled > made.at_s
        }
        self._hold(made, add=True)
        self._apply(known)

    def forget(self, host: str) -> None:
        """Leave out a host that left."""
        known = self._hosts.pop(host, None)
        if known is not None:
            self._order.remove((known.load, host))
            self._hold(known.made, add=False)

    def informed(self, request: Request) -> Request:
        """``request`` with the use that is expected because of other sandboxes of its image, unless it states one."""
        return informed(request, self._held.get(request.image or ""))

    def choose(self, request: Request, at_s: float) -> Placement:
        """Where to place ``request``. Some hosts are judged, and all of them if none of these qualifies: a host is
        found whenever one qualifies. The order is exact among the hosts that were judged."""
        offers = [self._hosts[name].offer for name in self._sample(request, at_s)]
        found = place(request, offers, at_s, self.bounds, self.version)
        if found.fits or len(offers) == len(self._hosts):
            return found
        every = (host.offer for host in self._hosts.values())
        return place(request, every, at_s, self.bounds, self.version)

    def reserve(self, request: Request, host: str) -> None:
        """Count ``request`` on ``host``: its creation begins."""
        known = self._hosts[host]
        known.pending[request.name] = (request, None)
        self._move(known, known.offer.with_placed(request))

    def settle(self, name: str, host: str, at_s: float, *, created: bool) -> None:
        """The host answered. A sandbox that was created counts until the host's next offer, which includes it."""
        known = self._hosts.get(host)
        if known is None or name not in known.pending:
            return
        if created:
            known.pending[name] = (known.pending[name][0], at_s)
        else:
            del known.pending[name]
            self._apply(known)

    def explain(self, request: Request, at_s: float, tried: Mapping[str, str]) -> BallonetError:
        """The error after all hosts refused.

        :param tried: the hosts whose own admission refused, with their words.
        """
        refusals = []
        for name, host in self._hosts.items():
            verdict = judge(request, host.offer, at_s, self.bounds, self.version)
            if name in tried:
                refusals.append(Refusal(name, "admission", tried[name]))
            elif isinstance(verdict, Fit):
                refusals.append(
                    Refusal(name, "admission", f"not tried: {self.bounds.tries} hosts refused before")
                )
            else:
                refusals.append(verdict)
        return no_host(request, refusals)

    def _apply(self, known: _Host) -> None:
        """Compute the offer with what is pending."""
        offer = known.made
        for request, _ in known.pending.values():
            offer = offer.with_placed(request)
        self._move(known, offer)

    def _move(self, known: _Host, offer: HostOffer) -> None:
        known.offer = offer
        load = _load(offer, self.bounds)
        if load != known.load:
            del self._order[bisect_left(self._order, (known.load, offer.host))]
            insort(self._order, (load, offer.host))
            known.load = load

    def _hold(self, offer: HostOffer, *, add: bool) -> None:
        sign = 1 if add else -1
        for image, held in offer.held.items():
            count, mib, squares = self._held.get(image, Held(0, 0.0, 0.0))
            self._held[image] = Held(
                count + sign * held.sandboxes, mib + sign * held.sum_mib, squares + sign * held.sum_squares
            )
        for thing in offer.images | offer.states:
            holders = self._holders.setdefault(thing, set())
            (holders.add if add else holders.discard)(offer.host)
            if not holders:
                del self._holders[thing]

    def _sample(self, request: Request, at_s: float) -> list[str]:
        """The hosts to judge first."""
        if request.affinity is not None or request.labels or len(self._order) <= 2 * self.sample:
            return [name for _, name in self._order]
        if request.strategy == "pack":
            chosen = self._fullest(request, at_s)
        else:
            chosen = [name for _, name in self._order[: self.sample]]
        for thing in (request.state, request.image):
            holders = self._holders.get(thing or "", ())
            least = sorted((self._hosts[name].load, name) for name in holders)[: self.sample]
            chosen += [name for _, name in least if name not in chosen]
        return chosen

    def _fullest(self, request: Request, at_s: float) -> list[str]:
        """The fullest hosts that have room."""
        found: Iterator[str] = (
            name
            for _, name in reversed(self._order)
            if isinstance(judge(request, self._hosts[name].offer, at_s, self.bounds, self.version), Fit)
        )
        return [name for name, _ in zip(found, range(self.bounds.tries), strict=False)]


def _load(offer: HostOffer, bounds: Bounds) -> float:
    """How full a host is: by guaranteed memory or by expected use, whichever is more."""
    usable = max(1, offer.usable_mib)
    return max(offer.promised_mib, offer.expected_mib + bounds.deviations * offer.deviation_mib) / usable
