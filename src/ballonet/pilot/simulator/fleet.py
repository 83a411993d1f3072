"""The timelines of ``bench.fleet`` as modelled guests, for calibration with the real fleet. Pure.

The durations are those that the jobs take under ``static``: medians of 56 VMs on 16 cores under emulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ballonet.pilot.simulator.physics import EMULATION
from ballonet.pilot.simulator.simulation import Scenario
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.trace import Point, Trace

CEILING_MIB = 768
#: The part of a budget for each engine: its own memory under emulation, with a disk.
ENGINE_MIB = 145
#: The start of a timeline is this much later than that of the previous group of seven (seconds).
STAGGER_S = 3.0
LENGTH_S = 150.0
IDLE_MIB = 15.0

#: Files that the guests of each role have on their disks (MiB): the caches of a guest that is left alone.
_FILES = {"build": 182.0, "numbers": 40.0, "reader": 258.0, "idle": 137.0}
_JOBS: dict[str, list[tuple[float, str]]] = {
    "build-1": [(3, "build"), (62, "build"), (118, "build")],
    "build-2": [(30, "build"), (92, "build")],
    "numbers-1": [(12, "numbers"), (50, "numbers"), (104, "numbers")],
    "numbers-2": [(40, "numbers"), (82, "numbers"), (132, "numbers")],
    "reader": [(6, "read_once"), (26, "read_hot"), (56, "read_hot"), (72, "read_once"), (112, "read_hot")],
    "idle-1": [(1, "warm_up")],
    "idle-2": [(18, "warm_up")],
}
#: Each job in steps: duration (seconds), memory of the work at the end of the step, files read again, files read or
#: written once (MiB/s).
_STEPS: dict[str, list[tuple[float, float, float, float]]] = {
    "build": [
        (4.0, 75.0, 30.0, 6.0),
        (2.0, 30.0, 30.0, 80.0),
        (1.5, 250.0, 30.0, 0.0),
        (0.5, 250.0, 30.0, 0.0),
    ],
    "numbers": [(2.5, 375.0, 15.0, 0.0), (2.5, 375.0, 15.0, 0.0)],
    "read_once": [(3.0, 20.0, 15.0, 80.0)],
    "read_hot": [(0.8, 20.0, 60.0, 0.0)],
    "warm_up": [(1.4, 25.0, 15.0, 86.0), (2.2, 315.0, 15.0, 0.0)],
}


def _trace(jobs: Sequence[tuple[float, str]], start_s: float) -> Trace:
    points = [Point(0.0, IDLE_MIB, busy=False)]
    at_s = 0.0
    for begin_s, job in jobs:
        at_s = max(at_s + 0.2, start_s + begin_s)
        level = IDLE_MIB
        for seconds, mib, hot, rate in _STEPS[job]:
            points.append(Point(at_s, level, hot, rate))
            at_s, level = at_s + seconds, mib
        points.append(Point(at_s, level, busy=False))
        at_s += 0.1
        points.append(Point(at_s, IDLE_MIB, busy=False))
    return Trace(points)


def fleet_scenario(seed: int, groups: int = 4) -> Scenario:
    """``groups`` times the seven guests of the real fleet, one group after the other. The budget is 0.6 of their
    ceilings, and what their engines need."""
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = []
    for group in range(groups):
        for role, jobs in _JOBS.items():
            start_s = group * STAGGER_S + random.uniform(0, 1)
            name = role.split("-")[0]
            guests.append(
                GuestSpec(
                    f"{role}-{group}",
                    CEILING_MIB,
                    _trace(jobs, start_s),
                    128,
                    files_mib=_FILES[name],
                    caches_mib=30.0,
                )
            )
    budget = int(len(guests) * (0.6 * CEILING_MIB + ENGINE_MIB))
    return Scenario(
        "fleet",
        f"bench.fleet: {len(guests)} guests that build, compute, read files and idle, under emulation",
        guests,
        LENGTH_S + groups * STAGGER_S,
        budget,
        budget // 20,
        # The model's engines are smaller.
        others_mib=len(guests) * (ENGINE_MIB - 40),
        physics=EMULATION,
    )
