"""Makes text from outside (a guest, a server) safe to print. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` without control characters, which become U+FFFD. The caller limits the length."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
