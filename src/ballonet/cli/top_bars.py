"""The graphics of ``ballonet top``: styled text, bars, sparklines and charts made of characters. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ballonet.metrics.model import SandboxSample

#: The time that sparklines and charts cover (seconds).
WINDOW_S = 600.0


class Span(NamedTuple):
    """A part of a line in one style: ``title``, ``message``, ``dim``, ``good``, ``warn``, ``bad``, ``held``,
    ``actual``, ``target`` or ``sorted``; ``selected`` if it belongs to the selected row."""

    text: str
    style: str = ""
    selected: bool = False


Line = list[Span]


class Glyphs(NamedTuple):
    """The characters of bars and charts."""

    held: str
    actual: str
    rest: str
    target: str
    #: A target in a chart.
    level: str
    dots: str
    #: Marks the selected row.
    pointer: str
    #: A cell filled by one to eight eighths.
    eighths: str


UNICODE = Glyphs(
    held="█", actual="▒", rest="·", target="┃", level="─", dots="…", pointer="▶", eighths="▁▂▃▄▅▆▇█"
)
#: For terminals without Unicode.
ASCII = Glyphs(
    held="#", actual="=", rest=".", target="|", level="-", dots="~", pointer=">", eighths="_.-:=+*#"
)


class Point(NamedTuple):
    """A sandbox's memory at one time (bytes); ``None`` if unknown."""

    at: float
    held: int | None
    actual: int | None
    target: int | None


def point_of(sample: SandboxSample) -> Point:
    return Point(sample.at, sample.guest_ram, sample.actual, sample.target)


def text_of(line: Line) -> str:
    return "".join(span.text for span in line)


def filled(size: int | None, width: int, scale: int) -> int:
    """How many of ``width`` cells represent ``size``; at least one if ``size`` is above 0."""
    return 0 if not size or not scale else max(1, min(width, round(size * width / scale)))


def bar(sample: SandboxSample, width: int, scale: int, glyphs: Glyphs) -> Line:
    """Guest memory on the host, actual, target and ceiling in one bar; ``scale`` bytes are the full width."""
    held, actual, ceiling = (
        filled(size, width, scale) for size in (sample.guest_ram, sample.actual, sample.ceiling)
    )
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
    if sample.target is not None and scale and width:
        marks[max(0, filled(sample.target, width, scale) - 1)] = (glyphs.target, "target")
    return joined(marks)


def resample(points: Sequence[Point], now: float, cells: int) -> list[Point | None]:
    """One point for each of ``cells`` equal parts of the last :data:`WINDOW_S`.

    It is the last point of that part, with the largest ``held``, so that short bursts are visible. Without a point, the
    one before is repeated: a sandbox in which nothing changes is sampled once a minute.
    """
    found: list[Point | None] = []
    last: Point | None = None
    at = 0
    for cell in range(cells):
        ends = now - WINDOW_S * (cells - 1 - cell) / cells
        most: int | None = None
        while at < len(points) and points[at].at <= ends:
            last = points[at]
            if last.held is not None:
                most = last.held if most is None else max(most, last.held)
            at += 1
        found.append(last if last is None or most is None else last._replace(held=most))
    return found


def sparkline(points: Sequence[Point], now: float, width: int, scale: int, glyphs: Glyphs) -> Line:
    """Guest memory on the host over time; ``scale`` bytes are the full height."""
    eighths = [0 if point is None else filled(point.held, 8, scale) for point in resample(points, now, width)]
    return joined([(glyphs.eighths[part - 1], "held") if part else (" ", "") for part in eighths])


def chart(
    points: Sequence[Point], now: float, width: int, height: int, scale: int, glyphs: Glyphs
) -> list[Line]:
    """Held, actual and target over time, ``height`` lines of ``width`` cells; ``scale`` bytes are the full height."""
    columns = resample(points, now, width)
    lines = []
    for row in range(height - 1, -1, -1):
        marks = []
        for point in columns:
            mark = (" ", "")
            if point is not None:
                part = filled(point.held, 8 * height, scale) - 8 * row
                beside = filled(point.actual, height, scale) > row
                if part >= 8 or (beside and part >= 4):
                    mark = (glyphs.held, "held")
                elif point.target and filled(point.target, height, scale) - 1 == row:
                    mark = (glyphs.level, "target")
                elif beside:  # a partly filled cell would leave a gap in the area of actual
                    mark = (glyphs.actual, "actual")
                elif part > 0:
                    mark = (glyphs.eighths[part - 1], "held")
            marks.append(mark)
        lines.append(joined(marks))
    return lines


def joined(marks: Sequence[tuple[str, str]]) -> Line:
    """A line in which neighbours of the same style are one span."""
    line: Line = []
    for text, style in marks:
        if line and line[-1].style == style:
            line[-1] = Span(line[-1].text + text, style)
        else:
            line.append(Span(text, style))
    return line


def cut(line: Line, width: int, glyphs: Glyphs) -> Line:
    """A line cut to ``width`` cells; dots mark what was cut."""
    kept: Line = []
    left = width
    for span in line:
        if len(span.text) > left:
            kept.append(span._replace(text=span.text[: max(0, left - 1)] + glyphs.dots if left else ""))
            break
        kept.append(span)
        left -= len(span.text)
    return kept


def wrapped(pieces: Sequence[Line], width: int) -> list[Line]:
    """Lines of pieces, as many on each as fit without being cut."""
    lines: list[Line] = []
    used = 0
    for piece in pieces:
        size = len(text_of(piece))
        if lines and used + 2 + size <= width:
            lines[-1] += [Span("  "), *piece]
            used += 2 + size
        else:
            lines.append(list(piece))
            used = size
    return lines
