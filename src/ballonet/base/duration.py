"""Durations as people write them: ``90``, ``90s``, ``10m``, ``1h30m``, ``2d``."""

from __future__ import annotations

import re

#: A duration in settings: seconds, or text.
Duration = int | float | str

_PARTS = re.compile(
    r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+)s)?|(?P<bare>\d+)", re.ASCII
)
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "bare": 1}
#: The longest duration that can be written (seconds): 30 years.
MAX_SECONDS = 10**9


def parse_duration(text: str) -> int:
    """Whole seconds.

    :raises ValueError: it is not a duration.
    """
    found = _PARTS.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise ValueError("is not a duration")
    seconds = sum(int(number) * _SECONDS[unit] for unit, number in found.groupdict().items() if number)
    if seconds > MAX_SECONDS:
        raise ValueError(f"is longer than {MAX_SECONDS} s")
    return seconds


def show_duration(seconds: int) -> str:
    """The shortest text that :func:`parse_duration` reads as ``seconds``."""
    parts = []
    left = seconds
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, _SECONDS[unit])
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"
