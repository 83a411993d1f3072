"""What commands print: tables that fit any terminal, JSON for programs, colour only where it is wanted."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ballonet.base.memory import GIB, KIB, MIB
from ballonet.base.text import printable

#: A number, a size or an age: what is compared down a column.
_NUMBER = re.compile(r"[+-]?[\d.,]+ ?(?:%|[KMGT](?:i?B)?|B|s|m|h|d)?")
_STATE_COLOURS = {"running": "32", "starting": "33", "failed": "31"}


#: A column of a table is not made narrower than this to fit a terminal; nor than its longest word: names stay whole.
_LEAST_WIDTH = 12


def print_json(document: Any) -> int:
    """Print one JSON document, indented for people and programs alike, as Docker does; exit status 0."""
    print(json.dumps(document, default=str, indent=2))
    return 0


def print_json_line(document: Any) -> None:
    """Print one of a stream of JSON objects, a line each."""
    print(json.dumps(document, default=str), flush=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; unknown is ``-``. Columns of numbers and sizes stand at the right.

    On a terminal states are coloured, and the text of the last columns is continued on further lines where a line
    would be wider than the terminal.
    """
    texts = [[show(cell) for cell in row] for row in rows]
    width = _terminal_width()
    colour = wants_colour()
    for cells in layout(headings, texts, width):
        if colour:
            cells = [_coloured(cell) for cell in cells]
        print("  ".join(cells).rstrip())


def layout(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """A table's lines, each as its padded cells. Pure.

    :param width: of the terminal; ``None``: nothing is continued on another line.
    """
    columns = [[row[at] for row in rows] for at in range(len(headings))]
    widths = [max(map(len, (heading, *column))) for heading, column in zip(headings, columns, strict=True)]
    right = [_is_numbers(column) for column in columns]
    if width is not None:
        words = [
            max((len(word) for cell in column for word in cell.split()), default=0) for column in columns
        ]
        least = [max(_LEAST_WIDTH, longest) for longest in words]
        _narrow(widths, least, width)
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


def _wrap(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _narrow(widths: list[int], least: Sequence[int], width: int) -> None:
    """Take what is too much from the widest column that can give, again and again."""
    while sum(widths) + 2 * (len(widths) - 1) > width:
        can_give = [at for at, has in enumerate(widths) if has > least[at]]
        if not can_give:
            return
        widths[max(can_give, key=widths.__getitem__)] -= 1


def _terminal_width() -> int | None:
    """Columns of the terminal that standard output is; ``None`` if it is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _is_numbers(column: Sequence[str]) -> bool:
    known = [cell for cell in column if cell != "-"]
    return bool(known) and all(_NUMBER.fullmatch(cell) for cell in known)


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {show(value)}")


def show(value: object) -> str:
    """A cell's text: unknown as ``-``, foreign words without what could rearrange the terminal."""
    return "-" if value is None else printable(str(value))


def show_age(unix_s: float | None) -> str | None:
    """How long ago, in the largest unit that says enough."""
    if unix_s is None:
        return None
    seconds = max(0, int(time.time() - unix_s))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def show_seconds(seconds: float) -> str:
    """A length of time in the two units that say enough: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 7 min``."""
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
    """A size in the largest binary unit that leaves a whole part: ``812K``, ``41M``, ``1.5G``."""
    if size_bytes is None:
        return None
    for unit, factor in (("G", GIB), ("M", MIB), ("K", KIB)):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.1f}{unit}" if unit == "G" and value < 10 else f"{value:.0f}{unit}"
    return f"{size_bytes}B"


def iso_time(unix_s: float | None) -> str | None:
    """RFC 3339, UTC."""
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def wants_colour() -> bool:
    """Standard output is a terminal, and nobody has asked for no colour (the NO_COLOR convention)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(cell: str) -> str:
    code = _STATE_COLOURS.get(cell.strip())
    return f"\x1b[{code}m{cell}\x1b[0m" if code else cell
