"""What ``ballonet top`` shows: a snapshot and the viewer's wishes in, lines of styled text out. Pure."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ballonet.base.memory import GIB, bytes_to_mib
from ballonet.cli.output import show
from ballonet.cli.top_bars import (
    UNICODE,
    WINDOW_S,
    Glyphs,
    Line,
    Point,
    Span,
    bar,
    chart,
    cut,
    filled,
    sparkline,
    text_of,
    wrapped,
)
from ballonet.cli.top_help import help_lines
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot


class Column(NamedTuple):
    """A column of the table; those of a lower ``rank`` are shown first where the terminal is narrow."""

    heading: str
    width: int
    rank: int
    text: Callable[[SandboxSample], str]
    #: What it is sorted by; the largest comes first, unknown last.
    key: Callable[[SandboxSample], float | None]


def _mib(size: int | None) -> str:
    if size is None:
        return "-"
    return str(bytes_to_mib(size)) if size < 100_000 << 20 else f"{size // GIB}G"


def _size(heading: str, rank: int, of: Callable[[SandboxSample], int | None]) -> Column:
    return Column(heading, max(5, len(heading)), rank, lambda sample: _mib(of(sample)), of)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def state_of(sample: SandboxSample) -> str:
    """The word that matters most: of the balloon where the sandbox runs and answers, else the sandbox's own."""
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
    Column("PSI%", 5, 1, lambda s: _percent(s.pressure_some_avg10), lambda s: s.pressure_some_avg10),
    _size("FLOOR", 2, lambda sample: sample.floor),
    _size("LIMIT", 2, lambda sample: sample.limit),
    _size("CACHES", 3, lambda sample: sample.guest_caches),
    Column("OOM", 4, 3, lambda s: show(s.oom_kills), lambda s: s.oom_kills),
    Column("MAJFLT", 8, 4, lambda s: show(s.major_faults), lambda s: s.major_faults),
    _size("RECLAIMED", 4, lambda sample: sample.reclaimed),
    _size("PSS", 5, lambda sample: sample.pss),
)
_NAME_WIDTH, _MOST_NAME_WIDTH = 12, 24
_STATE_WIDTH = 13
_LEAST_BAR = 8
#: From this width on the table has a history, at least this wide.
_HISTORY_FROM, _LEAST_HISTORY = 120, 20
#: A chart of the selected sandbox is drawn where so many lines are left over for it, and not over more than that.
_LEAST_CHART, _MOST_CHART = 4, 20
_MOST_DETAIL_BAR = 80
#: Where fewer rows of the table than this would be left, it goes without what is around it.
_LEAST_ROWS = 4
_MOST_MESSAGE_LINES = 3

_KEYS = ("q quit", "h help", "up/down select", "< > sort", "r reverse", "+ grow", "- shrink", "t trim")


@dataclass(frozen=True)
class View:
    """The viewer's wishes."""

    selected: str | None = None
    #: An index into :data:`COLUMNS`; ``None``: by name.
    sort: int | None = None
    reverse: bool = False
    #: The help's first line on the screen; ``None``: no help.
    help: int | None = None
    #: What came of the last key.
    message: str = ""
    interactive: bool = True

    def moved(self, names: Sequence[str], by: int) -> View:
        """Another sandbox is selected."""
        if not names:
            return replace(self, selected=None)
        at = names.index(self.selected) + by if self.selected in names else 0
        return replace(self, selected=names[max(0, min(len(names) - 1, at))])

    def sorted_by_next(self, by: int) -> View:
        """Sorted by the next column, or the one before; names count as the first."""
        at = (0 if self.sort is None else self.sort + 1) + by
        at %= len(COLUMNS) + 1
        return replace(self, sort=None if at == 0 else at - 1)

    def help_moved(self, by: int, width: int, height: int) -> View:
        """Another part of the help is shown."""
        last = max(0, len(help_lines(width)) - _help_room(height))
        return replace(self, help=max(0, min(last, (self.help or 0) + by)))


class _Layout(NamedTuple):
    """How wide the parts of the table are."""

    columns: Sequence[Column]
    name: int
    bar: int
    #: 0: no history.
    history: int
    #: Names begin one further in, to leave room for the pointer.
    pointer: bool


def order(samples: Sequence[SandboxSample], view: View) -> list[SandboxSample]:
    """The sandboxes as the viewer wants them; unknown comes last in either order."""
    by_name = sorted(samples, key=lambda sample: sample.name)
    if view.sort is None:
        return by_name[::-1] if view.reverse else by_name
    key = COLUMNS[view.sort].key
    known = [(value, sample) for sample in by_name if (value := key(sample)) is not None]
    known.sort(key=lambda pair: pair[0], reverse=not view.reverse)
    return [sample for _, sample in known] + [sample for sample in by_name if key(sample) is None]


def render(
    snapshot: Snapshot,
    view: View,
    width: int,
    height: int,
    glyphs: Glyphs = UNICODE,
    trails: Mapping[str, Sequence[Point]] | None = None,
) -> list[Line]:
    """At most ``height`` lines of ``width`` columns.

    :param trails: what is known of each sandbox's last :data:`WINDOW_S`, by name, the oldest first.
    """
    if view.help is not None:
        return _help(view.help, width, height, glyphs)
    trails = trails or {}
    samples = order(snapshot.sandboxes, view)
    layout = _fit(samples, width, history=bool(trails), pointer=view.interactive)
    running = f"{sum(sample.state == 'running' for sample in samples)} running"
    title = (f"{len(samples)} sandboxes", running)
    head = _head(snapshot.host, samples, title, width, glyphs)
    # The table needs its headings and a row for each sandbox; what is left is room for the selected one.
    spare = height - len(head) - 1 - max(1, len(samples))
    foot = _foot(samples, view, width, height, spare, glyphs, trails, snapshot.host.at)
    if view.interactive and height - len(head) - 1 - len(foot) < min(_LEAST_ROWS, len(samples)):
        head, foot = head[:1], foot[1:]  # so low a terminal is for the table
    room = max(1, height - len(head) - 1 - len(foot))
    first = _first_shown([sample.name for sample in samples], view.selected, room)
    if view.interactive and len(samples) > room:
        title = (f"{first + 1}-{first + room} of {len(samples)} sandboxes", running)
        head = _head(snapshot.host, samples, title, width, glyphs)[: len(head)]
    scale = max((max(sample.ceiling or 0, sample.guest_ram or 0) for sample in samples), default=0)
    table = [_headings(layout, None if view.sort is None else COLUMNS[view.sort])]
    for sample in samples[first : first + room]:
        selected = view.interactive and sample.name == view.selected
        trail = trails.get(sample.name, ())
        table.append(_row(sample, layout, scale, glyphs, trail, snapshot.host.at, selected=selected))
    if not samples:
        table.append([Span("There are no sandboxes. Start one: ballonet run -d --name NAME", "dim")])
    body = [*head, *table]
    if view.interactive:
        body += [[]] * max(0, height - len(body) - len(foot))
    return [cut(line, width, glyphs) for line in [*body, *foot][:height]]


def _help_room(height: int) -> int:
    return max(1, height - 2)


def _help(first: int, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    lines = help_lines(width)
    room = _help_room(height)
    first = max(0, min(first, len(lines) - room))
    shown: list[Line] = [[Span(line)] for line in lines[first : first + room]]
    more = "up/down scroll  " if len(lines) > room else ""
    body = [[Span("ballonet top: help", "title")], *shown]
    body += [[]] * max(0, height - 1 - len(body))
    return [
        cut(line, width, glyphs)
        for line in [*body, [Span(f"{more}h leave the help  q quit", "title")]][:height]
    ]


def _foot(
    samples: Sequence[SandboxSample],
    view: View,
    width: int,
    height: int,
    spare: int,
    glyphs: Glyphs,
    trails: Mapping[str, Sequence[Point]],
    now: float,
) -> list[Line]:
    """The selected sandbox where there is room for it, what came of the last key, and the keys."""
    if not view.interactive:
        return []
    message = textwrap.wrap(show(view.message), max(1, width))
    if len(message) > _MOST_MESSAGE_LINES:
        message = [*message[: _MOST_MESSAGE_LINES - 1], " ".join(message[_MOST_MESSAGE_LINES - 1 :])]
    foot: list[Line] = [[Span(line, "message")] for line in message] or [[]]
    foot.append(wrapped([[Span(key)] for key in _KEYS], width)[0])
    chosen = next((sample for sample in samples if sample.name == view.selected), None)
    if chosen is None:
        return [[], *foot]
    detail = _detail(chosen, width, glyphs)
    # On a low terminal rows of the table come first.
    if height < 24 and spare < 1 + len(detail) + len(foot):
        return [[], *foot]
    # A line of times is below the chart, an empty one above the foot.
    chart_height = min(_MOST_CHART, spare - len(detail) - len(foot) - 2)
    if chart_height >= _LEAST_CHART and trails.get(chosen.name):
        detail += _chart(chosen, trails[chosen.name], now, width, chart_height, glyphs)
    return [[], *detail, *foot]


def _head(
    host: HostSample, samples: Sequence[SandboxSample], title: Sequence[str], width: int, glyphs: Glyphs
) -> list[Line]:
    clock = time.strftime("%H:%M:%S", time.localtime(host.at))
    low = host.total is not None and host.available is not None and host.available < host.total / 10
    over = "" if host.overcommit is None else f" ({host.overcommit:.2f}x host)"
    running = [sample for sample in samples if sample.state in ("starting", "running")]
    guests, engines = (
        sum(of or 0 for of in sizes)
        for sizes in (
            [sample.guest_ram for sample in running],
            [sample.overhead for sample in running],
        )
    )
    return [
        *wrapped([[Span(word, "title")] for word in ("ballonet top", clock, *title)], width),
        *wrapped(
            [
                [Span(f"host: {_gib(host.total)} GiB")],
                [Span(f"{_gib(host.available)} GiB available", "bad" if low else "")],
                [Span(f"PSI {_percent(host.pressure_some_avg10)}%")],
            ],
            width,
        ),
        *wrapped(
            [
                [Span(f"all, in GiB: ceilings {_gib(host.committed)}{over}")],
                [Span(f"targets {_gib(host.promised)}")],
                [Span(f"GUEST {_gib(guests)}")],
                [Span(f"ENGINE {_gib(engines)}")],
            ],
            width,
        ),
        *wrapped(
            [
                [Span("bars:")],
                [Span(glyphs.held, "held"), Span(" GUEST")],
                [Span(glyphs.actual, "actual"), Span(" actual")],
                [Span(glyphs.rest, "dim"), Span(" ceiling")],
                [Span(glyphs.target, "target"), Span(" target")],
                [Span("sizes in MiB")],
            ],
            width,
        ),
        [],
    ]


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _fit(samples: Sequence[SandboxSample], width: int, *, history: bool, pointer: bool) -> _Layout:
    """What fits beside a bar."""
    longest = max((len(show(sample.name)) for sample in samples), default=0) + pointer
    name_width = max(_NAME_WIDTH, min(longest, _MOST_NAME_WIDTH if width >= _HISTORY_FROM else _NAME_WIDTH))
    left = width - (name_width + 1) - (_STATE_WIDTH + 1) - _LEAST_BAR
    history_width = _LEAST_HISTORY if history and width >= _HISTORY_FROM else 0
    left -= history_width + 1 if history_width else 0
    kept = set()
    for column in sorted(COLUMNS, key=lambda one: one.rank):
        if column.width + 1 > left:
            break
        left -= column.width + 1
        kept.add(column.heading)
    # What is left over belongs to the bar, and to the history as far as it has a use for it.
    more = max(0, left) // 2 if history_width else 0
    return _Layout(
        columns=[column for column in COLUMNS if column.heading in kept],
        name=name_width,
        bar=_LEAST_BAR + max(0, left - more),
        history=history_width + more,
        pointer=pointer,
    )


def _headings(layout: _Layout, sort: Column | None) -> Line:
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


def _row(
    sample: SandboxSample,
    layout: _Layout,
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


def _chart(
    sample: SandboxSample, trail: Sequence[Point], now: float, width: int, height: int, glyphs: Glyphs
) -> list[Line]:
    """The selected sandbox's last minutes, with an axis of sizes and one of times."""
    scale = max(sample.ceiling or 0, sample.guest_ram or 0)
    axis = max(8, len(_mib(scale)) + 1)
    lines: list[Line] = []
    drawn = chart(trail, now, max(1, width - axis - 1), height, scale, glyphs)
    for row, line in enumerate(drawn):
        size = _mib(scale) if row == 0 else _mib(scale // 2) if row == height // 2 else ""
        lines.append([Span(f"{size:>{axis}} ", "dim"), *line])
    begins, ends = f"-{WINDOW_S / 60:.0f} min", "now"
    legend = [Span(glyphs.held, "held"), Span(" GUEST  "), Span(glyphs.actual, "actual"), Span(" actual  ")]
    legend += [Span(glyphs.level, "target"), Span(" target")]
    room = width - axis - 1 - len(begins) - len(ends) - len(text_of(legend))
    between = " " * max(2, room // 2)
    lines.append(
        [
            Span(" " * (axis + 1) + begins + between, "dim"),
            *legend,
            Span(between + " " * (room % 2) + ends if room >= 4 else "", "dim"),
        ]
    )
    return lines


def _detail(sample: SandboxSample, width: int, glyphs: Glyphs) -> list[Line]:
    """The selected sandbox: a bar for each size, and what its guest reports."""
    scale = max(sample.ceiling or 0, sample.guest_ram or 0)
    notes = {
        "ceiling": f"limit {_mib(sample.limit)}, floor {_mib(sample.floor)}",
        "target": f"requested {_mib(sample.requested)}",
        "actual": show(sample.balloon_state),
        "GUEST": f"ENGINE {_mib(sample.overhead)}, PSS {_mib(sample.pss)}"
        + (f", {sample.pss_age_s:.0f} s ago" if sample.pss_age_s is not None and width >= 80 else ""),
    }
    rows = (
        ("ceiling", sample.ceiling, glyphs.rest, "dim"),
        ("target", sample.target, glyphs.held, "target"),
        ("actual", sample.actual, glyphs.actual, "actual"),
        ("GUEST", sample.guest_ram, glyphs.held, "held"),
    )
    bar_width = max(_LEAST_BAR, min(_MOST_DETAIL_BAR, width - 19 - max(map(len, notes.values()))))
    lines: list[Line] = [[Span(show(sample.name), "title")]]
    for word, size, glyph, style in rows:
        blocks = Span((glyph * filled(size, bar_width, scale)).ljust(bar_width), style)
        lines.append([Span(f" {word:<8}"), blocks, Span(f" {_mib(size):>6}  {notes[word]}")])
    if "guest" in sample.unknown:
        lines.append([Span(f" guest: unknown, as {show(sample.unknown['guest'])}", "bad")])
    else:
        told = [
            f" guest: {_mib(sample.guest_available)} of {_mib(sample.guest_total)} available",
            f"caches {_mib(sample.guest_caches)}",
            f"swap {_mib(sample.guest_swap_total)}",
            f"PSI {_percent(sample.pressure_some_avg10)}%",
            f"{sample.guest_age_s or 0:.0f} s ago",
        ]
        lines += wrapped([[Span(piece)] for piece in told], width)
    return lines


def _state_style(state: str) -> str:
    if state in ("applied", "created"):
        return "good"
    return "dim" if state == "stopped" else "warn" if state in ("converging", "starting") else "bad"


def selected_line(lines: Sequence[Line]) -> int | None:
    """Which of the lines is the selected sandbox's."""
    return next((at for at, line in enumerate(lines) if any(span.selected for span in line)), None)


def _first_shown(names: Sequence[str], selected: str | None, room: int) -> int:
    """Where the table begins, so that the selected row is in sight."""
    at = names.index(selected) if selected in names else 0
    return max(0, min(at - room // 2, len(names) - room))
