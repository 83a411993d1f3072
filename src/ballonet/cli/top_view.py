"""What ``ballonet top`` shows: a snapshot and the viewer's wishes in, lines of styled text out. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ballonet.cli.output import show
from ballonet.memory import GIB, bytes_to_mib
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot


class Span(NamedTuple):
    """A piece of a line; styles: ``title``, ``dim``, ``good``, ``warn``, ``bad``, ``held``, ``actual``, ``target``,
    ``selected``."""

    text: str
    style: str = ""


Line = list[Span]


class Glyphs(NamedTuple):
    """What bars are made of."""

    held: str
    actual: str
    rest: str
    target: str
    dots: str


UNICODE = Glyphs(held="█", actual="▒", rest="·", target="┃", dots="…")
ASCII = Glyphs(held="#", actual="=", rest=".", target="|", dots="~")


class Column(NamedTuple):
    """A column of the table; those of a lower ``rank`` are shown first where the terminal is narrow."""

    heading: str
    width: int
    rank: int
    text: Callable[[SandboxSample], str]
    #: What it is sorted by; the largest comes first, unknown last.
    key: Callable[[SandboxSample], float | None]


def _mib(size: int | None) -> str:
    return "-" if size is None else str(bytes_to_mib(size))


def _size(heading: str, rank: int, of: Callable[[SandboxSample], int | None], width: int = 6) -> Column:
    return Column(heading, width, rank, lambda sample: _mib(of(sample)), of)


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
    _size("CEIL", 0, lambda sample: sample.ceiling),
    _size("TARGET", 0, lambda sample: sample.target),
    _size("ACTUAL", 0, lambda sample: sample.actual),
    _size("RES", 0, lambda sample: sample.resident),
    _size("AVAIL", 0, lambda sample: sample.guest_available),
    Column("PSI%", 5, 0, lambda s: _percent(s.pressure_some_avg10), lambda s: s.pressure_some_avg10),
    _size("G.RAM", 1, lambda sample: sample.guest_ram),
    _size("FLOOR", 2, lambda sample: sample.floor),
    _size("LIMIT", 2, lambda sample: sample.limit),
    _size("CACHES", 3, lambda sample: sample.guest_caches),
    Column("OOM", 4, 3, lambda s: show(s.oom_kills), lambda s: s.oom_kills),
    Column("MAJFLT", 8, 4, lambda s: show(s.major_faults), lambda s: s.major_faults),
    _size("GOTBACK", 4, lambda sample: sample.reclaimed, 8),
    _size("PSS", 5, lambda sample: sample.pss),
)
_NAME_WIDTH, _MOST_NAME_WIDTH = 12, 24
_STATE_WIDTH = 13
_LEAST_BAR = 10

HELP = (
    "up/down, j/k   select a sandbox            <  >   sort by another column      r   reverse the order",
    "+ or g         grow it by an eighth        - or s   shrink it by an eighth    t   trim it",
    "space          look again now              h or ?   this help                 q   quit",
    "Sizes are MiB. RES is the engine's memory on the host, G.RAM the guest's part of it, GOTBACK what the host",
    "got back of it. AVAIL, CACHES, PSI%, OOM and MAJFLT are the guest's own word. A shrink never goes below the",
    "guard that protects the guest.",
)
_KEYS = "q quit  h help  up/down select  < > sort  r reverse  + grow  - shrink  t trim"


@dataclass(frozen=True)
class View:
    """The viewer's wishes."""

    selected: str | None = None
    #: An index into :data:`COLUMNS`; ``None``: by name.
    sort: int | None = None
    reverse: bool = False
    help: bool = False
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


def order(samples: Sequence[SandboxSample], view: View) -> list[SandboxSample]:
    """The sandboxes as the viewer wants them; unknown comes last in either order."""
    by_name = sorted(samples, key=lambda sample: sample.name)
    if view.sort is None:
        return by_name[::-1] if view.reverse else by_name
    key = COLUMNS[view.sort].key
    known = [(value, sample) for sample in by_name if (value := key(sample)) is not None]
    known.sort(key=lambda pair: pair[0], reverse=not view.reverse)
    return [sample for _, sample in known] + [sample for sample in by_name if key(sample) is None]


def render(snapshot: Snapshot, view: View, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """At most ``height`` lines of ``width`` columns."""
    samples = order(snapshot.sandboxes, view)
    head = _head(snapshot.host, samples, width, glyphs)
    foot: list[Line] = []
    if view.interactive:
        chosen = next((sample for sample in samples if sample.name == view.selected), None)
        if view.help:
            foot = [[Span(line, "dim")] for line in HELP]
        elif chosen is not None and height >= 20:
            foot = _detail(chosen, width, glyphs)
        foot = [[], *foot, [Span(show(view.message), "warn")], [Span(_KEYS, "title")]]
    columns, name_width, bar_width = _fit(samples, width)
    sort = None if view.sort is None else COLUMNS[view.sort]
    table = [_headings(columns, name_width, bar_width, sort)]
    room = max(1, height - len(head) - len(table) - len(foot))
    first = _first_shown([sample.name for sample in samples], view.selected, room)
    scale = max((max(sample.ceiling or 0, sample.resident or 0) for sample in samples), default=0)
    for sample in samples[first : first + room]:
        line = _row(sample, columns, name_width, bar_width, scale, glyphs)
        chosen_here = view.interactive and sample.name == view.selected
        table.append([Span(span.text, "selected") for span in line] if chosen_here else line)
    if not samples:
        table.append([Span("there are no sandboxes: ballonet run -d --name NAME", "dim")])
    body = [*head, *table]
    if view.interactive:
        body += [[]] * max(0, height - len(body) - len(foot))
    return [_cut(line, width, glyphs) for line in [*body, *foot][:height]]


def _head(host: HostSample, samples: Sequence[SandboxSample], width: int, glyphs: Glyphs) -> list[Line]:
    running = sum(sample.state == "running" for sample in samples)
    clock = time.strftime("%H:%M:%S", time.localtime(host.at))
    title = f"ballonet top  {clock}  {len(samples)} sandboxes, {running} running"
    low = host.total is not None and host.available is not None and host.available < host.total / 10
    over = "-" if host.overcommit is None else f"{host.overcommit:.2f}x"
    machine = [
        Span(f"host: {_gib(host.total)} GiB, "),
        Span(f"{_gib(host.available)} available", "bad" if low else ""),
        Span(f", stalled {_percent(host.pressure_some_avg10)}%"),
    ]
    together = [
        Span(
            f"together: {_gib(host.committed)} GiB committed ({over}), {_gib(host.promised)} promised, "
            f"{_gib(host.held)} held"
        )
    ]
    legend = [
        Span("bars: "),
        Span(glyphs.held, "held"),
        Span(" resident  "),
        Span(glyphs.actual, "actual"),
        Span(" actual  "),
        Span(glyphs.rest, "dim"),
        Span(" up to the ceiling  "),
        Span(glyphs.target, "target"),
        Span(" target    sizes in MiB"),
    ]
    return [[Span(title, "title")], machine, together, legend, []]


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _fit(samples: Sequence[SandboxSample], width: int) -> tuple[list[Column], int, int]:
    """The columns that fit beside a bar, the name's width and the bar's."""
    longest = max((len(sample.name) for sample in samples), default=0)
    name_width = max(_NAME_WIDTH, min(longest, _MOST_NAME_WIDTH if width >= 120 else _NAME_WIDTH))
    left = width - name_width - _STATE_WIDTH - 2 - _LEAST_BAR - 1
    kept = set()
    for column in sorted(COLUMNS, key=lambda one: one.rank):
        if column.width + 1 > left:
            break
        left -= column.width + 1
        kept.add(column.heading)
    # What is left over belongs to the bar.
    return [column for column in COLUMNS if column.heading in kept], name_width, _LEAST_BAR + max(0, left)


def _headings(columns: Sequence[Column], name_width: int, bar_width: int, sort: Column | None) -> Line:
    line = [
        Span("NAME".ljust(name_width), "selected" if sort is None else "title"),
        Span(" " + "STATE".ljust(_STATE_WIDTH) + " " + "MEMORY".ljust(bar_width), "title"),
    ]
    for column in columns:
        style = "selected" if column is sort else "title"
        line += [Span(" "), Span(column.heading.rjust(column.width), style)]
    return line


def _row(
    sample: SandboxSample,
    columns: Sequence[Column],
    name_width: int,
    bar_width: int,
    scale: int,
    glyphs: Glyphs,
) -> Line:
    name = show(sample.name)
    name = name if len(name) <= name_width else name[: name_width - 1] + glyphs.dots
    state = state_of(sample)
    line = [
        Span(name.ljust(name_width) + " "),
        Span(state.ljust(_STATE_WIDTH), _state_style(state)),
        Span(" "),
    ]
    line += bar(sample, bar_width, scale, glyphs)
    for column in columns:
        line.append(Span(" " + column.text(sample).rjust(column.width)))
    return line


def bar(sample: SandboxSample, width: int, scale: int, glyphs: Glyphs) -> Line:
    """Resident, actual and target on the way to the ceiling; ``scale`` bytes are the whole width."""

    def cells(size: int | None) -> int:
        return 0 if not size or not scale else max(1, min(width, round(size * width / scale)))

    held, actual, ceiling = cells(sample.resident), cells(sample.actual), cells(sample.ceiling)
    marks = []
    for at in range(width):
        if at < held:
            marks.append((glyphs.held, "held"))
        elif at < actual:
            marks.append((glyphs.actual, "actual"))
        elif at < ceiling:
            marks.append((glyphs.rest, "dim"))
        else:
            marks.append((" ", ""))
    if sample.target is not None and scale:
        marks[cells(sample.target) - 1 if sample.target else 0] = (glyphs.target, "target")
    return _joined(marks)


def _joined(marks: Sequence[tuple[str, str]]) -> Line:
    line: Line = []
    for text, style in marks:
        if line and line[-1].style == style:
            line[-1] = Span(line[-1].text + text, style)
        else:
            line.append(Span(text, style))
    return line


def _detail(sample: SandboxSample, width: int, glyphs: Glyphs) -> list[Line]:
    """The selected sandbox: a bar for each size, and the guest's word."""
    scale = max(sample.ceiling or 0, sample.resident or 0)
    bar_width = max(_LEAST_BAR, min(60, width - 68))
    pss = (
        "PSS unknown" if sample.pss is None else f"PSS {_mib(sample.pss)}, {sample.pss_age_s or 0:.0f} s old"
    )
    rows = (
        (
            "ceiling",
            sample.ceiling,
            glyphs.rest,
            "dim",
            f"limit {_mib(sample.limit)}, floor {_mib(sample.floor)}",
        ),
        ("target", sample.target, glyphs.held, "target", f"requested {_mib(sample.requested)}"),
        ("actual", sample.actual, glyphs.actual, "actual", show(sample.balloon_state)),
        (
            "resident",
            sample.resident,
            glyphs.held,
            "held",
            f"guest RAM {_mib(sample.guest_ram)}, engine {_mib(sample.overhead)}, {pss}",
        ),
    )
    lines: list[Line] = [[Span(show(sample.name), "title")]]
    for word, size, glyph, style, note in rows:
        filled = 0 if not size or not scale else max(1, round(size * bar_width / scale))
        blocks = Span((glyph * filled).ljust(bar_width), style)
        lines.append([Span(f"  {word:<9}"), blocks, Span(f" {_mib(size):>6}  {note}")])
    if "guest" in sample.unknown:
        lines.append([Span(f"  guest: unknown, as {show(sample.unknown['guest'])}", "bad")])
    else:
        lines.append(
            [
                Span(
                    f"  guest: {_mib(sample.guest_available)} of {_mib(sample.guest_total)} available, "
                    f"caches {_mib(sample.guest_caches)}, swap {_mib(sample.guest_swap_total)}, "
                    f"stalled {_percent(sample.pressure_some_avg10)}%, {sample.guest_age_s or 0:.0f} s old"
                )
            ]
        )
    return lines


def _state_style(state: str) -> str:
    if state in ("applied", "created"):
        return "good"
    return "dim" if state == "stopped" else "warn" if state in ("converging", "starting") else "bad"


def _first_shown(names: Sequence[str], selected: str | None, room: int) -> int:
    """Where the table begins, so that the selected row is in sight."""
    at = names.index(selected) if selected in names else 0
    return max(0, min(at - room // 2, len(names) - room))


def _cut(line: Line, width: int, glyphs: Glyphs) -> Line:
    kept: Line = []
    left = width
    for span in line:
        if len(span.text) > left:
            kept.append(Span(span.text[: max(0, left - 1)] + glyphs.dots if left else "", span.style))
            break
        kept.append(span)
        left -= len(span.text)
    return kept
