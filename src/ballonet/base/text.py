"""Words that came from outside (a guest, a server), made fit to be shown. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without what could rearrange a terminal: such characters become U+FFFD. Bound it before."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
