"""The checks of decisions: each rule is broken on purpose and must be noticed; impossible inputs are recognized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ballonet.pilot.checks import RULES, Violation, check_decision, problem_of, remember
from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.simulator.scenarios import host_for
from ballonet.pilot.simulator.simulation import simulate
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.trace import Point, Trace
from tests.unit.policy_inputs import host, sandbox

Fault = Callable[[HostView, Sequence[SandboxView], list[Verdict]], list[Verdict]]


class Broken(Ballonet):
    """Our policy with a fault built in."""

    fault: Fault

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        decision = super().decide(host, sandboxes, memory)
        return decision._replace(verdicts=type(self).fault(host, sandboxes, list(decision.verdicts)))


def forgets_one(host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]) -> list[Verdict]:
    return verdicts[1:]


def says_no_reason(host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict._replace(reason="") for verdict in verdicts]


def goes_below_the_floor(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [verdicts[0]._replace(target_mib=views[0].least_mib - 1), *verdicts[1:]]


def goes_above_the_ceiling(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [verdicts[0]._replace(target_mib=views[0].ceiling_mib + 1), *verdicts[1:]]


def moves_the_driverless(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [
        verdict._replace(target_mib=view.ceiling_mib) if view.state == "no-driver" else verdict
        for view, verdict in zip(views, verdicts, strict=True)
    ]


def takes_from_the_needy(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    """Always gives back less than there was, as controllers do that follow the past."""
    return [
        verdict._replace(target_mib=max(view.least_mib, (view.actual_mib or 0) - 100))
        for view, verdict in zip(views, verdicts, strict=True)
    ]


def inflates_everything_at_once(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [
        verdict._replace(target_mib=view.least_mib) for view, verdict in zip(views, verdicts, strict=True)
    ]


def promises_everything(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [
        verdict._replace(target_mib=view.ceiling_mib) for view, verdict in zip(views, verdicts, strict=True)
    ]


def drops_caches_of_guests_at_work(
    host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]
) -> list[Verdict]:
    return [
        verdict._replace(trim_mib=view.guest_caches_mib or 0)
        for view, verdict in zip(views, verdicts, strict=True)
    ]


def pauses_everyone(host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict._replace(pause=True) for verdict in verdicts]


def violations(fault: Fault) -> list[Violation]:
    """What the checks say of our policy with ``fault``, over two minutes of four guests, one without a driver."""
    trace = Trace(
        [Point(0.0, 200.0, read_mib_s=30.0), Point(30.0, 200.0), Point(31.0, 1500.0), Point(60.0, 200.0)]
    )
    guests = [GuestSpec(f"s{n}", 2048, trace, 256, caches_mib=900) for n in range(4)]
    scenario = host_for("faults", "", guests, 120)
    broken = type("Faulty", (Broken,), {"fault": staticmethod(fault)})()

    class Driverless:
        """The last guest has no driver, and every policy is told so."""

        name, period_s = "driverless", 1.0

        def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
            seen = [*sandboxes[:-1], sandboxes[-1]._replace(state="no-driver")]
            decision: Decision = broken.decide(host, seen, memory[0] if memory else None)
            before = memory[1] if memory else None
            found.extend(check_decision(host, seen, decision, before))
            sound = [v for v in decision.verdicts if v.target_mib is not None]
            kept = remember(host, seen, before, decision)
            return decision._replace(verdicts=sound, memory=(decision.memory, kept))

    found: list[Violation] = []
    simulate(scenario, Driverless(), check=False)
    return found


def sound(host: HostView, views: Sequence[SandboxView], verdicts: list[Verdict]) -> list[Verdict]:
    return verdicts


def test_without_a_fault_no_rule_is_broken() -> None:
    assert violations(sound) == []


FAULTS: list[tuple[Fault, str]] = [
    (forgets_one, "verdict"),
    (says_no_reason, "verdict"),
    (goes_below_the_floor, "range"),
    (goes_above_the_ceiling, "range"),
    (moves_the_driverless, "problem"),
    (takes_from_the_needy, "pressure"),
    (drops_caches_of_guests_at_work, "price"),
    (inflates_everything_at_once, "step"),
    (promises_everything, "promise"),
    (pauses_everyone, "pause"),
]


@pytest.mark.parametrize(("fault", "rule"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_in_the_policy_makes_its_check_fail(fault: Fault, rule: str) -> None:
    assert rule in {violation.rule for violation in violations(fault)}


def test_each_rule_is_broken_by_a_fault() -> None:
    assert {rule for _, rule in FAULTS} == set(RULES)


def test_duplicate_verdicts_and_verdicts_for_unknown_sandboxes_are_noticed() -> None:
    stay = Verdict("a", None, "stays")
    decision = Decision([stay, stay, Verdict("unknown", None, "stays")], None)
    messages = [violation.message for violation in check_decision(host(), [sandbox()], decision)]
    assert messages == [
        "there is a verdict for unknown, which was not observed",
        "a sandbox has more than one verdict",
    ]


def test_no_target_may_change_while_available_memory_is_unknown() -> None:
    decision = Decision([Verdict("a", 900, "shrinks")], None)
    found = check_decision(host(available_mib=None), [sandbox()], decision)
    assert [violation.rule for violation in found] == ["problem"]


def test_a_promise_that_nobody_can_take_less_of_is_no_fault() -> None:
    views = [sandbox(str(n), reserve_mib=1024) for n in range(3)]
    decision = Decision([Verdict(view.name, None, "stays") for view in views], None)
    assert check_decision(host(available_mib=0), views, decision) == []


def test_a_sound_view_has_no_problem() -> None:
    assert problem_of(sandbox()) is None
    assert problem_of(sandbox(guest_total_mib=None, guest_caches_mib=None, guest_ram_mib=None)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": "its socket did not answer for 2 s"}, "did not answer"),
        ({"actual_mib": None}, "the engine does not report its actual memory"),
        ({"guest_available_mib": None}, "the guest does not report its available memory"),
        ({"guest_age_s": None}, "the age of the guest's statistics is unknown"),
        ({"guest_age_s": 16.0}, "16 s old"),
        ({"guest_available_mib": -1}, "guest_available_mib is -1"),
        ({"actual_mib": -5}, "actual_mib is -5"),
        ({"major_faults": -1}, "major_faults is -1"),
        ({"actual_mib": 1025}, "above its ceiling, 1024: the guest reports wrong values"),
        ({"guest_available_mib": 1001}, "more than the guest's total of 1000"),
        ({"guest_free_mib": 5000}, "more than the guest's total of 1000"),
        ({"guest_caches_mib": 5000}, "more than the guest's total of 1000"),
        ({"guest_total_mib": 1100}, "more than its ceiling of 1024"),
        ({"floor_mib": 2000}, "floor, 2000 MiB, is above its ceiling"),
        ({"target_mib": 2000}, "target, 2000 MiB, is above its ceiling"),
    ],
)
def test_an_impossible_or_missing_input_is_named(changes: dict[str, Any], words: str) -> None:
    problem = problem_of(sandbox(**changes))
    assert problem is not None and words in problem
