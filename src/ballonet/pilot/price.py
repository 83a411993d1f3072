"""The price of memory: one number that says how much the autopilot takes, and from whom. Pure.

The price is set by what the host has available beyond its reserve: 0 while that is a quarter of the host's memory or
more, 1 when nothing is left. It grows evenly between them::

    price = 1 - (available - reserve) / (total / 4),  between 0 and 1

What is taken from a guest depends on the price and on whether the guest is idle (:mod:`ballonet.pilot.idleness`):

============================  =============================  ==========================
                              a guest at work                an idle guest
============================  =============================  ==========================
how long waste is tolerated   patience / price² (0: always)  patience
caches to drop at once        price² x idle caches           inactive caches, later all
the most that a target loses  price² x what is above least   a step (``limits.step_mib``)
idle means                    -                              quiet for 5 s x (1 - price)
============================  =============================  ==========================

At price 1 both columns are the same, and all idle caches are dropped at once. A higher price never takes less. Because
of the square, idle guests give first: at price 0.3, one at work loses less than a tenth of what it would at price 1.
"""

from __future__ import annotations

#: Available memory beyond the reserve, as a share of the host's, from which on memory costs nothing.
EASE_SHARE = 0.25
#: At price 0, a guest counts as idle when it has been quiet for this long (seconds).
QUIET_S = 5.0
#: At price 0, an idle guest keeps the caches that its kernel holds to be active until it has been quiet for this long
#: (seconds). Its next work may read them again.
ACTIVE_CACHES_S = 30.0


def price_of(available_mib: int | None, reserve_mib: int, total_mib: int) -> float | None:
    """The price; ``None`` if the host does not report its available memory."""
    if available_mib is None or total_mib <= 0:
        return None
    ease = (available_mib - reserve_mib) / (total_mib * EASE_SHARE)
    return 1.0 - min(1.0, max(0.0, ease))


def describe_price(price: float) -> str:
    """The price for a person."""
    meaning = (
        "guests at work lose nothing"
        if price == 0
        else "waste is taken from all guests alike"
        if price == 1
        else "the more the host fills, the more is taken from guests at work"
    )
    return f"price {price:.2f}: {meaning}"


def is_idle(price: float, quiet_s: float | None) -> bool:
    """Whether a guest counts as idle.

    :param quiet_s: how long it has been quiet; ``None``: it is at work, or that is unknown.
    """
    return quiet_s is not None and quiet_s >= QUIET_S * (1 - price)


def share_of_work(price: float) -> float:
    """The share that a guest at work loses of what an idle one would."""
    return max(price * price, 1e-9) if price > 0 else 0.0


def patience(price: float, idle: bool) -> float:
    """How long waste is tolerated, in multiples of the time at price 1."""
    if idle:
        return 1.0
    return 1.0 / share_of_work(price) if price > 0 else float("inf")


def caches_to_drop(price: float, quiet_s: float | None, caches_mib: float, inactive_mib: int | None) -> float:
    """How many of its idle caches a guest is requested to drop at once.

    :param caches_mib: caches that it did not prove to need.
    :param inactive_mib: the part of its caches that its kernel would reclaim first; ``None``: unknown.
    """
    drop = share_of_work(price) * caches_mib
    if quiet_s is not None and is_idle(price, quiet_s):
        every = inactive_mib is None or quiet_s >= ACTIVE_CACHES_S * (1 - price)
        drop = max(drop, caches_mib if every else min(caches_mib, float(inactive_mib or 0)))
    return drop


def kept_mib(price: float, idle: bool, least_mib: int, target_mib: int) -> int:
    """The lowest target of a guest now: one at work loses a share of what it has above ``least_mib``."""
    if idle or target_mib <= least_mib:
        return least_mib
    # Rounded up: at a low price nothing is taken rather than too much.
    return target_mib - int(share_of_work(price) * (target_mib - least_mib))
