"""What a sandbox asks of a host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ballonet.base.errors import ConfigError
from ballonet.pilot.admission import ENGINE_MIB, needed_mib

#: ``spread``: the host with the most room. ``pack``: the fullest host that has room, so that others become empty.
Strategy = Literal["spread", "pack"]
#: Which hosts are preferred for a sandbox of a group: those with sandboxes of that group, or those without.
Affinity = Literal["near", "apart"]

STRATEGIES: tuple[Strategy, ...] = ("spread", "pack")
AFFINITIES: tuple[Affinity, ...] = ("near", "apart")
#: The expected use of a sandbox that does not state one, as a share of its ceiling.
EXPECTED_SHARE = 0.25


class Request(NamedTuple):
    """One sandbox to be placed. Sizes in MiB of guest memory, without the engine."""

    name: str
    ceiling_mib: int
    #: The memory that it is guaranteed: its floor, or its reserve if that is more.
    least_mib: int
    #: The memory that it boots with.
    initial_mib: int
    #: What it will use on average; ``None``: :data:`EXPECTED_SHARE` of its ceiling.
    expected_mib: int | None = None
    #: How far it deviates from that (the standard deviation); ``None``: as far as is possible.
    deviation_mib: int | None = None
    #: Image and saved state that it starts from; a host that has them is preferred.
    image: str | None = None
    state: str | None = None
    #: Labels that the host must have.
    labels: Mapping[str, str] = {}
    #: Sandboxes of one group are placed near or apart from each other.
    group: str | None = None
    affinity: Affinity | None = None
    strategy: Strategy = "spread"

    @property
    def promise_mib(self) -> int:
        """What a host must be able to give at any time: the guaranteed memory and the engine."""
        return self.least_mib + ENGINE_MIB

    @property
    def start_mib(self) -> int:
        """What the host's admission asks for at the start."""
        return needed_mib(self.ceiling_mib, self.initial_mib, self.least_mib, 0)

    @property
    def use_mib(self) -> int:
        """Expected use with the engine."""
        expected = self.ceiling_mib * EXPECTED_SHARE if self.expected_mib is None else self.expected_mib
        return round(expected) + ENGINE_MIB

    @property
    def variance(self) -> float:
        """How much its use varies (MiB²). Memory between 0 and the ceiling with that mean varies by at most
        mean x (ceiling - mean)."""
        if self.deviation_mib is not None:
            return float(self.deviation_mib**2)
        mean = self.use_mib - ENGINE_MIB
        return float(mean * (self.ceiling_mib - mean))


def check_request(request: Request) -> Request:
    """Return ``request`` unchanged.

    :raises ConfigError: its sizes contradict each other, or it names an unknown strategy.
    """
    ceiling = request.ceiling_mib
    if ceiling < 1:
        raise ConfigError(f"sandbox {request.name!r}: a ceiling of {ceiling} MiB is not positive")
    for what, size in (
        ("guaranteed memory", request.least_mib),
        ("boot memory", request.initial_mib),
        ("expected use", request.expected_mib),
        ("deviation of its use", request.deviation_mib),
    ):
        if size is not None and not 0 <= size <= ceiling:
            raise ConfigError(
                f"sandbox {request.name!r}: {what} of {size} MiB must be from 0 to its ceiling, {ceiling} MiB"
            )
    if request.strategy not in STRATEGIES:
        raise ConfigError(
            f"unknown strategy {request.strategy!r}", hint=f"choose one of {', '.join(STRATEGIES)}"
        )
    if request.affinity is not None and request.affinity not in AFFINITIES:
        raise ConfigError(
            f"unknown affinity {request.affinity!r}", hint=f"choose one of {', '.join(AFFINITIES)}"
        )
    if request.affinity is not None and request.group is None:
        raise ConfigError(f"sandbox {request.name!r}: affinity {request.affinity!r} requires a group")
    return request
