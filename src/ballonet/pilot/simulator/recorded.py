"""Converts recordings to traces: CSV files, and the histories of sandboxes. Takes text and samples; opens no files.

``docs/simulator.md`` defines the columns.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ballonet.base.errors import ConfigError
from ballonet.base.memory import MIB
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.trace import Point, Trace

#: Columns of a trace; optional ones may be left out or empty.
REQUIRED = ("time", "sandbox", "working_set_mib")
OPTIONAL = ("hot_mib", "read_mib_s", "busy", "ceiling_mib", "floor_mib", "weight", "reserve_mib")
#: Without a ``busy`` column a guest counts as busy when it uses this share more than its minimum.
BUSY_SHARE = 0.05
#: Maximum number of rows: more indicate the wrong file.
MOST_ROWS = 2_000_000


#: The columns of ``ballonet history --csv`` that are used (bytes, unix seconds).
_HISTORY = ("at", "name", "ceiling", "floor", "actual", "guest_available", "guest_caches")


class _Row(NamedTuple):
    """A line of ``ballonet history --csv``: a :class:`RecordedSample`."""

    at: float
    name: str
    ceiling: int | None
    floor: int | None
    actual: int | None
    guest_available: int | None
    guest_caches: int | None


class RecordedSample(Protocol):
    """The fields of a history's sample that are used (bytes, unix seconds)."""

    @property
    def at(self) -> float: ...
    @property
    def name(self) -> str: ...
    @property
    def ceiling(self) -> int | None: ...
    @property
    def floor(self) -> int | None: ...
    @property
    def actual(self) -> int | None: ...
    @property
    def guest_available(self) -> int | None: ...
    @property
    def guest_caches(self) -> int | None: ...


def read_trace(lines: Iterable[str], where: str) -> list[GuestSpec]:
    """Read guests from CSV with a header: a trace, or the output of ``ballonet history --csv``.

    :param where: the file's name, for error messages.
    :raises ConfigError: a column is missing or unknown, a value is not a valid number, or times do not increase.
    """
    reader = csv.DictReader(lines)
    columns = reader.fieldnames or []
    if set(_HISTORY) <= set(columns):
        return _history(reader, where)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ConfigError(
            f"{where}: missing column {', '.join(missing)}", hint=f"required: {', '.join(REQUIRED)}"
        )
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    if unknown:
        raise ConfigError(
            f"{where}: unknown column {', '.join(unknown)}", hint=f"optional: {', '.join(OPTIONAL)}"
        )
    rows: dict[str, list[dict[str, float]]] = {}
    for number, row in enumerate(reader, start=2):
        if number > MOST_ROWS:
            raise ConfigError(f"{where}: more than {MOST_ROWS} rows")
        name = (row["sandbox"] or "").strip()
        if not name:
            raise ConfigError(f"{where}:{number}: the sandbox name is empty")
        rows.setdefault(name, []).append(_numbers(row, f"{where}:{number}"))
    if not rows:
        raise ConfigError(f"{where}: no rows after the header")
    start = min(points[0]["time"] for points in rows.values())
    return [_guest(name, points, start, where) for name, points in rows.items()]


def from_samples(samples: Iterable[RecordedSample], where: str, *, start: float | None = None) -> GuestSpec:
    """Create a guest from its history: its use becomes the working set, growth of its caches becomes reading.

    A history does not show how much the guest would have read its cached files again.

    :param start: the time (unix seconds) that becomes 0; ``None``: the time of its first sample.
    :raises ConfigError: no sample has the guest's available memory.
    """
    points: list[Point] = []
    first = start
    before: RecordedSample | None = None
    name = where
    ceiling = floor = 0
    for sample in samples:
        if sample.actual is None or sample.guest_available is None or sample.ceiling is None:
            continue
        first = sample.at if first is None else first
        if points and sample.at - first <= points[-1].at_s:
            continue
        name, ceiling, floor = sample.name, sample.ceiling // MIB, (sample.floor or 0) // MIB
        used = max(0, sample.actual - sample.guest_available) / MIB
        read = 0.0
        if before is not None and before.guest_caches is not None and sample.guest_caches is not None:
            grew = (sample.guest_caches - before.guest_caches) / MIB
            read = max(0.0, grew / (sample.at - before.at))
        if points:
            points[-1] = points[-1]._replace(read_mib_s=read)
        points.append(Point(max(0.0, sample.at - first), used))
        before = sample
    if not points:
        raise ConfigError(f"the history of {where} has no sample with the guest's available memory")
    kernel = Physics().kernel_mib + ceiling * Physics().kernel_share
    return GuestSpec(name, ceiling, Trace(_busy(points, kernel)), floor)


def from_histories(histories: Mapping[str, Sequence[RecordedSample]]) -> list[GuestSpec]:
    """Create guests from their histories by name, on one clock that starts at the earliest sample.

    :raises ConfigError: a history has no sample with the guest's available memory.
    """
    start = min((samples[0].at for samples in histories.values() if samples), default=0.0)
    return [from_samples(samples, name, start=start) for name, samples in histories.items()]


def _history(reader: csv.DictReader[str], where: str) -> list[GuestSpec]:
    found: dict[str, list[_Row]] = {}
    for number, row in enumerate(reader, start=2):
        try:
            sizes = [int(row[name]) if row[name] else None for name in _HISTORY[2:]]
            found.setdefault(row["name"], []).append(_Row(float(row["at"]), row["name"], *sizes))
        except (TypeError, ValueError):
            raise ConfigError(f"{where}:{number}: not a valid line of a history") from None
    if not found:
        raise ConfigError(f"{where}: no rows after the header")
    return from_histories(found)


def _busy(points: list[Point], kernel_mib: float) -> list[Point]:
    """Subtract the kernel's memory, and mark when the guest was busy."""
    least = min(point.work_mib for point in points)
    return [
        point._replace(
            work_mib=max(0.0, point.work_mib - kernel_mib),
            busy=point.work_mib > least * (1 + BUSY_SHARE) or point.read_mib_s > 1.0,
        )
        for point in points
    ]


def _numbers(row: Mapping[str, str | None], where: str) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        if name == "sandbox" or name is None or text is None or not text.strip():
            continue
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{where}: {name} {text[:32]!r} is not a number") from None
        if not math.isfinite(value) or value < 0:
            raise ConfigError(f"{where}: {name} {text[:32]} must be finite and not negative")
        found[name] = value
    for name in ("time", "working_set_mib"):
        if name not in found:
            raise ConfigError(f"{where}: {name} is empty")
    return found


def _guest(name: str, rows: list[dict[str, float]], start: float, where: str) -> GuestSpec:
    most = max(row["working_set_mib"] + row.get("hot_mib", 0.0) for row in rows)
    # By default one and a half times the peak plus the kernel, rounded up to 256 MiB.
    usual = math.ceil((most * 1.5 + 128) / 256) * 256
    first = rows[0]
    ceiling = int(first.get("ceiling_mib", usual))
    if ceiling < 64:
        raise ConfigError(f"{where}: the ceiling of {name}, {ceiling} MiB, is below 64 MiB")
    floor = int(first.get("floor_mib", max(128, ceiling // 4)))
    if floor > ceiling:
        raise ConfigError(f"{where}: the floor of {name}, {floor} MiB, is above its ceiling, {ceiling} MiB")
    least = min(row["working_set_mib"] for row in rows)
    points = []
    for row in rows:
        hot, read = row.get("hot_mib", 0.0), row.get("read_mib_s", 0.0)
        works = row["working_set_mib"] > least * (1 + BUSY_SHARE) or hot > 0 or read > 0
        busy = bool(row["busy"]) if "busy" in row else works
        points.append(Point(row["time"] - start, row["working_set_mib"], hot, read, busy))
    weight, reserve = int(first.get("weight", 100)), int(first.get("reserve_mib", 0))
    try:
        trace = Trace(points)
    except ConfigError as error:
        raise ConfigError(f"{where}: sandbox {name}: {error.message}") from None
    return GuestSpec(name, ceiling, trace, floor, max(1, weight), min(reserve, ceiling))
