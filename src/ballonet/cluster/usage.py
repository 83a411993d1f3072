"""How much a sandbox is expected to use: at first what its request says, then more and more what it used. Pure.

The request counts as :data:`PRIOR_S` seconds of observation. Older observations fade, so that a sandbox whose work
changed is judged by its recent use.
"""

from __future__ import annotations

from typing import NamedTuple

from ballonet.cluster.offer import Expectation
from ballonet.cluster.request import Request
from ballonet.pilot.admission import ENGINE_MIB

#: For how many seconds of observation the request counts.
PRIOR_S = 120.0
#: Observations lose weight beyond this time (seconds): the average is that of the last half hour or so.
MEMORY_S = 1800.0


class Usage(NamedTuple):
    """The use of one sandbox, with its engine, as known so far."""

    #: Seconds of observation, the prior included.
    weight_s: float
    mean_mib: float
    #: Mean of the squared differences (MiB²).
    variance: float

    @property
    def expectation(self) -> Expectation:
        return Expectation(self.mean_mib, self.variance)


def expected(request: Request) -> Usage:
    """Before the first observation."""
    return Usage(PRIOR_S, float(request.use_mib), request.variance)


def observed(usage: Usage, used_mib: float, seconds: float) -> Usage:
    """After it used ``used_mib`` for ``seconds``: the weighted mean and variance of both."""
    if seconds <= 0:
        return usage
    weight = min(usage.weight_s, MEMORY_S)
    share = seconds / (weight + seconds)
    off = used_mib - usage.mean_mib
    return Usage(
        weight + seconds,
        usage.mean_mib + share * off,
        (1 - share) * (usage.variance + share * off * off),
    )


def unknown(ceiling_mib: int) -> Usage:
    """A sandbox of which nothing is known: it may use its ceiling."""
    return Usage(PRIOR_S, float(ceiling_mib + ENGINE_MIB), 0.0)
