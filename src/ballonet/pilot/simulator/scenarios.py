"""The built-in scenarios by name; each is a function of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from ballonet.pilot.simulator import workloads
from ballonet.pilot.simulator.fleet import fleet_scenario
from ballonet.pilot.simulator.simulation import Scenario
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.squeezed_scenarios import SITUATIONS, situation_scenario
from ballonet.pilot.simulator.trace import Trace

#: A host has memory for this share of its sandboxes' ceilings.
OVERCOMMIT = 0.6
#: Share of the host that is never promised.
RESERVE_SHARE = 0.05


def sandbox(
    name: str, ceiling_mib: int, trace: Trace, *, caches_mib: float = 0.0, weight: int = 100
) -> GuestSpec:
    """A guest with the defaults of ``ballonet run``: the floor is a quarter of the ceiling, at least 128 MiB."""
    return GuestSpec(
        name, ceiling_mib, trace, max(128, ceiling_mib // 4), weight=weight, caches_mib=caches_mib
    )


def host_for(
    name: str, about: str, guests: list[GuestSpec], duration_s: float, share: float = OVERCOMMIT
) -> Scenario:
    """A host with memory for ``share`` of the ceilings, in addition to its reserve and the engines."""
    ceilings = sum(guest.ceiling_mib for guest in guests)
    host = int(ceilings * share / (1 - RESERVE_SHARE)) + 40 * len(guests)
    return Scenario(name, about, guests, duration_s, host, int(host * RESERVE_SHARE))


def _clang(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    trace = workloads.build(random, start_s=30, minutes=40)
    guests = [sandbox("clang", 16384, trace)]
    return host_for("clang", "one clang build in 16 GiB, then 11 idle minutes", guests, 52 * 60, 1.0)


def _builds(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(f"build-{n}", 4096, workloads.build(random, start_s=10 + 150 * n, minutes=5, scale=0.25))
        for n in range(4)
    ]
    return host_for("builds", "four staggered builds in 4 GiB each", guests, 15 * 60)


def _agents(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(
            f"agent-{n}",
            2048,
            workloads.agent(random, seconds=590, ceiling_mib=2048),
            caches_mib=random.uniform(100, 500),
        )
        for n in range(12)
    ]
    return host_for("agents", "twelve coding agents: mostly idle, bursts of 3 GB/s", guests, 600)


def _idle(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(f"idle-{n}", 1024, workloads.idle(random, seconds=590), caches_mib=random.uniform(80, 500))
        for n in range(20)
    ]
    return host_for("idle", "twenty idle sandboxes", guests, 600)


def _files(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(
            f"reader-{n}",
            4096,
            workloads.read_files(random, seconds=590, rate_mib_s=150, hot_mib=900 * (n % 2)),
        )
        for n in range(6)
    ]
    return host_for(
        "files", "six file readers: all read files once, three also read 900 MiB repeatedly", guests, 600
    )


def _ci(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(
            f"ci-{n}",
            4096,
            workloads.pipeline(random, seconds=880, ceiling_mib=4096, start_s=random.uniform(0, 90)),
        )
        for n in range(6)
    ]
    return host_for("ci", "six CI runners", guests, 900)


def _mixed(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox("build", 2048, workloads.build(random, start_s=10, minutes=3, scale=0.12)),
        sandbox("build-late", 2048, workloads.build(random, start_s=200, minutes=3, scale=0.12)),
        sandbox("python-1", 1024, workloads.python_job(random, seconds=400, ceiling_mib=1024)),
        sandbox("python-2", 1024, workloads.python_job(random, seconds=400, ceiling_mib=1024)),
        sandbox("idle-1", 1024, workloads.idle(random, seconds=400), caches_mib=400),
        sandbox("idle-2", 1024, workloads.idle(random, seconds=400), caches_mib=200),
        sandbox("files", 1024, workloads.read_files(random, seconds=400, rate_mib_s=80)),
        sandbox("files-again", 1024, workloads.read_files(random, seconds=400, rate_mib_s=40, hot_mib=300)),
    ]
    return host_for("mixed", "builds, Python jobs, idle sandboxes and file readers", guests, 420)


def _adversarial(seed: int) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        sandbox(
            f"burst-{n}",
            4096,
            workloads.burst(
                at_s=60.0, base_mib=80, peak_mib=random.uniform(1700, 2000), rate_mib_s=1024.0, hold_s=40
            ),
            caches_mib=1500,
        )
        for n in range(6)
    ]
    return host_for(
        "adversarial",
        "six sandboxes that grow at 1 GiB/s in the same second, to nearly all of the host's memory",
        guests,
        180,
    )


def _sessions(seed: int, *, pausable: bool = True) -> Scenario:
    random = Random(seed)  # noqa: S311 - a simulation, not a secret
    guests = [
        replace(
            sandbox(
                f"session-{n}", 1024, workloads.sessions(random, seconds=1490, work_mib=560, start_s=60.0 * n)
            ),
            pausable=pausable,
        )
        for n in range(12)
    ]
    about = "twelve sessions that keep 560 MiB each and are rarely used, on a host for eleven"
    return host_for("sessions", about, guests, 1500, 0.58)


def _squeezed(letter: str, seed: int) -> Scenario:
    return situation_scenario(letter)  # not random


#: Functions from a seed to a scenario.
SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "clang": _clang,
    "builds": _builds,
    "agents": _agents,
    "idle": _idle,
    "files": _files,
    "ci": _ci,
    "mixed": _mixed,
    "adversarial": _adversarial,
    "fleet": fleet_scenario,
    "sessions": _sessions,
    **{f"squeezed-{letter}": partial(_squeezed, letter) for letter in SITUATIONS},
}


def of_guests(name: str, about: str, guests: list[GuestSpec]) -> Scenario:
    """A scenario of recorded guests, one minute longer than their traces. The host has :data:`OVERCOMMIT` of their
    ceilings, but at least room for the largest guest."""
    share = max(guest.ceiling_mib for guest in guests) / sum(guest.ceiling_mib for guest in guests)
    seconds = max(guest.trace.end_s for guest in guests) + 60
    return host_for(name, about, guests, seconds, max(OVERCOMMIT, share))
