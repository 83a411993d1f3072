"""The eight situations of squeezed's tests, with each of its five guest models, under the default policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict, promisable_mib
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.policies.squeezed import Squeezed
from ballonet.pilot.simulator.behaviour import Kind
from ballonet.pilot.simulator.simulation import ENGINE_MIB, Outcome, Scenario, simulate
from ballonet.pilot.simulator.squeezed_scenarios import SITUATIONS, lowest_mib, situation_scenario
from ballonet.pilot.simulator.trace import Point, Trace

pytestmark = pytest.mark.long

#: What a guest keeps beside what it was asked for: its watermark, and what int() cuts.
TOLERANCE_MIB = 12
#: What sandboxes that do not follow have told, when the run ends.
MODELS = [None, *Kind]


class End(NamedTuple):
    outcome: Outcome
    host: HostView
    views: Sequence[SandboxView]
    decision: Decision


def run(scenario: Scenario, policy: object = None) -> End:
    last: list[tuple[HostView, Sequence[SandboxView], Decision]] = []

    def watch(host: HostView, views: Sequence[SandboxView], decision: Decision) -> None:
        last[:] = [(host, views, decision)]

    outcome = simulate(scenario, policy or Ballonet(), watch=watch)  # type: ignore[arg-type]
    return End(outcome, *last[0])


def had(scenario: Scenario) -> int:
    """The sum of what all guests may have once the required memory is free."""
    return scenario.host_mib - ENGINE_MIB * len(scenario.guests) - scenario.reserve_mib


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind or "its-own")
@pytest.mark.parametrize("letter", SITUATIONS)
def test_what_can_be_freed_is_freed_and_what_cannot_is_said(letter: str, kind: Kind | None) -> None:
    scenario = situation_scenario(letter, kind)
    end = run(scenario)
    assert end.outcome.violations == []
    assert end.outcome.guest_oom_kills == 0
    for view in end.views:
        assert view.actual_mib is not None and view.actual_mib >= view.floor_mib - 1
    together = sum(view.actual_mib or 0 for view in end.views)
    lowest = sum(lowest_mib(spec) for spec in scenario.guests)
    if lowest <= had(scenario):
        assert together <= had(scenario) + TOLERANCE_MIB * len(end.views)
    else:
        # Everyone who can give has given all that it can, and the policy says that it is not enough.
        assert together <= lowest + TOLERANCE_MIB * len(end.views)
        assert end.decision.notes


def test_the_other_guest_takes_up_the_slack_of_one_that_cannot_grow() -> None:
    scenario = situation_scenario("h")
    wants = [Trace([Point(0.0, 1000.0), Point(20.0, most), Point(200.0, most)]) for most in (1300.0, 1650.0)]
    guests = [
        replace(spec, trace=trace, caches_mib=0.0) for spec, trace in zip(scenario.guests, wants, strict=True)
    ]
    end = run(replace(scenario, guests=guests))
    assert end.views[0].target_mib > 1500
    assert end.views[0].actual_mib in range(1490, 1501)
    assert (end.views[1].actual_mib or 0) > 1650 + 100
    assert end.decision.verdicts[0].target_mib is None


def test_a_stuck_guest_is_left_alone_and_the_verdict_says_so() -> None:
    end = run(situation_scenario("e"))
    stuck = end.decision.verdicts[0]
    assert stuck.target_mib is None
    assert "does not follow: guest-refused" in stuck.reason


class CountsOnTheStuck:
    """A fault: it goes by targets alone, as if they were reached the moment they are set (squeezed's scenario f)."""

    name = "counts-on-the-stuck"
    period_s = 1.0

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: object) -> Decision:
        total = (promisable_mib(host, sandboxes) or 0) - sum(view.least_mib for view in sandboxes)
        room = sum(view.ceiling_mib - view.least_mib for view in sandboxes)
        fair = [view.least_mib + total * (view.ceiling_mib - view.least_mib) // room for view in sandboxes]
        verdicts = [
            Verdict(view.name, None if target == view.target_mib else target, "by targets")
            for view, target in zip(sandboxes, fair, strict=True)
        ]
        return Decision(verdicts, None)


def test_a_policy_that_counts_on_what_a_stuck_guest_should_give_is_caught() -> None:
    end = run(situation_scenario("f"), CountsOnTheStuck())
    assert "promise" in {violation.rule for violation in end.outcome.violations}


class TakesInexactForStuck(Ballonet):
    """A fault: a guest that is not exactly at its target counts as stuck (squeezed's scenario g)."""

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: object) -> Decision:
        seen = [
            view if view.actual_mib == view.target_mib else view._replace(state="failed")
            for view in sandboxes
        ]
        return super().decide(host, seen, memory)  # type: ignore[arg-type]


def test_a_policy_that_takes_every_balloon_on_its_way_for_a_stuck_one_frees_too_little() -> None:
    faulty, sound = run(situation_scenario("g"), TakesInexactForStuck()), run(situation_scenario("g"))
    assert sound.outcome.footprint_gib_min < 0.97 * faulty.outcome.footprint_gib_min
    assert all("left alone" in verdict.reason for verdict in faulty.decision.verdicts)


@pytest.mark.parametrize("letter", ["a", "b", "e", "h"])
def test_the_rule_of_squeezed_itself_succeeds_where_its_own_tests_say_so(letter: str) -> None:
    scenario = situation_scenario(letter)
    end = run(scenario, Squeezed())
    assert sum(view.actual_mib or 0 for view in end.views) <= had(scenario) + TOLERANCE_MIB * 2


@pytest.mark.parametrize("letter", ["c", "d"])
def test_the_rule_of_squeezed_itself_fails_where_its_own_tests_say_so(letter: str) -> None:
    scenario = situation_scenario(letter)
    end = run(scenario, Squeezed())
    assert sum(view.actual_mib or 0 for view in end.views) > had(scenario) + TOLERANCE_MIB * 2
