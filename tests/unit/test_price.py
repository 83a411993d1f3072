"""The price of memory, and what it protects: no guest at work loses anything while the host has plenty."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.pilot.checks import check_decision, remember
from ballonet.pilot.idleness import Activity, observe, quiet_s
from ballonet.pilot.limits import room_band_mib
from ballonet.pilot.model import Decision, HostView, SandboxView, promisable_mib, promise_limit_mib
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.price import (
    ACTIVE_CACHES_S,
    EASE_SHARE,
    QUIET_S,
    caches_to_drop,
    is_idle,
    kept_mib,
    patience,
    price_of,
)
from tests.unit.policy_inputs import host, sandbox
from tests.unit.test_policy_ballonet import fleets, retargeted

prices = st.floats(0.0, 1.0)
quiet = st.none() | st.floats(0.0, 200.0)


def at_price(price: float, **changes: Any) -> HostView:
    """A host of 8 GiB at this price."""
    total, reserve = 8192, 400
    available = reserve + round((1 - price) * total * EASE_SHARE)
    return host(total_mib=total, reserve_mib=reserve, available_mib=available, **changes)


def works(view: SandboxView, at_s: float) -> SandboxView:
    """The guest keeps one processor busy."""
    return view._replace(engine_cpu_s=at_s, engine_io_mib=0)


def rests(view: SandboxView, at_s: float) -> SandboxView:
    return view._replace(engine_cpu_s=0.005 * at_s, engine_io_mib=0)


# The formula. ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "price"),
    [(8192, 0.0), (2448, 0.0), (1424, 0.5), (400, 1.0), (0, 1.0), (-500, 1.0), (None, None)],
)
def test_the_price_is_0_with_a_quarter_of_the_host_available_and_1_at_the_reserve(
    available: int | None, price: float | None
) -> None:
    assert price_of(available, 400, 8192) == price
    assert host(available_mib=available, reserve_mib=400, total_mib=8192).price == price


def test_what_may_be_promised_follows_the_price() -> None:
    views = [sandbox(guest_ram_mib=1000)]
    assert promisable_mib(at_price(0, overcommit=2.0), views) == 2 * (2048 + 1000)
    assert promisable_mib(at_price(1, overcommit=2.0), views) == 1000


@given(prices, prices, quiet, st.floats(0, 5000), st.none() | st.integers(0, 5000))
def test_a_higher_price_never_takes_less(
    one: float, other: float, rested: float | None, caches: float, inactive: int | None
) -> None:
    low, high = sorted((one, other))
    assert is_idle(high, rested) or not is_idle(low, rested)
    assert patience(high, is_idle(high, rested)) <= patience(low, is_idle(low, rested))
    drops = caches_to_drop(low, rested, caches, inactive), caches_to_drop(high, rested, caches, inactive)
    assert drops[0] <= drops[1]
    kept = [kept_mib(price, is_idle(price, rested), 256, 1024) for price in (low, high)]
    assert kept[0] >= kept[1]


@given(quiet, st.floats(0, 5000), st.none() | st.integers(0, 5000))
def test_at_price_1_it_does_not_matter_whether_a_guest_is_idle(
    rested: float | None, caches: float, inactive: int | None
) -> None:
    assert patience(1.0, is_idle(1.0, rested)) == 1
    assert caches_to_drop(1.0, rested, caches, inactive) == caches
    assert kept_mib(1.0, is_idle(1.0, rested), 256, 1024) == 256


def test_at_price_0_an_idle_guest_drops_its_inactive_caches_first_and_the_others_much_later() -> None:
    assert caches_to_drop(0.0, None, 300, 200) == 0
    assert caches_to_drop(0.0, QUIET_S - 0.1, 300, 200) == 0
    assert caches_to_drop(0.0, QUIET_S, 300, 200) == 200
    assert caches_to_drop(0.0, QUIET_S, 300, None) == 300
    assert caches_to_drop(0.0, ACTIVE_CACHES_S, 300, 200) == 300


# Whether a guest is at work. ------------------------------------------------------------------------------------------


def quiet_after(*readings: tuple[float, dict[str, Any]]) -> float | None:
    activity: Activity | None = None
    for at_s, figures in readings:
        activity = observe(sandbox(**figures), at_s, activity)
    return quiet_s(activity, readings[-1][0])


REST = {"engine_cpu_s": 5.0, "engine_io_mib": 40, "refault_mib": 3}


def test_a_guest_is_quiet_since_the_first_of_two_readings_without_work() -> None:
    assert quiet_after((0, REST)) is None
    assert quiet_after((0, REST), (1, REST | {"engine_cpu_s": 5.04}), (7, REST | {"engine_cpu_s": 5.2})) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"engine_cpu_s": 5.5},
        {"engine_cpu_s": None},
        {"engine_cpu_s": 4.0},
        {"engine_io_mib": 44},
        {"engine_io_mib": None},
        {"refault_mib": 4},
    ],
)
def test_processor_disk_and_refaults_are_work_and_so_is_a_missing_figure(change: dict[str, Any]) -> None:
    assert quiet_after((0, REST), (1, REST), (2, REST | change)) is None


def test_a_guest_whose_kernel_counts_no_refaults_can_be_quiet() -> None:
    silent = REST | {"refault_mib": None}
    assert quiet_after((0, silent), (1, silent)) == 1


def test_two_readings_in_quick_succession_say_nothing_about_processor_time() -> None:
    assert quiet_after((0, REST), (1, REST), (1.1, REST | {"engine_cpu_s": 5.01})) == pytest.approx(1.1)


# The policy. ----------------------------------------------------------------------------------------------------------


@given(fleets(), st.integers(2, 40), st.booleans())
@settings(max_examples=120)
def test_at_price_0_no_guest_at_work_is_trimmed_or_shrunk(
    fleet: tuple[HostView, list[SandboxView]], seconds: int, known: bool
) -> None:
    tick, views = fleet
    # A quarter of the host and more is available, whatever has been promised.
    tick = tick._replace(available_mib=tick.reserve_mib + tick.total_mib // 4 + 1)
    assert tick.price == 0
    policy, memory = Ballonet(), None
    for second in range(seconds):
        tick = tick._replace(at_s=float(second))
        if known:
            views = [works(view, tick.at_s) for view in views]
        decision = policy.decide(tick, views, memory)
        memory = decision.memory
        for view, verdict in zip(views, decision.verdicts, strict=True):
            assert verdict.trim_mib == 0
            assert verdict.target_mib is None or verdict.target_mib >= min(view.target_mib, view.ceiling_mib)
        views = retargeted(views, decision)


def warmed(
    views: list[SandboxView], tick: HostView, seconds: int, busy: list[bool]
) -> tuple[Any, list[SandboxView]]:
    """What the policy remembers after some seconds in which some guests work and others rest."""
    policy, memory = Ballonet(), None
    for second in range(seconds):
        views = [
            works(view, float(second)) if busy[n % len(busy)] else rests(view, float(second))
            for n, view in enumerate(views)
        ]
        decision = policy.decide(tick._replace(at_s=float(second)), views, memory)
        memory = decision.memory
        views = retargeted(views, decision)
    return memory, views


@given(fleets(), st.integers(1, 30), st.lists(st.booleans(), min_size=1, max_size=5), prices, prices, prices)
@settings(max_examples=120)
def test_with_the_same_past_a_fuller_host_never_takes_less(
    fleet: tuple[HostView, list[SandboxView]],
    seconds: int,
    busy: list[bool],
    before: float,
    one: float,
    other: float,
) -> None:
    memory, views = warmed(fleet[1], at_price(before, overcommit=2.0), seconds, busy)
    low, high = sorted((one, other))
    decisions: list[Decision] = [
        Ballonet().decide(at_price(price, at_s=float(seconds), overcommit=2.0), views, memory)
        for price in (low, high)
    ]
    for less, more in zip(decisions[0].verdicts, decisions[1].verdicts, strict=True):
        assert less.trim_mib <= more.trim_mib
    # Targets that are off by a little stay, so that sums are compared and not each target.
    sums = [sum(view.target_mib for view in retargeted(views, decision)) for decision in decisions]
    assert sums[0] >= sums[1] - sum(room_band_mib(view.ceiling_mib) for view in views)


def test_a_guest_at_work_keeps_its_caches_while_there_is_plenty_and_loses_them_at_the_reserve() -> None:
    reader = sandbox(guest_ram_mib=720, guest_caches_mib=420, guest_available_mib=724, guest_free_mib=304)

    def dropped(price: float, seconds: int = 60) -> list[tuple[int, int]]:
        policy, memory, asked = Ballonet(), None, []
        for second in range(seconds):
            view = works(reader, float(second))
            decision = policy.decide(at_price(price, at_s=float(second)), [view], memory)
            memory = decision.memory
            asked.append((second, decision.verdicts[0].trim_mib))
        return [(second, mib) for second, mib in asked if mib]

    assert dropped(0.0) == []
    # A quarter of them after four times as long.
    assert dropped(0.5)[0] == (5, 105)
    assert dropped(1.0)[0] == (2, 420)


def test_an_idle_guest_drops_its_caches_gently_while_there_is_plenty_and_is_left_alone_for_a_while_then() -> (
    None
):
    policy, memory = Ballonet(), None
    asked = {}
    for second in range(40):
        view = rests(
            sandbox(guest_ram_mib=720, guest_caches_mib=420, guest_free_mib=304, guest_inactive_mib=300),
            second,
        )
        decision = policy.decide(at_price(0.0, at_s=float(second)), [view], memory)
        memory = decision.memory
        if decision.verdicts[0].trim_mib:
            asked[second] = decision.verdicts[0]
    first, second, *_ = asked
    assert first >= QUIET_S
    assert (asked[first].trim_mib, asked[first].gentle, asked[first].target_mib) == (300, True, None)
    # It did not drop them. The balloon takes nothing for that, and the next request comes later.
    assert second - first >= 12
    assert "quiet for" in asked[first].reason and "price 0.00" in asked[first].reason


def test_an_idle_guest_that_holds_freed_memory_is_shrunk_until_it_goes_to_work() -> None:
    policy, memory = Ballonet(), None
    view = sandbox(guest_ram_mib=1000, guest_caches_mib=20, guest_free_mib=704)
    targets = []
    for second in range(60):
        view = works(view, second) if second >= 30 else rests(view, second)
        decision = policy.decide(at_price(0.0, at_s=float(second)), [view], memory)
        memory = decision.memory
        view = retargeted([view], decision)[0]
        targets.append(view.target_mib)
    assert targets[29] < 1024
    assert min(targets[31:]) == targets[30]


def test_targets_that_guests_at_work_do_not_fill_keep_no_other_guest_from_growing_while_there_is_plenty() -> (
    None
):
    # Their targets are all that may be promised.
    holders = [sandbox(f"holder-{n}", guest_ram_mib=400) for n in range(4)]
    needy = sandbox("needy", target_mib=300, actual_mib=300, guest_available_mib=40, guest_ram_mib=300)
    tick = host(total_mib=4000, available_mib=1900, reserve_mib=200)
    views = [works(view, 0.0) for view in [*holders, needy]]
    assert tick.price == 0 and sum(view.target_mib for view in views) > (promisable_mib(tick, views) or 0)
    memory = Ballonet().decide(tick, views, None).memory
    seen = remember(tick, views, None, Ballonet().decide(tick, views, None))
    later = [works(view, 1.0) for view in views]
    later[-1] = later[-1]._replace(pressure_some_us=60_000)
    decision = Ballonet().decide(tick._replace(at_s=1.0), later, memory)
    assert [verdict.target_mib for verdict in decision.verdicts] == [None] * 4 + [1024]
    assert check_decision(tick._replace(at_s=1.0), later, decision, seen) == []
    full = tick._replace(available_mib=200)
    kept = {view.name: view.least_mib for view in later}
    assert promise_limit_mib(full, later, kept) == promisable_mib(full, later)
