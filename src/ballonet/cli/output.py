"""What commands print: tables that fit any terminal, JSON for programs, colour only where it is wanted."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ballonet.text import printable

_STATE_COLOURS = {"running": "32", "starting": "33", "failed": "31"}


def print_json(document: Any) -> int:
    """Print one JSON document, ended by a newline; exit status 0."""
    print(json.dumps(document, default=str))
    return 0


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; unknown is ``-``. States are coloured on a terminal."""
    texts = [[show(cell) for cell in row] for row in rows]
    widths = [
        max(len(heading), *(len(row[at]) for row in texts), 0) if texts else len(heading)
        for at, heading in enumerate(headings)
    ]
    lines = [list(headings), *texts]
    colour = wants_colour()
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        if colour:
            cells = [_coloured(cell) for cell in cells]
        print("  ".join(cells).rstrip())


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


def iso_time(unix_s: float | None) -> str | None:
    """RFC 3339, UTC."""
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def wants_colour() -> bool:
    """Standard output is a terminal, and nobody has asked for no colour (the NO_COLOR convention)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(cell: str) -> str:
    code = _STATE_COLOURS.get(cell.strip())
    return f"\x1b[{code}m{cell}\x1b[0m" if code else cell
