"""What a modelled guest's work needs over time: linear segments for its memory, steps for the rest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ballonet.base.errors import ConfigError


class Point(NamedTuple):
    """What the work needs from ``at_s`` on. ``work_mib`` changes linearly to that of the next point."""

    at_s: float
    #: Memory that it allocates, in addition to the kernel's: cannot be reclaimed.
    work_mib: float
    #: Files that it reads repeatedly.
    hot_mib: float = 0.0
    #: Files that it reads or writes once (MiB/s).
    read_mib_s: float = 0.0
    #: Whether the guest is busy: time lost while it is idle does not count.
    busy: bool = True


class Trace:
    """The work of one guest: points in order of time."""

    __slots__ = ("points",)

    def __init__(self, points: Sequence[Point]) -> None:
        """
        :raises ConfigError: there are no points, times do not increase, or a value is negative.
        """
        if not points:
            raise ConfigError("a trace needs at least one point")
        for before, after in pairwise(points):
            if after.at_s <= before.at_s:
                raise ConfigError(
                    f"times of a trace must increase: {after.at_s:g} s follows {before.at_s:g} s"
                )
        for point in points:
            if min(point.at_s, point.work_mib, point.hot_mib, point.read_mib_s) < 0:
                raise ConfigError(f"values of a trace must not be negative: {point}")
        self.points = tuple(points)

    @property
    def end_s(self) -> float:
        """Time of the last point."""
        return self.points[-1].at_s
