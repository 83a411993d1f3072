"""The help of ``ballonet top``: its keys and its columns, laid out for any width. Pure."""

from __future__ import annotations

import textwrap

KEYS = (
    ("up, down, j, k", "select a sandbox"),
    ("PgUp, PgDn, Home, End", "move the selection further"),
    ("<, > or left, right", "sort by another column"),
    ("r", "reverse the order"),
    ("+ or g", "grow the target by 1/8 of the ceiling"),
    ("- or s", "shrink the target by as much"),
    ("t", "trim: the guest frees what it can"),
    ("space", "collect the figures now"),
    ("h or ?", "show or leave this help"),
    ("q or Ctrl-C", "quit"),
)
MEANINGS = (
    ("CEIL", "the most memory that the guest may ever have"),
    ("TARGET ACTUAL", "what the guest is to have, and what it has"),
    ("GUEST", "host memory that holds the guest's RAM"),
    ("ENGINE", "host memory that the virtual machine needs for itself"),
    ("AVAIL CACHES", "what guest programs could still use, and its page cache"),
    ("PSI%", "how much of the last 10 s guest tasks waited for memory"),
    ("LIMIT FLOOR", "the most and the least that a target may be"),
    ("OOM MAJFLT", "processes killed for lack of memory; faults that read a disk"),
    ("RECLAIMED PSS", "guest RAM that the host got back; the PSS of the engine"),
    ("HISTORY", "GUEST in the last 10 minutes; the ceiling is full height"),
)
_NOTE = (
    "Sizes are MiB. The guest reports AVAIL, CACHES, PSI%, OOM and MAJFLT. A shrink stops where it would harm the "
    "guest."
)


def help_lines(width: int) -> list[str]:
    """Lines of at most ``width`` columns."""
    lines = _table(KEYS, width) + _table(MEANINGS, width)
    return lines + textwrap.wrap(_NOTE, max(1, width))


def _table(rows: tuple[tuple[str, str], ...], width: int) -> list[str]:
    first = max(len(word) for word, _ in rows) + 2
    if width < first + 20:  # too narrow for two columns
        return [line for row in rows for line in textwrap.wrap(": ".join(row), max(1, width))]
    lines = []
    for word, meaning in rows:
        begun, *more = textwrap.wrap(meaning, width - first)
        lines += [word.ljust(first) + begun, *(" " * first + line for line in more)]
    return lines
