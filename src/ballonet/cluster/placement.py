"""Which host a sandbox is placed on: an ordered list of hosts to try, with the numbers. Pure and deterministic.

A host qualifies if all of these hold, in MiB, with everything that was placed there since its offer:

- **promise**: guaranteed memory of all sandboxes, and engines, is at most budget - reserve. Never overcommitted.
- **start**: what the sandbox needs at its start is free now: available + reclaimable - reserve. An old offer has less.
- **price**: the price of memory (:mod:`ballonet.pilot.price`) is at most a limit after the start.
- **use**: expected use of all sandboxes, and some deviations of it, is at most budget - reserve.
- **ceilings**: all ceilings are at most some times budget - reserve.

The host's own admission has the last word. A refusal there leads to the next host of the list.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.request import Request
from ballonet.pilot.admission import ENGINE_MIB
from ballonet.pilot.price import EASE_SHARE, price_of


class Fit(NamedTuple):
    """A host that qualifies."""

    host: str
    #: Lower is tried first.
    rank: tuple[float, ...]
    #: How full it would be: the share of what it may promise that is guaranteed, or expected to be used (deviations
    #: included), whichever is more.
    load: float
    reason: str


class Refusal(NamedTuple):
    """A host that does not qualify."""

    host: str
    #: The limit that it would exceed, or why it is left out: ``promise``, ``start``, ``price``, ``use``, ``ceilings``,
    #: ``stale``, ``closed``, ``label``, ``version``, ``admission``.
    limit: str
    reason: str
    #: How much is missing (MiB), where that is a meaningful number.
    missing_mib: int = 0


class Placement(NamedTuple):
    """The decision about one sandbox: the hosts to try, the best first, and why the others do not qualify."""

    request: Request
    fits: Sequence[Fit]
    refusals: Sequence[Refusal]


def place(
    request: Request,
    offers: Iterable[HostOffer],
    at_s: float,
    bounds: Bounds = DEFAULT_BOUNDS,
    version: str = "",
) -> Placement:
    """Decide at ``at_s``. The order of ``offers`` does not matter.

    :param version: the version of ballonet that a host must have.
    """
    fits: list[Fit] = []
    refusals: list[Refusal] = []
    for offer in offers:
        verdict = judge(request, offer, at_s, bounds, version)
        if isinstance(verdict, Fit):
            fits.append(verdict)
        else:
            refusals.append(verdict)
    fits.sort(key=lambda fit: (fit.rank, fit.host))
    refusals.sort(key=lambda refusal: (refusal.limit, refusal.missing_mib, refusal.host))
    return Placement(request, fits[: bounds.tries], refusals)


def judge(
    request: Request, offer: HostOffer, at_s: float, bounds: Bounds, version: str = ""
) -> Fit | Refusal:
    """Whether one host qualifies, and the numbers."""
    host = offer.host
    excluded = _excluded(request, offer, at_s, bounds, version)
    if excluded is not None:
        return excluded
    usable = offer.usable_mib
    promised = offer.promised_mib + request.promise_mib
    if promised > usable:
        return Refusal(
            host,
            "promise",
            f"{offer.promised_mib} of {usable} MiB are guaranteed to its {offer.sandboxes} sandboxes, "
            f"and {request.promise_mib} more do not fit",
            promised - usable,
        )
    aged = _aged_mib(offer, at_s, bounds)
    free = offer.free_mib - aged
    if request.start_mib > free:
        old = f" ({aged} fewer because its offer is {at_s - offer.at_s:.1f} s old)" if aged else ""
        return Refusal(
            host,
            "start",
            f"a start needs {request.start_mib} MiB, but only {max(0, free)} are free{old}: {offer.available_mib} are "
            f"available, its sandboxes could give back {offer.reclaimable_mib}, {offer.reserve_mib} are reserved",
            request.start_mib - free,
        )
    price = price_of(offer.available_mib - request.start_mib, offer.reserve_mib, offer.budget_mib)
    if price is None or price > bounds.price:
        return Refusal(
            host,
            "price",
            f"{offer.available_mib} of {offer.budget_mib} MiB are available, {offer.reserve_mib} are reserved: after a "
            f"start that needs {request.start_mib} the price of memory would be {price or 0:.2f}, and "
            f"{bounds.price:g} is the limit",
            available_mib(bounds.price, offer.reserve_mib, offer.budget_mib)
            + request.start_mib
            - offer.available_mib,
        )
    expected = offer.expected_mib + request.use_mib
    swing = bounds.deviations * math.sqrt(offer.deviation_mib**2 + request.variance)
    if expected + swing > usable:
        return Refusal(
            host,
            "use",
            f"its sandboxes would be expected to use {expected} MiB, and {swing:.0f} more at times; {usable} may be "
            f"promised",
            math.ceil(expected + swing - usable),
        )
    ceilings = offer.ceilings_mib + request.ceiling_mib + ENGINE_MIB
    most = int(bounds.overcommit * usable)
    if ceilings > most:
        return Refusal(
            host,
            "ceilings",
            f"the ceilings would be {ceilings} MiB; {bounds.overcommit:g} times what may be promised is {most}",
            ceilings - most,
        )
    load = max(promised, expected + swing) / usable
    has = _has(request, offer)
    rank = _rank(request, offer, load, bounds)
    reason = (
        f"{usable - promised} of {usable} MiB would still be free to guarantee, {free} are free now; "
        f"expected use {expected} MiB, {swing:.0f} more at times{f'; it has the {has}' if has else ''}"
    )
    return Fit(host, rank, load, reason)


def _excluded(
    request: Request, offer: HostOffer, at_s: float, bounds: Bounds, version: str
) -> Refusal | None:
    """Why the host is out of the question, whatever its memory."""
    if version and offer.version != version:
        return Refusal(offer.host, "version", f"it runs ballonet {offer.version or 'unknown'}, not {version}")
    if offer.closed is not None:
        return Refusal(offer.host, "closed", offer.closed)
    age = at_s - offer.at_s
    if age > bounds.stale_s:
        return Refusal(
            offer.host, "stale", f"its last offer is {age:.0f} s old; {bounds.stale_s:g} s is the limit"
        )
    for label, value in sorted(request.labels.items()):
        found = offer.labels.get(label)
        if found != value:
            has = "does not have that label" if found is None else f"has {label}={found}"
            return Refusal(offer.host, "label", f"{label}={value} is required, and it {has}")
    return None


def available_mib(price: float, reserve_mib: int, total_mib: int) -> int:
    """What is available at a price."""
    return reserve_mib + math.ceil((1 - price) * total_mib * EASE_SHARE)


def _aged_mib(offer: HostOffer, at_s: float, bounds: Bounds) -> int:
    """What its sandboxes may have taken since the offer."""
    age = max(0.0, at_s - offer.at_s)
    return int(offer.deviation_mib * min(1.0, age / bounds.stale_s))


def _has(request: Request, offer: HostOffer) -> str | None:
    """What the sandbox starts from, if the host has it."""
    if request.state is not None and request.state in offer.states:
        return f"saved state {request.state}"
    if request.image is not None and request.image in offer.images:
        return f"image {request.image}"
    return None


def _rank(request: Request, offer: HostOffer, load: float, bounds: Bounds) -> tuple[float, ...]:
    """Affinity first, then what the host has, then load; hosts that are alike in all that, in an order that differs
    from sandbox to sandbox."""
    together = 0 if request.group is None else offer.groups.get(request.group, 0)
    near = {"near": -float(together > 0), "apart": float(together), None: 0.0}[request.affinity]
    has = 0.0
    if load <= bounds.comfortable:
        if request.state is not None and request.state in offer.states:
            has = -2.0
        elif request.image is not None and request.image in offer.images:
            has = -1.0
    level = load if request.strategy == "spread" else -load
    return (near, has, round(level, 3), float(zlib.crc32(f"{request.name}\0{offer.host}".encode())))
