"""What a modelled guest's work wants over time: straight lines for its memory, steps for the rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ballonet.base.errors import ConfigError


class Point(NamedTuple):
    """What the work wants from ``at_s`` on. ``work_mib`` goes to the next point's in a straight line."""

    at_s: float
    #: Memory that it allocates, beside what the kernel needs: cannot be taken from it.
    work_mib: float
    #: Files that it reads again and again.
    hot_mib: float = 0.0
    #: Files that it reads or writes once (MiB/s).
    read_mib_s: float = 0.0
    #: Whether it works: time lost while it does not slows nothing.
    busy: bool = True


class Trace:
    """The points of one guest's work, in order."""

    __slots__ = ("points",)

    def __init__(self, points: Sequence[Point]) -> None:
        """
        :raises ConfigError: there is none, times do not rise, or a size is negative.
        """
        if not points:
            raise ConfigError("a trace needs a point at least")
        for before, after in pairwise(points):
            if after.at_s <= before.at_s:
                raise ConfigError(
                    f"a trace's times must rise: {after.at_s:g} s comes after {before.at_s:g} s"
                )
        for point in points:
            if min(point.at_s, point.work_mib, point.hot_mib, point.read_mib_s) < 0:
                raise ConfigError(f"a trace has no negative numbers: {point}")
        self.points = tuple(points)

    @property
    def end_s(self) -> float:
        """When the last point is."""
        return self.points[-1].at_s
