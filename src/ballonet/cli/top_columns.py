"""The columns of ``ballonet top``, and the text of their figures. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ballonet.base.memory import GIB, bytes_to_mib
from ballonet.cli.output import show
from ballonet.metrics.model import SandboxSample


class Column(NamedTuple):
    """A column of the table; on a narrow terminal, columns of a lower ``rank`` come first."""

    heading: str
    width: int
    rank: int
    text: Callable[[SandboxSample], str]
    #: The sort key: the largest value comes first, unknown last.
    key: Callable[[SandboxSample], float | None]


def mib(size: int | None) -> str:
    if size is None:
        return "-"
    return str(bytes_to_mib(size)) if size < 100_000 << 20 else f"{size // GIB}G"


def gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _size(heading: str, rank: int, of: Callable[[SandboxSample], int | None]) -> Column:
    return Column(heading, max(5, len(heading)), rank, lambda sample: mib(of(sample)), of)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def state_of(sample: SandboxSample) -> str:
    """The balloon's state if the sandbox runs and answers, else the sandbox's."""
    if sample.state != "running":
        return sample.state
    if "guest" in sample.unknown:
        return "no answer" if "balloon" in sample.unknown else "silent guest"
    return sample.balloon_state or sample.state


COLUMNS = (
    _size("CEIL", 1, lambda sample: sample.ceiling),
    _size("TARGET", 0, lambda sample: sample.target),
    _size("ACTUAL", 0, lambda sample: sample.actual),
    _size("GUEST", 0, lambda sample: sample.guest_ram),
    _size("ENGINE", 1, lambda sample: sample.overhead),
    _size("AVAIL", 1, lambda sample: sample.guest_available),
    Column("PSI%", 5, 1, lambda s: percent(s.pressure_some_avg10), lambda s: s.pressure_some_avg10),
    _size("FLOOR", 2, lambda sample: sample.floor),
    _size("LIMIT", 2, lambda sample: sample.limit),
    _size("CACHES", 3, lambda sample: sample.guest_caches),
    Column("OOM", 4, 3, lambda s: show(s.oom_kills), lambda s: s.oom_kills),
    Column("MAJFLT", 8, 4, lambda s: show(s.major_faults), lambda s: s.major_faults),
    _size("RECLAIMED", 4, lambda sample: sample.reclaimed),
    _size("PSS", 5, lambda sample: sample.pss),
)
