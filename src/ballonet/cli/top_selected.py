"""The selected sandbox in ``ballonet top``: its sizes as bars, and a chart of its last minutes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.cli.output import show
from ballonet.cli.top_bars import WINDOW_S, Glyphs, Line, Point, Span, chart, filled, text_of, wrapped
from ballonet.cli.top_columns import mib, percent
from ballonet.metrics.model import SandboxSample

_MIN_BAR, _MAX_BAR = 8, 80


def detail_lines(sample: SandboxSample, width: int, glyphs: Glyphs) -> list[Line]:
    """A bar for each size, and the guest's figures."""
    scale = max(sample.ceiling or 0, sample.guest_ram or 0)
    notes = {
        "ceiling": f"limit {mib(sample.limit)}, floor {mib(sample.floor)}",
        "target": f"requested {mib(sample.requested)}",
        "actual": show(sample.balloon_state),
        "GUEST": f"ENGINE {mib(sample.overhead)}, PSS {mib(sample.pss)}"
        + (f", {sample.pss_age_s:.0f} s ago" if sample.pss_age_s is not None and width >= 80 else ""),
    }
    rows = (
        ("ceiling", sample.ceiling, glyphs.rest, "dim"),
        ("target", sample.target, glyphs.held, "target"),
        ("actual", sample.actual, glyphs.actual, "actual"),
        ("GUEST", sample.guest_ram, glyphs.held, "held"),
    )
    bar_width = max(_MIN_BAR, min(_MAX_BAR, width - 19 - max(map(len, notes.values()))))
    lines: list[Line] = [[Span(show(sample.name), "title")]]
    for word, size, glyph, style in rows:
        blocks = Span((glyph * filled(size, bar_width, scale)).ljust(bar_width), style)
        lines.append([Span(f" {word:<8}"), blocks, Span(f" {mib(size):>6}  {notes[word]}")])
    if "guest" in sample.unknown:
        lines.append([Span(f" guest: unknown: {show(sample.unknown['guest'])}", "bad")])
    else:
        figures = [
            f" guest: {mib(sample.guest_available)} of {mib(sample.guest_total)} available",
            f"caches {mib(sample.guest_caches)}",
            f"swap {mib(sample.guest_swap_total)}",
            f"PSI {percent(sample.pressure_some_avg10)}%",
            f"{sample.guest_age_s or 0:.0f} s ago",
        ]
        lines += wrapped([[Span(piece)] for piece in figures], width)
    return lines


def chart_lines(
    sample: SandboxSample, trail: Sequence[Point], now: float, width: int, height: int, glyphs: Glyphs
) -> list[Line]:
    """A chart of the last minutes, with an axis of sizes and one of times."""
    scale = max(sample.ceiling or 0, sample.guest_ram or 0)
    axis = max(8, len(mib(scale)) + 1)
    lines: list[Line] = []
    drawn = chart(trail, now, max(1, width - axis - 1), height, scale, glyphs)
    for row, line in enumerate(drawn):
        size = mib(scale) if row == 0 else mib(scale // 2) if row == height // 2 else ""
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
