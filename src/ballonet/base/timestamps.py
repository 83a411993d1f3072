"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_time(unix_s: float | None) -> str | None:
    """A time as RFC 3339, in UTC."""
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
