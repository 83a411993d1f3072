"""How much a sandbox is expected to use: at first what its request says, or what other sandboxes of its image held,
then more and more what it held itself. Pure.

What it holds is measured on the host (guest RAM and engine), so that no guest can lie about it. What is expected at
first counts as :data:`PRIOR_S` seconds of observation. Older observations fade, so that a sandbox whose work changed is
judged by its recent use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ballonet.cluster.offer import Expectation, Held
from ballonet.cluster.request import Request
from ballonet.pilot.admission import ENGINE_MIB

#: For how many seconds of observation the first expectation counts.
PRIOR_S = 120.0
#: Observations lose weight beyond this time (seconds): the average is that of the last half hour or so.
MEMORY_S = 1800.0
#: A sandbox says something about others of its image once it was observed for this long (seconds).
TELLING_S = 60.0
#: So many sandboxes of an image have to be known before others are expected to be like them.
TELLING_COUNT = 5


class Usage(NamedTuple):
    """The use of one sandbox, with its engine."""

    #: What was expected before the first observation.
    prior: Expectation
    #: Seconds of observation, and their mean (MiB) and mean squared difference (MiB²).
    seen_s: float = 0.0
    mean_mib: float = 0.0
    variance: float = 0.0

    @property
    def expectation(self) -> Expectation:
        """The mean and variance of what was expected and observed."""
        share = PRIOR_S / (PRIOR_S + self.seen_s)
        off = self.prior.mean_mib - self.mean_mib
        return Expectation(
            self.mean_mib + share * off,
            share * self.prior.variance + (1 - share) * self.variance + share * (1 - share) * off * off,
        )


def expected(request: Request) -> Usage:
    """Before the first observation."""
    return Usage(Expectation(float(request.use_mib), request.variance))


def unknown(ceiling_mib: int) -> Usage:
    """A sandbox whose request is not known: it may use its ceiling."""
    return Usage(Expectation(float(ceiling_mib + ENGINE_MIB), 0.0))


def observed(usage: Usage, held_mib: float, seconds: float) -> Usage:
    """After it held ``held_mib`` for ``seconds``."""
    if seconds <= 0:
        return usage
    before = min(usage.seen_s, MEMORY_S)
    share = seconds / (before + seconds)
    off = held_mib - usage.mean_mib
    return usage._replace(
        seen_s=before + seconds,
        mean_mib=usage.mean_mib + share * off,
        variance=(1 - share) * (usage.variance + share * off * off),
    )


def telling(usages: Iterable[Usage]) -> Held:
    """What the sandboxes of one image held, for the expectation of others."""
    known = [one for one in usages if one.seen_s >= TELLING_S]
    return Held(
        len(known),
        sum(one.mean_mib for one in known),
        sum(one.variance + one.mean_mib**2 for one in known),
    )


def informed(request: Request, held: Held | None) -> Request:
    """``request`` with the use that is expected because of others of its image, unless it states one."""
    if request.expected_mib is not None or held is None or held.sandboxes < TELLING_COUNT:
        return request
    mean = held.sum_mib / held.sandboxes
    # The variance of one, and that among them.
    variance = max(0.0, held.sum_squares / held.sandboxes - mean * mean)
    guest = min(request.ceiling_mib, max(0, round(mean) - ENGINE_MIB))
    return request._replace(expected_mib=guest, deviation_mib=round(variance**0.5))
