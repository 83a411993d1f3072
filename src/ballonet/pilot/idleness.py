"""Whether a guest is at work, from figures that are read without waking it. Pure.

A guest is quiet while its engine uses next to no processor, its disks are quiet, and it reads nothing again that had
been reclaimed. If a figure is missing it counts as being at work. Its own trims and the moves of its balloon count as
work, too: what is taken from an idle guest is taken with pauses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.pilot.model import SandboxView

#: The engine of a quiet guest uses at most this share of a processor. With emulation an idle guest uses 0.5 %, and 4 %
#: if its kernel ticks all the time (bench/metrics.py).
QUIET_CPU_SHARE = 0.05
#: The engine of a quiet guest reads and writes at most this much in a second (MiB). The figure is in whole MiB.
QUIET_IO_MIB_S = 1.0
#: A shorter time between two readings says nothing: processor time is counted in steps of 10 ms (seconds).
LEAST_S = 0.5


class Activity(NamedTuple):
    """The last readings of a guest, and since when it has been quiet."""

    at_s: float
    cpu_s: float | None
    io_mib: int | None
    refault_mib: int | None
    #: ``None``: it is at work, or that is unknown.
    quiet_since_s: float | None


def observe(view: SandboxView, at_s: float, before: Activity | None) -> Activity:
    """The activity of ``view`` at ``at_s``.

    :param before: the result of the previous observation; ``None`` at the first one.
    """
    since = None
    if before is not None:
        if at_s - before.at_s < LEAST_S:
            return before
        if _is_quiet(view, at_s, before):
            since = before.at_s if before.quiet_since_s is None else before.quiet_since_s
    return Activity(at_s, view.engine_cpu_s, view.engine_io_mib, view.refault_mib, since)


def observe_all(
    sandboxes: Sequence[SandboxView], at_s: float, before: Mapping[str, Activity] | None
) -> dict[str, Activity]:
    """:func:`observe` each sandbox, in every tick.

    The policy and the checks both do: if one left out a tick, they would measure between other readings, and one could
    call a guest quiet for a minute when the other does not yet.
    """
    known = before or {}
    return {view.name: observe(view, at_s, known.get(view.name)) for view in sandboxes}


def quiet_s(activity: Activity | None, at_s: float) -> float | None:
    """How long a guest has been quiet; ``None`` if it is at work, or that is unknown."""
    if activity is None or activity.quiet_since_s is None:
        return None
    return at_s - activity.quiet_since_s


def _is_quiet(view: SandboxView, at_s: float, before: Activity) -> bool:
    elapsed = at_s - before.at_s
    if (
        view.engine_cpu_s is None
        or before.cpu_s is None
        or view.engine_io_mib is None
        or before.io_mib is None
    ):
        return False
    cpu, io = view.engine_cpu_s - before.cpu_s, view.engine_io_mib - before.io_mib
    if not (0 <= cpu <= QUIET_CPU_SHARE * elapsed and 0 <= io <= QUIET_IO_MIB_S * max(1.0, elapsed)):
        return False
    return view.refault_mib is None or before.refault_mib is None or view.refault_mib == before.refault_mib
