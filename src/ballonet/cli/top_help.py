"""The help of ``ballonet top``: its keys and columns, laid out for any width. Pure."""

from __future__ import annotations

import textwrap

KEYS = (
    ("up, down, j, k", "select a sandbox"),
    ("PgUp, PgDn, Home, End", "move the selection further"),
    ("<, > or left, right", "sort by another column"),
    ("r", "reverse the sort order"),
    ("+ or g", "grow the target by 1/8 of the ceiling"),
    ("- or s", "shrink the target by the same amount"),
    ("t", "trim: reclaim memory that the guest does not need"),
    ("space", "update now"),
    ("h or ?", "show or close this help"),
    ("q or Ctrl-C", "quit"),
)
MEANINGS = (
    ("CEIL", "ceiling: the maximum memory of the guest"),
    ("TARGET ACTUAL", "requested and current memory of the guest"),
    ("GUEST", "host memory used by the guest's RAM"),
    ("ENGINE", "host memory used by the engine itself"),
    ("AVAIL CACHES", "memory available to guest programs; page cache"),
    ("PSI%", "share of the last 10 s in which guest tasks waited for memory"),
    ("LIMIT FLOOR", "upper and lower limit of the target"),
    ("OOM MAJFLT", "out-of-memory kills and major page faults in the guest"),
    ("RECLAIMED PSS", "guest RAM returned to the host; PSS of the engine process"),
    ("HISTORY", "GUEST over the last 10 minutes; full height is the ceiling"),
)
_NOTE = (
    "Sizes are in MiB. The guest reports AVAIL, CACHES, PSI%, OOM and MAJFLT. A shrink stops before it would harm "
    "the guest."
)


def help_lines(width: int) -> list[str]:
    """Lines of at most ``width`` columns."""
    lines = _table(KEYS, width) + _table(MEANINGS, width)
    return lines + textwrap.wrap(_NOTE, max(1, width))


def _table(rows: tuple[tuple[str, str], ...], width: int) -> list[str]:
    first = max(len(word) for word, _ in rows) + 2
    if width < first + 20:  # too narrow for a table
        return [line for row in rows for line in textwrap.wrap(": ".join(row), max(1, width))]
    lines = []
    for word, meaning in rows:
        begun, *more = textwrap.wrap(meaning, width - first)
        lines += [word.ljust(first) + begun, *(" " * first + line for line in more)]
    return lines
