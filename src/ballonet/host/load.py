"""How busy the processors of the host are (getloadavg(3))."""

from __future__ import annotations

import os


def tasks_per_processor() -> float:
    """Tasks that run or want to run, on average over a minute, for each processor that this process may use.

    At least 1, so that it can be used as a factor for deadlines; 1 if it is unknown.
    """
    try:
        return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    except OSError:
        return 1.0
