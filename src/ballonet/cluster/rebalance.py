"""When a host stays short of memory: which sandbox is moved where, or that the host offers nothing for a while. Pure:
time is passed in.

It must never move in circles. So a host is short only after its price was high for minutes, and until it is low
(hysteresis); a move must bring its target to a low price at most, measured by what the sandbox holds now; source and
target then rest; a sandbox is moved once an hour; and the cluster has a budget of moves an hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ballonet.cluster.offer import HostOffer
from ballonet.cluster.placement import available_mib
from ballonet.pilot.price import price_of


@dataclass(frozen=True)
class RebalanceBounds:
    """The limits of moves."""

    #: A host is short from this price of memory on, and until its price is at most the lower one.
    high: float = 0.7
    low: float = 0.35
    #: For how long it is short before something is done (seconds).
    short_s: float = 180.0
    #: For how long neither the source nor the target of a move takes part in another one (seconds).
    rest_s: float = 600.0
    #: For how long a sandbox that was moved, or could not be, stays where it is (seconds).
    stay_s: float = 3600.0
    #: How many moves the cluster makes in an hour.
    budget: int = 6


class Movable(NamedTuple):
    """A sandbox that may be moved, and what it holds of its host (MiB)."""

    name: str
    held_mib: int


class Move(NamedTuple):
    """A sandbox is to be moved."""

    name: str
    source: str
    target: str


class Rebalancer:
    """What was observed, and what was moved."""

    def __init__(self, bounds: RebalanceBounds = RebalanceBounds()) -> None:
        self.bounds = bounds
        self._since_s: dict[str, float] = {}
        self._rests_until_s: dict[str, float] = {}
        self._stays_until_s: dict[str, float] = {}
        self._moved_s: list[float] = []

    def observe(self, offers: Iterable[HostOffer], now_s: float) -> None:
        """Take what all hosts offer now."""
        found = {offer.host: offer.price for offer in offers}
        for host in self._since_s.keys() - found.keys():
            del self._since_s[host]
        for host, price in found.items():
            if price is None or price <= self.bounds.low:
                self._since_s.pop(host, None)
            elif price >= self.bounds.high:
                self._since_s.setdefault(host, now_s)

    def short(self, now_s: float) -> list[str]:
        """The hosts that have been short for long enough, the longest first. They offer nothing."""
        since = sorted((at_s, host) for host, at_s in self._since_s.items())
        return [host for at_s, host in since if now_s - at_s >= self.bounds.short_s]

    def next_move(
        self,
        offers: Mapping[str, HostOffer],
        movable: Mapping[str, Sequence[Movable]],
        now_s: float,
        fits: Mapping[str, frozenset[str]] | None = None,
    ) -> Move | None:
        """The move to make now, if there is one.

        :param movable: by host, the sandboxes that may be moved.
        :param fits: by sandbox, the hosts that its placement would allow; ``None``: all.
        """
        bounds = self.bounds
        self._moved_s = [at_s for at_s in self._moved_s if now_s - at_s < 3600.0]
        if len(self._moved_s) >= bounds.budget:
            return None
        for source in self.short(now_s):
            offer = offers.get(source)
            if offer is None or self._rests(source, now_s):
                continue
            need_mib = available_mib(bounds.low, offer.reserve_mib, offer.budget_mib) - offer.available_mib
            for box in sorted(movable.get(source, ()), key=lambda one: _order(one, need_mib)):
                if self._stays_until_s.get(box.name, 0.0) > now_s or box.held_mib <= 0:
                    continue
                allowed = offers.keys() if fits is None else fits.get(box.name, frozenset())
                target = self._target(box, offers, allowed, source, now_s)
                if target is not None:
                    return Move(box.name, source, target)
        return None

    def _target(
        self,
        box: Movable,
        offers: Mapping[str, HostOffer],
        allowed: Iterable[str],
        source: str,
        now_s: float,
    ) -> str | None:
        """The host that has the most room, and keeps a low price with the sandbox."""
        best: tuple[float, str] | None = None
        for host in allowed:
            offer = offers.get(host)
            if offer is None or host == source or host in self._since_s or offer.closed is not None:
                continue
            price = price_of(offer.available_mib - box.held_mib, offer.reserve_mib, offer.budget_mib)
            if self._rests(host, now_s) or price is None or price > self.bounds.low:
                continue
            if best is None or (price, host) < best:
                best = price, host
        return None if best is None else best[1]

    def _rests(self, host: str, now_s: float) -> bool:
        return self._rests_until_s.get(host, 0.0) > now_s

    def done(self, move: Move, now_s: float, *, moved: bool) -> None:
        """A move has ended. One that failed counts, too: it cost a pause."""
        self._moved_s.append(now_s)
        self._stays_until_s[move.name] = now_s + self.bounds.stay_s
        for host in (move.source, move.target) if moved else (move.source,):
            self._rests_until_s[host] = now_s + self.bounds.rest_s
        for known in (self._stays_until_s, self._rests_until_s):
            for name in [name for name, until_s in known.items() if until_s <= now_s]:
                del known[name]


def _order(box: Movable, need_mib: int) -> tuple[bool, int]:
    """The smallest that is enough, then the largest."""
    enough = box.held_mib >= need_mib
    return (not enough, box.held_mib if enough else -box.held_mib)
