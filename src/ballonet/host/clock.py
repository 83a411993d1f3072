"""Converts times of the monotonic clock to wall-clock time."""

from __future__ import annotations

import time


def unix_time(monotonic: float) -> float:
    """The Unix time at which the monotonic clock showed ``monotonic``."""
    return time.time() - (time.monotonic() - monotonic)
