"""Wall-clock time of moments taken on the monotonic clock."""

from __future__ import annotations

import time


def unix_time(monotonic: float) -> float:
    """When, in unix seconds, the monotonic clock showed ``monotonic``."""
    return time.time() - (time.monotonic() - monotonic)
