"""How often a sandbox is sampled, and what its engine is asked. Real sandboxes: tests/vm/test_metrics.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ballonet.base.memory import MIB
from ballonet.host.proc import Resident, read_cpu_s
from ballonet.lifecycle.samples import GUEST_AGE_S
from ballonet.machine.engine_memory import PSS_COST_FACTOR, PSS_EVERY_S, EngineMemory
from ballonet.machine.sampler import BUSY_BYTES, HEARTBEAT_S, Look, Pace, earlier_totals, pace_of
from ballonet.metrics.history import totals
from ballonet.metrics.model import SandboxSample

BEFORE = Look(
    at=100.0, cpu_s=10.0, guest_ram=100 * MIB, balloon=(512, 512, None), moving=False, pressure_us=0
)
AFTER = replace(BEFORE, at=102.0, cpu_s=10.04)


@pytest.mark.parametrize(
    ("changes", "pace"),
    [
        ({}, Pace.IDLE),
        ({"cpu_s": 10.3}, Pace.BUSY),
        ({"cpu_s": None}, Pace.BUSY),
        ({"guest_ram": 100 * MIB + BUSY_BYTES}, Pace.BUSY),
        ({"guest_ram": 100 * MIB - BUSY_BYTES}, Pace.BUSY),
        ({"balloon": (300, 512, None)}, Pace.BUSY),
        ({"moving": True}, Pace.QUICK),
        ({"pressure_us": 9_999}, Pace.IDLE),
        ({"pressure_us": 10_000}, Pace.QUICK),
        ({"pressure_us": None}, Pace.IDLE),
    ],
)
def test_what_happens_decides_how_soon_the_next_look_is(changes: dict[str, object], pace: Pace) -> None:
    assert pace_of(BEFORE, replace(AFTER, **changes)) is pace  # type: ignore[arg-type]


def test_the_first_look_is_followed_by_a_quick_second_one() -> None:
    assert pace_of(None, BEFORE) is Pace.QUICK


def test_an_idle_guest_is_asked_once_a_minute_and_a_moving_one_at_each_look() -> None:
    assert Pace.IDLE.guest_age_s == math.inf
    assert HEARTBEAT_S + Pace.IDLE.look_s <= GUEST_AGE_S, "before a reader would"
    assert Pace.QUICK.guest_age_s < Pace.QUICK.look_s
    assert Pace.BUSY.guest_age_s < Pace.BUSY.look_s


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pss_has_a_slower_clock_of_its_own_and_its_age_is_told() -> None:
    clock = Clock()
    readings: list[float] = []

    def read_pss(pid: int) -> int:
        readings.append(clock.now)
        clock.now += cost_s
        return 200 * MIB

    cost_s = 0.01
    engine = EngineMemory(1, resident=lambda pid: Resident(300 * MIB, 100 * MIB), pss=read_pss, clock=clock)
    first = engine.figures()
    assert (first.pss_mib, first.pss_age_s) == (200, 0)
    clock.now += PSS_EVERY_S - 1
    second = engine.figures()
    assert (second.pss_mib, len(readings)) == (200, 1)
    assert second.pss_age_s == pytest.approx(PSS_EVERY_S - 1)
    clock.now += 1
    cost_s = 1.0  # a very large guest
    engine.figures()
    assert len(readings) == 2
    clock.now += PSS_COST_FACTOR - 2
    assert engine.figures().pss_age_s == pytest.approx(PSS_COST_FACTOR - 2)
    clock.now += 2
    engine.figures()
    assert len(readings) == 3


def test_what_came_back_to_the_host_is_the_sum_of_all_drops() -> None:
    held = [100, 400, 150, 300, 300, 100]
    engine = EngineMemory(1, resident=lambda pid: Resident(0, held.pop(0) * MIB), pss=lambda pid: None)
    told = [engine.figures().reclaimed_mib for _ in range(6)]
    assert told == [0, 0, 250, 250, 250, 450]


def test_an_engine_that_is_gone_has_no_figures_and_keeps_its_totals() -> None:
    held: list[Resident | None] = [Resident(5, 3 * MIB), Resident(5, 1 * MIB), None]
    engine = EngineMemory(1, resident=lambda pid: held.pop(0), pss=lambda pid: None)
    engine.figures()
    engine.figures()
    gone = engine.figures()
    assert (gone.resident_mib, gone.pss_mib, gone.pss_age_s, gone.reclaimed_mib) == (None, None, None, 2)


def test_earlier_totals_are_a_historys() -> None:
    sample = SandboxSample(name="box", state="running", at=1, oom_kills=3, swap_in=5 * MIB, reclaimed=7 * MIB)
    earlier = earlier_totals(totals(sample))
    assert (earlier.oom_kills, earlier.swap_in_mib, earlier.reclaimed_mib, earlier.major_faults) == (
        3,
        5,
        7,
        0,
    )


def test_processor_time_of_a_process() -> None:
    import os

    first = read_cpu_s(os.getpid())
    assert first is not None
    while (read_cpu_s(os.getpid()) or 0) <= first:
        sum(range(10_000))
    assert read_cpu_s(2**22 + 1) is None
