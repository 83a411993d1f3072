"""How far a host is filled: the limits for overcommit and for the age of offers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.base.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """The limits that every placement keeps."""

    #: The sandboxes' expected use and this many standard deviations of it have to fit into what a host may promise.
    deviations: float = 3.0
    #: Their ceilings may be this many times as much: a limit for the case that they grow together, which the deviation
    #: of independent sandboxes does not cover.
    overcommit: float = 8.0
    #: The price of memory up to which a host takes more sandboxes: beyond it, guests at work lose time.
    price: float = 0.5
    #: An offer that is older offers nothing (seconds). Until then it loses room evenly, up to one standard deviation.
    stale_s: float = 15.0
    #: A host that has the image or the saved state is preferred while this share of what it may promise is not
    #: exceeded; a fuller one is chosen like any other.
    comfortable: float = 0.85
    #: How many hosts are tried at most, one after the other.
    tries: int = 8


DEFAULT_BOUNDS = Bounds()


def check_bounds(bounds: Bounds) -> Bounds:
    """Return ``bounds`` unchanged.

    :raises ConfigError: a limit is out of range.
    """
    for name, low, high in (
        ("deviations", 0.0, 100.0),
        ("overcommit", 1.0, 100.0),
        ("price", 0.0, 1.0),
        ("stale_s", 0.1, 3600.0),
        ("comfortable", 0.0, 1.0),
        ("tries", 1, 1000),
    ):
        value = getattr(bounds, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value:g}, but must be from {low:g} to {high:g}")
    return bounds
