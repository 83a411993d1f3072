"""The content of ``ballonet top``: turns a snapshot and the user's view into lines of styled text. Pure."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ballonet.cli.output import show
from ballonet.cli.top_bars import UNICODE, Glyphs, Line, Point, Span, cut, wrapped
from ballonet.cli.top_columns import COLUMNS, gib, percent
from ballonet.cli.top_help import help_lines
from ballonet.cli.top_selected import chart_lines, detail_lines
from ballonet.cli.top_table import fit, headings, row
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot

#: The height of the selected sandbox's chart; with less room there is none.
_MIN_CHART, _MAX_CHART = 4, 20
#: If fewer rows of the table than this fit, the lines above and below it are omitted.
_MIN_ROWS = 4
_MAX_MESSAGE_LINES = 3

_KEYS = ("q quit", "h help", "up/down select", "< > sort", "r reverse", "+ grow", "- shrink", "t trim")


@dataclass(frozen=True)
class View:
    """What the user has selected, sorted and opened."""

    selected: str | None = None
    #: An index into :data:`COLUMNS`; ``None``: by name.
    sort: int | None = None
    reverse: bool = False
    #: The first line of the help on the screen; ``None``: the help is closed.
    help: int | None = None
    #: The result of the last key.
    message: str = ""
    interactive: bool = True

    def moved(self, names: Sequence[str], by: int) -> View:
        """The view with the selection moved."""
        if not names:
            return replace(self, selected=None)
        at = names.index(self.selected) + by if self.selected in names else 0
        return replace(self, selected=names[max(0, min(len(names) - 1, at))])

    def sorted_by_next(self, by: int) -> View:
        """The view sorted by another column; the name is the first one."""
        at = (0 if self.sort is None else self.sort + 1) + by
        at %= len(COLUMNS) + 1
        return replace(self, sort=None if at == 0 else at - 1)

    def help_moved(self, by: int, width: int, height: int) -> View:
        """The view with the help scrolled."""
        last = max(0, len(help_lines(width)) - _help_room(height))
        return replace(self, help=max(0, min(last, (self.help or 0) + by)))


def order(samples: Sequence[SandboxSample], view: View) -> list[SandboxSample]:
    """The sandboxes in the view's order; unknown values come last in either direction."""
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

    :param trails: each sandbox's points over the last :data:`~ballonet.cli.top_bars.WINDOW_S`, by name, oldest first.
    """
    if view.help is not None:
        return _help(view.help, width, height, glyphs)
    trails = trails or {}
    samples = order(snapshot.sandboxes, view)
    layout = fit(samples, width, history=bool(trails), pointer=view.interactive)
    running = f"{sum(sample.state == 'running' for sample in samples)} running"
    title = (f"{len(samples)} sandbox{'' if len(samples) == 1 else 'es'}", running)
    head = _head(snapshot.host, samples, title, width, glyphs)
    # Lines that remain for the selected sandbox, after the headings and a row for each sandbox.
    spare = height - len(head) - 1 - max(1, len(samples))
    foot = _foot(samples, view, width, height, spare, glyphs, trails, snapshot.host.at)
    if view.interactive and height - len(head) - 1 - len(foot) < min(_MIN_ROWS, len(samples)):
        head, foot = head[:1], foot[1:]  # on a low terminal, the table comes first
    room = max(1, height - len(head) - 1 - len(foot))
    first = _first_shown([sample.name for sample in samples], view.selected, room)
    if view.interactive and len(samples) > room:
        title = (f"{first + 1}-{first + room} of {len(samples)} sandboxes", running)
        head = _head(snapshot.host, samples, title, width, glyphs)[: len(head)]
    scale = max((max(sample.ceiling or 0, sample.guest_ram or 0) for sample in samples), default=0)
    table = [headings(layout, None if view.sort is None else COLUMNS[view.sort])]
    for sample in samples[first : first + room]:
        selected = view.interactive and sample.name == view.selected
        trail = trails.get(sample.name, ())
        table.append(row(sample, layout, scale, glyphs, trail, snapshot.host.at, selected=selected))
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
        cut(line, width, glyphs) for line in [*body, [Span(f"{more}h close help  q quit", "title")]][:height]
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
    """The selected sandbox if it fits, the result of the last key, and the list of keys."""
    if not view.interactive:
        return []
    message = textwrap.wrap(show(view.message), max(1, width))
    if len(message) > _MAX_MESSAGE_LINES:
        message = [*message[: _MAX_MESSAGE_LINES - 1], " ".join(message[_MAX_MESSAGE_LINES - 1 :])]
    foot: list[Line] = [[Span(line, "message")] for line in message] or [[]]
    foot.append(wrapped([[Span(key)] for key in _KEYS], width)[0])
    chosen = next((sample for sample in samples if sample.name == view.selected), None)
    if chosen is None:
        return [[], *foot]
    detail = detail_lines(chosen, width, glyphs)
    # On a low terminal, rows of the table come first.
    if height < 24 and spare < 1 + len(detail) + len(foot):
        return [[], *foot]
    # Minus the line of times below the chart, and the empty line above the foot.
    chart_height = min(_MAX_CHART, spare - len(detail) - len(foot) - 2)
    if chart_height >= _MIN_CHART and trails.get(chosen.name):
        detail += chart_lines(chosen, trails[chosen.name], now, width, chart_height, glyphs)
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
                [Span(f"host: {gib(host.total)} GiB")],
                [Span(f"{gib(host.available)} GiB available", "bad" if low else "")],
                [Span(f"PSI {percent(host.pressure_some_avg10)}%")],
            ],
            width,
        ),
        *wrapped(
            [
                [Span(f"total (GiB): ceilings {gib(host.committed)}{over}")],
                [Span(f"targets {gib(host.promised)}")],
                [Span(f"GUEST {gib(guests)}")],
                [Span(f"ENGINE {gib(engines)}")],
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


def selected_line(lines: Sequence[Line]) -> int | None:
    """The index of the selected sandbox's line."""
    return next((at for at, line in enumerate(lines) if any(span.selected for span in line)), None)


def _first_shown(names: Sequence[str], selected: str | None, room: int) -> int:
    """The index of the first sandbox in the table, so that the selected one is visible."""
    at = names.index(selected) if selected in names else 0
    return max(0, min(at - room // 2, len(names) - room))
