"""Traces of typical work, generated from published figures and a seed. Pure: the random generator is passed in."""

from __future__ import annotations

from random import Random

from ballonet.pilot.simulator.trace import Point, Trace

#: Allocation rate of a burst (3 GB/s, published for tools of agents).
BURST_MIB_S = 2861.0


def build(random: Random, *, start_s: float, minutes: float, scale: float = 1.0) -> Trace:
    """A clang build as in the 16 GiB guest of the HyperAlloc paper: dozens of compilers, object files, a few links.

    ``scale`` 1.0 is that size: about 6 GiB of compilers, 11 GiB while linking, 1.2 GiB of sources read repeatedly,
    1.8 MiB/s of files read or written once.
    """
    idle = 150 * scale
    points = [Point(0.0, idle, busy=False)]
    at = start_s
    end = start_s + minutes * 60
    points.append(Point(at, idle))
    next_link = at + minutes * 60 * 0.45
    while at < end:
        linking = at >= next_link
        level = (random.uniform(9.0, 12.0) if linking else random.uniform(2.5, 7.5)) * 1024 * scale
        ramp = random.uniform(1.0, 4.0)
        hold = random.uniform(10, 25) if linking else random.uniform(3, 12)
        hot, read = 1200 * scale, 1.8 * scale
        points.append(Point(at + ramp, level, hot, read))
        points.append(Point(at + ramp + hold, level * random.uniform(0.85, 1.0), hot, read))
        at += ramp + hold
        if linking:
            next_link = at + random.uniform(0.15, 0.25) * minutes * 60
    points.append(Point(at + 2.0, idle, busy=False))
    return Trace(points)


def agent(random: Random, *, seconds: float, ceiling_mib: int) -> Trace:
    """A coding agent: mostly waiting for its model, with occasional tools that allocate at 3 GB/s and exit (published:
    peak to mean ratio 15.4)."""
    idle = ceiling_mib * 0.02
    points = [Point(0.0, idle, busy=False)]
    at = random.uniform(2, 40)
    while at < seconds:
        heavy = random.random() < 0.35
        peak = ceiling_mib * (random.uniform(0.45, 0.78) if heavy else random.uniform(0.05, 0.2))
        hold = random.uniform(1.0, 6.0)
        hot, read = ceiling_mib * 0.04, random.uniform(0, 25)
        points.append(Point(at, idle, hot, read))
        up = at + max(0.2, (peak - idle) / BURST_MIB_S)
        points.append(Point(up, peak, hot, read))
        points.append(Point(up + hold, peak * random.uniform(0.7, 1.0), hot, read))
        points.append(Point(up + hold + 0.3, idle, busy=False))
        at = up + hold + random.uniform(15, 90)
    return Trace(points)


def idle(random: Random, *, seconds: float) -> Trace:
    """An idle guest: a little memory, and occasional short scripts."""
    points = [Point(0.0, random.uniform(20, 60), busy=False)]
    base = points[0].work_mib
    at = random.uniform(30, 120)
    while at < seconds:
        points.append(Point(at, base, busy=True, read_mib_s=5))
        points.append(Point(at + 0.5, base + random.uniform(10, 50), busy=True, read_mib_s=5))
        points.append(Point(at + 2.0, base, busy=False))
        at += random.uniform(60, 180)
    return Trace(points)


def sessions(random: Random, *, seconds: float, work_mib: float, start_s: float) -> Trace:
    """A session of a person: a program that keeps much in memory, and is used for a few seconds every few minutes."""
    points = [
        Point(0.0, 30.0, busy=False),
        Point(start_s + 1, 30.0),
        Point(start_s + random.uniform(4, 10), work_mib, busy=False),
    ]
    at = start_s + random.uniform(60, 400)
    while at < seconds:
        points.append(Point(at, work_mib, read_mib_s=2.0))
        points.append(Point(at + random.uniform(2, 8), work_mib, busy=False))
        at += random.uniform(150, 500)
    return Trace(points)


def read_files(random: Random, *, seconds: float, rate_mib_s: float, hot_mib: float = 0.0) -> Trace:
    """Reads many files once, in runs with pauses, and ``hot_mib`` of files repeatedly."""
    points = [Point(0.0, 120.0, busy=False)]
    at = random.uniform(1, 20)
    while at < seconds:
        run = random.uniform(20, 60)
        rate = rate_mib_s * random.uniform(0.6, 1.2)
        points.append(Point(at, 160.0, hot_mib, rate))
        points.append(Point(at + run, 160.0, hot_mib, 0.0, busy=hot_mib > 0))
        at += run + random.uniform(20, 80)
    return Trace(points)


def pipeline(random: Random, *, seconds: float, ceiling_mib: int, start_s: float) -> Trace:
    """CI jobs: check out, install, test, wait for the next job. Each job reads the installed packages again."""
    idle = 60.0
    points = [Point(0.0, idle, busy=False)]
    at = start_s
    packages = ceiling_mib * random.uniform(0.1, 0.15)
    while at < seconds:
        points.append(Point(at, idle, 0.0, 60.0))
        at += random.uniform(4, 8)
        points.append(Point(at, idle + ceiling_mib * 0.08, packages, 30.0))
        at += random.uniform(10, 25)
        for _ in range(random.randint(3, 8)):
            level = ceiling_mib * random.uniform(0.15, 0.5)
            points.append(Point(at, idle + ceiling_mib * 0.1, packages, 4.0))
            ramp = max(0.3, level / random.uniform(200, 1024))
            points.append(Point(at + ramp, level, packages, 4.0))
            at += ramp + random.uniform(4, 15)
            points.append(Point(at, level, packages, 4.0))
            at += 0.5
        points.append(Point(at, idle, busy=False))
        at += random.uniform(40, 150)
    return Trace(points)


def python_job(random: Random, *, seconds: float, ceiling_mib: int) -> Trace:
    """A program that allocates most of its memory at 1 GiB/s, works with it, and frees it."""
    points = [Point(0.0, 60.0, busy=False)]
    at = random.uniform(5, 30)
    while at < seconds:
        peak = ceiling_mib * random.uniform(0.5, 0.75)
        points.append(Point(at, 60.0))
        points.append(Point(at + peak / 1024, peak))
        at += peak / 1024 + random.uniform(8, 30)
        points.append(Point(at, peak))
        points.append(Point(at + 0.5, 60.0, busy=False))
        at += random.uniform(30, 90)
    return Trace(points)


def burst(*, at_s: float, base_mib: float, peak_mib: float, rate_mib_s: float, hold_s: float) -> Trace:
    """A single burst."""
    up = at_s + (peak_mib - base_mib) / rate_mib_s
    return Trace(
        [
            Point(0.0, base_mib, busy=False),
            Point(at_s, base_mib),
            Point(up, peak_mib),
            Point(up + hold_s, peak_mib),
            Point(up + hold_s + 0.5, base_mib, busy=False),
        ]
    )
