"""Plots samples over time with matplotlib, which is large and optional and therefore imported when used.

Line style, width, hatching and markers make all elements distinguishable without colour.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError, HostError, os_hint
from ballonet.base.memory import GIB, MIB
from ballonet.base.missing_modules import require_module
from ballonet.metrics.model import SandboxSample

_SUFFIXES = (".png", ".svg", ".pdf")
#: Samples further apart than this are not connected (seconds). While nothing changes there is one per minute.
GAP_S = 150.0
#: While a balloon moves, guest values older than this (seconds) belong to another balloon size.
_SAME_MOMENT_S = 0.1
#: The axis is in GiB from this ceiling on.
_GIB_FROM = 8 * GIB
#: Stalls are marked if they took more than this share of the time between two samples.
_STALLED_SHARE = 0.01
#: Style of values that are carried forward after the last sample.
_CARRIED = {"linestyle": (0, (1, 2)), "linewidth": 1.2}


def check_can_draw(path: Path, option: str) -> None:
    """Check that a plot can be written to ``path``, before anything else starts.

    :raises ConfigError: the suffix is not a supported format, or the directory does not exist.
    :raises HostError: matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"{option} {path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: the directory {path.parent} does not exist")
    require_module("matplotlib", f"{option} cannot draw a plot")


def draw(
    histories: Sequence[Sequence[SandboxSample]],
    path: Path,
    *,
    from_start: bool = False,
    until: Sequence[float | None] = (),
) -> None:
    """Plot the memory of one or more sandboxes, one above the other, with a common time axis.

    :param histories: the samples of each sandbox, oldest first; none may be empty.
    :param from_start: show seconds since the first sample instead of the time of day (UTC).
    :param until: for each history, the time (unix seconds) up to which the last sample is carried forward, for a
        running sandbox in which nothing has changed. ``None``, the default: end at the last sample.
    :raises HostError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    began = min(samples[0].at for samples in histories)
    height = 1.5 + 3.3 * len(histories)
    figure = Figure(figsize=(9, height), dpi=120, layout="constrained")
    panels = figure.subplots(len(histories), 1, sharex=True, squeeze=False)[:, 0]

    def when(at: float) -> Any:
        return at - began if from_start else datetime.fromtimestamp(at, UTC)

    for axes, samples, ends in itertools.zip_longest(panels, histories, until):
        _draw_one(axes, samples, when, ends)
    panels[-1].set_xlabel("seconds" if from_start else "time (UTC)")
    if not from_start:
        _show_times(panels[-1])
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize="small"
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)) from error


def _draw_one(
    axes: Any, samples: Sequence[SandboxSample], when: Callable[[float], Any], until: float | None
) -> None:
    highest = max(sample.ceiling or 0 for sample in samples)
    unit, word = (GIB, "GiB") if highest >= _GIB_FROM else (MIB, "MiB")
    joined = _with_gaps(samples)
    times = [when(at) for at, _ in joined]

    last = samples[-1]
    carried = [] if until is None or until <= last.at else [when(last.at), when(until)]

    def carry(value: float | None, **style: Any) -> None:
        """Carry the last value forward."""
        if carried and value is not None and not math.isnan(value):
            axes.plot(carried, [value / unit] * 2, **style)

    def values(of: Callable[[SandboxSample], int | None]) -> list[float]:
        found = [None if sample is None else of(sample) for _, sample in joined]
        return [math.nan if value is None else value / unit for value in found]

    def line(of: Callable[[SandboxSample], int | None], label: str, **style: Any) -> None:
        axes.plot(times, values(of), label=label, **style)
        # Measured values are carried forward in a light style; settings, which stay in force, in their own.
        measured = style.get("linestyle", "-") == "-"
        carry(of(last), **({**style, **_CARRIED} if measured else {**style, "drawstyle": "default"}))

    held = values(lambda sample: sample.guest_ram)
    # Hatched, to be distinguishable from the background in greyscale.
    axes.fill_between(
        times, held, facecolor="#f0d9d5", edgecolor="#c98f87", hatch="////", linewidth=0, zorder=1
    )
    if carried and last.guest_ram is not None:
        axes.fill_between(carried, [last.guest_ram / unit] * 2, facecolor="#f9efed", linewidth=0, zorder=1)
    line(lambda s: s.guest_ram, "guest RAM on the host", color="#9c2f24", linewidth=1.2, zorder=2)
    line(lambda s: s.ceiling, "ceiling", color="0.25", linestyle=(0, (1, 1.5)), linewidth=1.6)
    if any(s.limit is not None and s.ceiling is not None and s.limit < s.ceiling for s in samples):
        line(lambda s: s.limit, "limit", color="0.25", linestyle=(0, (8, 2, 1, 2, 1, 2)), linewidth=1.1)
    line(lambda s: s.floor, "floor", color="0.55", linestyle=(0, (1, 3)), linewidth=1.6)
    line(
        lambda s: s.actual,
        "actual (what the guest has)",
        color="#2f6fc4",
        linewidth=3.2,
        alpha=0.75,
        zorder=3,
    )
    line(
        lambda s: s.target,
        "target",
        color="black",
        linestyle=(0, (5, 2)),
        drawstyle="steps-post",
        linewidth=1.3,
        zorder=4,
    )
    used = _used(joined)
    axes.plot(
        [when(at) for at, _ in used],
        [value / unit for _, value in used],
        label="used in the guest",
        color="#b87503",
        linestyle="-.",
        linewidth=1.4,
        zorder=4,
    )
    if used:
        carry(used[-1][1], color="#b87503", zorder=4, **_CARRIED)
    if carried:
        axes.plot([], [], color="0.4", label="carried forward from the last sample", **_CARRIED)
    stalls = [when(at) for at in _stalls(samples)]
    if stalls:
        top = [highest * 1.04 / unit] * len(stalls)
        axes.plot(
            stalls,
            top,
            linestyle="none",
            marker="v",
            markersize=5,
            color="#7a1fa2",
            label="the guest stalled for memory",
            clip_on=False,
        )
    axes.set_ylabel(word)
    axes.set_ylim(bottom=0, top=highest * 1.08 / unit)
    axes.margins(x=0.01)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title(f"Memory of {samples[0].name}", fontsize="medium")


def _used(joined: Sequence[tuple[float, SandboxSample | None]]) -> list[tuple[float, float]]:
    """What the guest uses: actual minus available memory, where both are of the same time."""
    found = []
    before: SandboxSample | None = None
    for at, sample in joined:
        if sample is None:
            found.append((at, math.nan))
        elif (
            sample.actual is not None
            and sample.guest_available is not None
            and sample.guest_age_s is not None
        ):
            still = before is not None and before.actual == sample.actual
            if still or sample.guest_age_s <= _SAME_MOMENT_S:
                found.append((at, max(0, sample.actual - sample.guest_available)))
        before = sample
    return found


def _with_gaps(samples: Sequence[SandboxSample]) -> list[tuple[float, SandboxSample | None]]:
    """The samples with their times, with gaps between runs and where samples are missing."""
    joined: list[tuple[float, SandboxSample | None]] = []
    before: SandboxSample | None = None
    for sample in samples:
        if before is not None and (sample.run_id != before.run_id or sample.at - before.at > GAP_S):
            joined.append((before.at, None))
        joined.append((sample.at, sample))
        before = sample
    return joined


def _stalls(samples: Sequence[SandboxSample]) -> list[float]:
    """Times at which the guest had stalled on memory."""
    found = []
    for before, sample in itertools.pairwise(samples):
        if sample.pressure_some_us is None or before.pressure_some_us is None:
            continue
        lost_s = (sample.pressure_some_us - before.pressure_some_us) / 1e6
        if lost_s > _STALLED_SHARE * (sample.at - before.at):
            found.append(sample.at)
    return found


def _show_times(axes: Any) -> None:
    from matplotlib import dates

    locator = dates.AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
