"""Which sandbox the autopilot pauses, and when it pauses none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.pilot.checks import check_decision, remember
from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.pausing import AGAIN_S, APART_S, PAUSE_PRICE, PAUSE_QUIET_S, Pauses, choose, is_full
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.policies.catalog import POLICIES, make_policy
from ballonet.pilot.simulator.scenarios import SCENARIOS
from ballonet.pilot.simulator.simulation import simulate
from tests.unit.policy_inputs import host, sandbox

#: With 8192 MiB, of which 400 are reserved: at 809 MiB the price is 0.8.
FULL, NOT_QUITE = 700, 1000


def idle(name: str = "a", **changes: Any) -> SandboxView:
    return sandbox(name, pausable=True, engine_cpu_s=5.0, engine_io_mib=10, refault_mib=0, **changes)


def test_the_host_is_full_from_a_certain_price_on() -> None:
    assert is_full(host(available_mib=FULL))
    assert not is_full(host(available_mib=NOT_QUITE))
    assert not is_full(host(available_mib=None))
    price = host(available_mib=NOT_QUITE).price
    assert price is not None
    assert price < PAUSE_PRICE


@pytest.mark.parametrize(
    ("view", "quiet_s", "available_mib"),
    [
        (sandbox(), 500.0, FULL),
        (idle(), None, FULL),
        (idle(), PAUSE_QUIET_S - 1, FULL),
        (idle(problem="it does not answer"), 500.0, FULL),
        (idle(), 500.0, NOT_QUITE),
        (idle(), 500.0, None),
    ],
    ids=["not allowed", "at work", "just quiet", "a problem", "room", "unknown"],
)
def test_it_is_not_paused(view: SandboxView, quiet_s: float | None, available_mib: int | None) -> None:
    name, _ = choose(host(available_mib=available_mib), [view], {"a": quiet_s}, Pauses())
    assert name is None


def test_the_idlest_is_paused_one_after_the_other_and_not_soon_again() -> None:
    views = [idle("a"), idle("b"), idle("c")]
    quiet: dict[str, float | None] = {"a": 100.0, "b": 300.0, "c": None}
    full = host(at_s=1000.0, available_mib=FULL)
    name, pauses = choose(full, views, quiet, Pauses())
    assert name == "b"
    # Its request may have been refused; the host's figures do not show the first one yet.
    name, pauses = choose(full._replace(at_s=1000.0 + APART_S - 1), views, quiet, pauses)
    assert name is None
    name, pauses = choose(full._replace(at_s=1000.0 + APART_S), views, quiet, pauses)
    assert name == "a"
    name, pauses = choose(full._replace(at_s=1000.0 + AGAIN_S - 1), views, quiet, pauses)
    assert name is None
    name, pauses = choose(full._replace(at_s=1000.0 + AGAIN_S), views, quiet, pauses)
    assert name == "b"
    _, pauses = choose(full._replace(at_s=1000.0 + AGAIN_S + 1), [idle("c")], quiet, pauses)
    assert pauses.requested_s == {}, "those that are gone are forgotten"


@given(
    silent=st.integers(0, 3),
    first=st.lists(st.sampled_from([0.1, 0.3, 0.49, 0.5, 1.0]), min_size=6, max_size=6),
    period=st.sampled_from([0.3, 1.0, 3.7]),
    busy=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.2]), min_size=6, max_size=6),
)
def test_policy_and_checks_agree_how_long_a_guest_is_quiet_whatever_the_ticks(
    silent: int, first: list[float], period: float, busy: list[float]
) -> None:
    """The first ticks may follow each other closely, and the sandbox may not answer in some of them."""
    memory = seen = None
    at_s = cpu_s = 0.0
    paused = False
    gaps = [*first, *([period] * int(PAUSE_QUIET_S / period + 3))]
    for number, gap in enumerate(gaps):
        at_s, cpu_s = at_s + gap, cpu_s + (busy[number] if number < len(busy) else 0.0)
        view = idle()._replace(engine_cpu_s=cpu_s)
        if number < silent:
            view = view._replace(problem="it has not answered yet", engine_cpu_s=None, engine_io_mib=None)
        full = host(at_s=at_s, available_mib=FULL)
        decision = Ballonet().decide(full, [view], memory)
        broken = [one for one in check_decision(full, [view], decision, seen) if one.rule == "pause"]
        assert not broken, broken
        paused = paused or decision.verdicts[0].pause
        memory, seen = decision.memory, remember(full, [view], seen, decision)
    assert paused


def ticks(policy: Any, views: list[SandboxView], hosts: list[HostView]) -> list[tuple[Decision, list[Any]]]:
    """The decisions, with the rules that each breaks."""
    memory = seen = None
    found = []
    for at in hosts:
        decision = policy.decide(at, views, memory)
        found.append((decision, check_decision(at, views, decision, seen)))
        memory, seen = decision.memory, remember(at, views, seen, decision)
    return found


def test_the_policy_pauses_a_quiet_guest_with_its_reason_and_keeps_the_rules() -> None:
    views = [idle("quiet"), sandbox("other", engine_cpu_s=5.0, engine_io_mib=10)]
    hosts = [host(float(at), available_mib=FULL) for at in range(70)]
    found = ticks(Ballonet(), views, hosts)
    paused = [(at, v) for at, (decision, _) in enumerate(found) for v in decision.verdicts if v.pause]
    assert [(at, verdict.sandbox) for at, verdict in paused] == [(int(PAUSE_QUIET_S), "quiet")]
    verdict = paused[0][1]
    assert "the host is nearly full (price 0.85, 700 MiB available)" in verdict.reason
    assert "quiet for 60 s" in verdict.reason
    assert [broken for _, broken in found if broken] == []


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "ballonet"])
def test_no_other_policy_pauses(policy: str) -> None:
    hosts = [host(float(at), available_mib=FULL) for at in range(70)]
    for decision, _ in ticks(make_policy(policy), [idle()], hosts):
        assert not any(verdict.pause for verdict in decision.verdicts)


@pytest.mark.parametrize(
    ("views", "available_mib", "words"),
    [
        ([sandbox(engine_cpu_s=5.0, engine_io_mib=10)], FULL, "it does not allow it"),
        ([idle()], NOT_QUITE, "the host is not full"),
        ([idle(guest_age_s=100.0)], FULL, "s old"),
        ([idle("a"), idle("b")], FULL, "more than one"),
    ],
)
def test_a_pause_against_the_rules_is_noticed(
    views: list[SandboxView], available_mib: int, words: str
) -> None:
    seen = None
    for at in range(80):
        seen = remember(host(float(at), available_mib=available_mib), views, seen)
    verdicts = [Verdict(view.name, None, "paused", pause=True) for view in views]
    found = check_decision(host(80.0, available_mib=available_mib), views, Decision(verdicts, None), seen)
    (violation,) = [each for each in found if each.rule == "pause"]
    assert words in violation.message


def test_a_pause_of_a_guest_at_work_is_noticed() -> None:
    seen = None
    for at in range(80):
        seen = remember(host(float(at), available_mib=FULL), [idle()._replace(engine_cpu_s=float(at))], seen)
    decision = Decision([Verdict("a", None, "paused", pause=True)], None)
    at_work = idle()._replace(engine_cpu_s=81.0)
    found = check_decision(host(80.0, available_mib=FULL), [at_work], decision, seen)
    (violation,) = [each for each in found if each.rule == "pause"]
    assert "quiet for 0 s, less than 60" in violation.message


@pytest.mark.long
def test_pausing_keeps_a_modelled_host_from_running_out_and_costs_the_resumed_guests_time() -> None:
    scenario = SCENARIOS["sessions"](1)
    never = replace(scenario, guests=[replace(guest, pausable=False) for guest in scenario.guests])
    paused, kept = simulate(scenario, Ballonet()), simulate(never, Ballonet())
    assert kept.pauses == 0
    assert kept.host_oom > 0
    assert paused.pauses > 5
    assert paused.host_oom == 0
    assert paused.footprint_gib_min < kept.footprint_gib_min
    assert paused.slowdown > kept.slowdown, "a resume takes time"
    assert paused.violations == kept.violations == []
