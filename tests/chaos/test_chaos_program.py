"""Tests of the chaos program: a seed replays, wrong results are detected, and every planned step exists."""

from __future__ import annotations

import asyncio
import io
from itertools import islice
from typing import Any

import pytest

from tests.chaos import host_steps, plan
from tests.chaos.log import KEPT, Log
from tests.chaos.model import Box, State, unclean, wrong_balloon, wrong_reply
from tests.chaos.program import PARTS, parse, replay
from tests.chaos.regressions import REGRESSIONS
from tests.chaos.steps import STEPS
from tests.chaos.testbed import StepLock


def test_a_seed_decides_all_that_a_worker_does() -> None:
    first, again = (list(islice(plan.steps(7, 1, 2), 200)) for _ in range(2))
    assert first == again
    assert first != list(islice(plan.steps(8, 1, 2), 200))
    assert first != list(islice(plan.steps(7, 2, 2), 200))
    assert list(islice(plan.plan_host_steps(7), 50)) == list(islice(plan.plan_host_steps(7), 50))


def test_each_step_fits_the_state_that_those_before_it_are_meant_to_leave() -> None:
    states = [State.ABSENT] * 2
    seen = set()
    for step in islice(plan.steps(1, 0, 2), 3000):
        assert states[step.slot] in step.kind.needs
        states[step.slot] = step.kind.leaves or states[step.slot]
        seen.add(step.kind.name)
    assert seen == {kind.name for kind in plan.KINDS}


def test_every_kind_of_step_can_be_done_and_nothing_else_can() -> None:
    assert {kind.name for kind in plan.KINDS} == set(STEPS)
    assert {kind.name for kind in plan.HOST_KINDS} == set(host_steps.HOST_STEPS)
    assert set(host_steps.HOST_STEPS) >= host_steps.ALONE


def test_a_group_that_is_left_out_never_comes() -> None:
    without = set(plan.GROUPS) - plan.NEEDED
    assert {step.kind.group for step in islice(plan.steps(3, 0, 1, without), 300)} == {"life"}
    assert list(plan.plan_host_steps(3, without)) == []
    assert not set(PARTS) & set(plan.GROUPS)


@pytest.mark.parametrize(("slots", "workers", "shares"), [(4, 3, [2, 1, 1]), (5, 5, [1] * 5), (5, 2, [3, 2])])
def test_sandboxes_are_shared_among_workers(slots: int, workers: int, shares: list[int]) -> None:
    assert plan.share(slots, workers) == shares


@pytest.mark.parametrize(
    ("status", "stderr", "why"),
    [
        (0, "", None),
        (2, "ballonet: error: there is no sandbox named 'x'\n  hint: …", None),
        (0, "Traceback (most recent call last):\n", "it shows a defect"),
        (125, "ballonet: internal error: KeyError: 'x'\n", "it shows a defect"),
        (0, "Task exception was never retrieved\n", "it shows a defect"),
        (125, "something went wrong\n", "without an error message"),
        (1, "", "without an error message"),
        (-11, "", "signal 11"),
    ],
)
def test_an_end_that_is_not_clean_is_noticed(status: int, stderr: str, why: str | None) -> None:
    found = unclean(status, stderr, own_status=True)
    assert found is None if why is None else found is not None and why in found


def test_a_guests_own_status_needs_no_error_of_ours() -> None:
    assert unclean(77, "", own_status=False) is None


_REPLY = {
    "requested_mib": 128,
    "target_mib": 128,
    "actual_mib": 128,
    "state": "applied",
    "outcome": "settled",
}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"actual_mib": 130}, False),
        ({"actual_mib": 150, "state": "guest-floor"}, True),
        ({"actual_mib": 150, "outcome": "superseded"}, True),
        ({"requested_mib": 100}, False),
        ({"target_mib": 140, "actual_mib": 140}, False),
    ],
)
def test_a_reply_that_is_wrong_is_noticed(changes: dict[str, Any], right: bool) -> None:
    assert (wrong_reply(_REPLY | changes, 128, Box("x", relief=False)) is None) == right


@pytest.mark.parametrize(
    ("shown", "relief", "piloted", "right"),
    [
        (128, False, False, True),
        (140, False, False, False),
        (140, True, False, True),
        (100, True, False, False),
        (100, False, True, True),
    ],
)
def test_a_target_that_moved_by_itself_is_noticed(
    shown: int, relief: bool, piloted: bool, right: bool
) -> None:
    page = {"target_mib": shown, "actual_mib": shown, "state": "applied"}
    assert (wrong_balloon(page, 128, Box("x", relief=relief, piloted=piloted)) is None) == right


def test_the_log_keeps_its_last_lines_and_what_is_under_way() -> None:
    out, file = io.StringIO(), io.StringIO()
    log = Log(out, file)
    for number in range(KEPT + 5):
        log.begin("w0", f"step{number}", "box")
        log.end("w0", f"step{number}", "box", "ok", 0.1)
    log.begin("w0", "hangs", "box")
    assert len(log.last) == KEPT
    assert "step5 " in log.last[0]
    assert log.under_way["w0"].startswith("hangs box")
    assert out.getvalue() == file.getvalue()


async def test_what_is_done_alone_waits_for_the_others_and_they_for_it() -> None:
    gate, order = StepLock(), []
    begun = asyncio.Event()

    async def worker(name: str) -> None:
        async with gate.shared():
            order.append(f"{name} in")
            begun.set()
            await asyncio.sleep(0)
            order.append(f"{name} out")

    async def lonely() -> None:
        await begun.wait()
        async with gate.exclusive():
            order.append("alone in")
            await asyncio.sleep(0)
            order.append("alone out")

    async with asyncio.timeout(10):
        await asyncio.gather(worker("a"), lonely(), worker("b"))
        await worker("c")
    at = order.index("alone in")
    assert order[at + 1] == "alone out"
    assert order[-2:] == ["c in", "c out"]


def test_a_failure_says_how_to_do_it_again() -> None:
    options = parse(["--seed", "7", "--seconds", "20", "--only", "exec,copy", "--freeze", "5"])
    again = parse(replay(options).split()[3:])
    assert vars(again) | {"only": ""} == vars(options) | {"only": ""}
    assert "--seed" in replay(parse([]))


@pytest.mark.parametrize(
    "words", [["--without", "nonsense"], ["--script", "nonsense"], ["--without", "life"]]
)
def test_unknown_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert "nonsense" in (said := capsys.readouterr().err) or "life" in said


def test_what_once_went_wrong_can_be_done_again() -> None:
    for known in REGRESSIONS:
        assert parse(known.words).script
