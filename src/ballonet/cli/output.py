"""The output of commands: tables that fit the terminal, JSON, and colour."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ballonet.base.memory import GIB, KIB, MIB
from ballonet.base.text import printable

#: A number, a size or an age; columns of these are aligned to the right.
_NUMBER = re.compile(r"[+-]?[\d.,]+ ?(?:%|[KMGT](?:i?B)?|B|s|m|h|d)?")
_STATE_COLOURS = {"running": "32", "starting": "33", "paused": "36", "failed": "31"}
#: Columns of text are not made narrower than this to fit a terminal, nor than their longest word: names stay whole.
_MIN_WIDTH = 12
#: Longer words of the last column, such as paths, are broken; shorter ones only if the table would not fit otherwise.
_MAX_WORD = 40


def print_json(document: Any) -> int:
    """Print one JSON document, indented as Docker does. Returns exit status 0."""
    print(json.dumps(document, default=str, indent=2))
    return 0


def print_json_line(document: Any) -> None:
    """Print one JSON object of a stream, on one line."""
    print(json.dumps(document, default=str), flush=True)


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, omit: Sequence[str] = ()
) -> None:
    """Print columns that are as wide as necessary; unknown is ``-``. Numbers and sizes are aligned to the right.

    On a terminal, states are coloured, and if a line would be wider than the terminal, columns are first omitted, then
    the text of the last columns is wrapped.

    :param omit: headings of the columns that may be omitted, in this order.
    """
    texts = [[show(cell) for cell in row] for row in rows]
    width = terminal_width()
    colour = wants_colour()
    for cells in layout(*omitted(headings, texts, width, omit), width):
        if colour:
            cells = [_coloured(cell) for cell in cells]
        print("  ".join(cells).rstrip())


def omitted(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, omit: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The table without the first columns of ``omit``, as many as necessary to fit ``width``. Pure."""
    for heading in omit:
        if width is None or _total(_widths(headings, rows)) <= width:
            break
        at = list(headings).index(heading)
        headings, *rows = ((*line[:at], *line[at + 1 :]) for line in (headings, *rows))
    return headings, rows


def layout(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """A table's lines, each as its padded cells. Pure.

    :param width: of the terminal; ``None``: nothing is wrapped.
    """
    columns = [[row[at] for row in rows] for at in range(len(headings))]
    widths = _widths(headings, rows)
    right = [_is_numbers(column) for column in columns]
    if width is not None:
        words = [
            max((len(word) for cell in column for word in cell.split()), default=0) for column in columns
        ]
        minimum = [max(_MIN_WIDTH, longest) for longest in words]
        for breakable in (_MAX_WORD, _MIN_WIDTH):
            minimum[-1] = min(minimum[-1], breakable)
            _narrow(widths, minimum, width)
    lines: list[list[str]] = []
    for line in (headings, *rows):
        cells = [_wrap(cell, limit) for cell, limit in zip(line, widths, strict=True)]
        for part in itertools.zip_longest(*cells, fillvalue=""):
            lines.append(
                [
                    text.rjust(limit) if at_right else text.ljust(limit)
                    for text, limit, at_right in zip(part, widths, right, strict=True)
                ]
            )
    return lines


def _widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(headings, *rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    """The width of a line: its columns and two spaces between them."""
    return sum(widths) + 2 * (len(widths) - 1)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width``; a word that is longer is broken, after a slash if possible."""
    if len(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) <= width:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
        while len(word) > width:
            end = word.rfind("/", 0, width) + 1
            end = end if end > 1 else width
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [*lines, line]


def _narrow(widths: list[int], minimum: Sequence[int], width: int) -> None:
    """Reduce the widest column that is above its minimum, until the line fits ``width`` or no column can be reduced."""
    while _total(widths) > width:
        reducible = [at for at, has in enumerate(widths) if has > minimum[at]]
        if not reducible:
            return
        widths[max(reducible, key=widths.__getitem__)] -= 1


def terminal_width() -> int | None:
    """The terminal's width in columns; ``None`` if standard output is not a terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _is_numbers(column: Sequence[str]) -> bool:
    known = [cell for cell in column if cell != "-"]
    return bool(known) and all(_NUMBER.fullmatch(cell) for cell in known)


def print_wrapped(text: str, *, indent: int) -> None:
    """Print text; on a terminal, wrapped to its width with further lines indented."""
    width = terminal_width()
    if width is None or len(text) <= width:
        print(text)
        return
    import textwrap

    print(
        textwrap.fill(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    )


def print_facts(facts: Mapping[str, object]) -> None:
    """Print one fact per line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {show(value)}")


def show(value: object) -> str:
    """A cell's text: ``-`` for unknown, and no control characters, which could change the terminal's state."""
    return "-" if value is None else printable(str(value))


def show_age(unix_s: float | None) -> str | None:
    """The time since ``unix_s``, in the largest unit of which there are at least two: ``90s``, ``3m``, ``2d``."""
    if unix_s is None:
        return None
    seconds = max(0, int(time.time() - unix_s))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def show_seconds(seconds: float) -> str:
    """A duration in its two largest units: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 7 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, part, lower, lower_part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= part:
            rest = whole % part // lower_part
            return f"{whole // part} {unit}" + (f" {rest} {lower}" if rest else "")
    raise AssertionError("unreachable")


def show_size(size_bytes: int | None) -> str | None:
    """A size in the largest fitting binary unit: ``812K``, ``41M``, ``1.5G``."""
    if size_bytes is None:
        return None
    for unit, factor in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.1f}{unit}" if unit == "G" and value < 10 else f"{value:.0f}{unit}"
    return f"{size_bytes}B"


def wants_colour() -> bool:
    """Whether to use colour: standard output is a terminal and ``NO_COLOR`` is not set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(cell: str) -> str:
    code = _STATE_COLOURS.get(cell.strip())
    return f"\x1b[{code}m{cell}\x1b[0m" if code else cell
