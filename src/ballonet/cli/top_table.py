"""The table of ``ballonet top``: the columns that fit the terminal, and a row for each sandbox. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ballonet.cli.output import show
from ballonet.cli.top_bars import WINDOW_S, Glyphs, Line, Point, Span, bar, sparkline
from ballonet.cli.top_columns import COLUMNS, Column, state_of
from ballonet.metrics.model import SandboxSample

_NAME_WIDTH, _MAX_NAME_WIDTH = 12, 24
_STATE_WIDTH = 13
_MIN_BAR = 8
#: The width from which the table has a history, and the history's minimum width.
_HISTORY_FROM, _MIN_HISTORY = 120, 20


class Layout(NamedTuple):
    """The columns and widths of the table."""

    columns: Sequence[Column]
    name: int
    bar: int
    #: 0: no history.
    history: int
    #: Whether names are indented by one cell for the pointer.
    pointer: bool


def fit(samples: Sequence[SandboxSample], width: int, *, history: bool, pointer: bool) -> Layout:
    """The columns that fit the width, beside a bar."""
    longest = max((len(show(sample.name)) for sample in samples), default=0) + pointer
    name_width = max(_NAME_WIDTH, min(longest, _MAX_NAME_WIDTH if width >= _HISTORY_FROM else _NAME_WIDTH))
    left = width - (name_width + 1) - (_STATE_WIDTH + 1) - _MIN_BAR
    history_width = _MIN_HISTORY if history and width >= _HISTORY_FROM else 0
    left -= history_width + 1 if history_width else 0
    kept = set()
    for column in sorted(COLUMNS, key=lambda one: one.rank):
        if column.width + 1 > left:
            break
        left -= column.width + 1
        kept.add(column.heading)
    # The rest of the width goes to the bar and, if there is one, the history.
    more = max(0, left) // 2 if history_width else 0
    return Layout(
        columns=[column for column in COLUMNS if column.heading in kept],
        name=name_width,
        bar=_MIN_BAR + max(0, left - more),
        history=history_width + more,
        pointer=pointer,
    )


def headings(layout: Layout, sort: Column | None) -> Line:
    line = [
        Span(
            (" NAME" if layout.pointer else "NAME").ljust(layout.name), "sorted" if sort is None else "title"
        ),
        Span(" " + "STATE".ljust(_STATE_WIDTH) + " " + "MEMORY".ljust(layout.bar), "title"),
    ]
    for column in layout.columns:
        style = "sorted" if column is sort else "title"
        line += [Span(" "), Span(column.heading.rjust(column.width), style)]
    if layout.history:
        heading = f"HISTORY, GUEST in {WINDOW_S / 60:.0f} min"
        heading = heading if len(heading) <= layout.history else "HISTORY"
        line.append(Span(" " + heading.ljust(layout.history), "title"))
    return line


def row(
    sample: SandboxSample,
    layout: Layout,
    scale: int,
    glyphs: Glyphs,
    trail: Sequence[Point],
    now: float,
    *,
    selected: bool,
) -> Line:
    name = show(sample.name)
    if layout.pointer:
        name = (glyphs.pointer if selected else " ") + name
    name = name if len(name) <= layout.name else name[: layout.name - 1] + glyphs.dots
    state = state_of(sample)
    line = [
        Span(name.ljust(layout.name) + " ", selected=selected),
        Span(state.ljust(_STATE_WIDTH), _state_style(state), selected),
        Span(" "),
        *bar(sample, layout.bar, scale, glyphs),
    ]
    for column in layout.columns:
        line.append(Span(" " + column.text(sample).rjust(column.width), selected=selected))
    if layout.history:
        line += [Span(" "), *sparkline(trail, now, layout.history, sample.ceiling or 0, glyphs)]
    return line


def _state_style(state: str) -> str:
    if state in ("applied", "created"):
        return "good"
    return (
        "dim" if state in ("paused", "stopped") else "warn" if state in ("converging", "starting") else "bad"
    )
