"""The arithmetic of the fleet benchmark: pairs, intervals, sizes and goals."""

from __future__ import annotations

from random import Random

import pytest
from bench.fleet_plan import budget_mib, members
from bench.fleet_report import goals
from bench.fleet_work import TIMELINES
from bench.paired import compare, interval, kind_of, order, pairs_of

Jobs = dict[str, float]


def jobs(factor: float, *, rounds: int = 3, noise: float = 0.0, seed: int = 1) -> list[dict[str, Jobs]]:
    """Rounds in which ``ballonet`` takes ``factor`` times as long as ``static``, on a host of changing speed."""
    random = Random(seed)
    made = []
    for number in range(rounds):
        speed = 1 + 0.3 * number
        base = {f"g-{n}/0 {'build' if n % 2 else 'numbers'}": speed * (2 + n) for n in range(12)}
        ours = {job: factor * took * (1 + random.uniform(-noise, noise)) for job, took in base.items()}
        made.append({"static": base, "reporting": dict(base), "ballonet": ours})
    return made


def test_a_slowdown_is_found_exactly_however_the_hosts_speed_changes_between_rounds() -> None:
    found = compare(jobs(1.2), "ballonet", "static")
    assert found is not None
    assert (found.ratio, found.low, found.high) == pytest.approx((1.2, 1.2, 1.2))
    assert (found.pairs, found.unpaired) == (36, 0)
    assert found.kinds == pytest.approx({"build": 1.2, "numbers": 1.2})


def test_the_interval_holds_the_truth_and_becomes_narrower_with_more_rounds() -> None:
    few = compare(jobs(1.1, noise=0.2), "ballonet", "static")
    many = compare(jobs(1.1, noise=0.2, rounds=20), "ballonet", "static")
    assert few is not None and many is not None
    assert few.low <= 1.1 <= few.high
    assert many.low <= 1.1 <= many.high
    assert many.high - many.low < (few.high - few.low) / 1.5
    assert compare(jobs(1.1, noise=0.2), "ballonet", "static") == few


def test_rounds_that_disagree_widen_the_interval_however_many_jobs_they_have() -> None:
    agree = [[(1.0, 1.0)] * 50, [(1.0, 1.0)] * 50]
    disagree = [[(0.8, 1.0)] * 50, [(1.2, 1.0)] * 50]
    assert interval(agree, 1) == (1.0, 1.0)
    low, high = interval(disagree, 1)
    assert (low, high) == pytest.approx((0.8, 1.2))


def test_jobs_of_only_one_arm_are_counted_and_left_out() -> None:
    rounds = jobs(1.0, rounds=1)
    rounds[0]["ballonet"]["g-99/0 build"] = 1000.0
    del rounds[0]["ballonet"]["g-0/0 numbers"]
    found = compare(rounds, "ballonet", "static")
    assert found is not None
    assert (found.ratio, found.pairs, found.unpaired) == (1.0, 11, 2)
    assert "g-99/0 build" not in pairs_of(rounds[0], "ballonet", "static")
    assert compare([{"a": {}, "b": {"x": 1.0}}], "a", "b") is None


def test_a_job_is_of_the_kind_at_its_end() -> None:
    assert kind_of("build-1-0/2 read_once") == "read_once"


def test_the_order_of_the_arms_is_reversed_in_every_other_round() -> None:
    assert [order("abc", number) for number in range(3)] == [list("abc"), list("cba"), list("abc")]


def test_four_guests_are_one_of_each_kind_and_seven_are_all_roles() -> None:
    assert [member.role.split("-")[0] for member in members(4)] == ["build", "numbers", "reader", "idle"]
    assert {member.role for member in members(7)} == set(TIMELINES)
    many = members(56)
    assert len({member.name for member in many}) == 56
    assert many[-1].delay_s == 21.0
    assert budget_mib(56) == 56 * (460.8 + 145) // 1


def test_a_goal_is_missed_only_if_the_whole_interval_is_above_it() -> None:
    figures = {"footprint GiB·min": 1.0, "peak MiB": 1.0, "oom kills": 0.0}
    half = {name: value / 2 for name, value in figures.items()}
    summaries = [
        {"static": {**figures, "footprint GiB·min": 1.5}, "reporting": figures, "ballonet": half}
    ] * 3
    arms = ("static", "reporting", "ballonet")

    def verdicts(rounds: list[dict[str, Jobs]]) -> list[str]:
        return [line.split(": ")[2].split(",")[0] for line in goals(summaries, rounds, arms)]

    assert verdicts(jobs(0.9)) == ["met"] * 6
    assert verdicts(jobs(1.2))[:2] == ["missed", "missed"]
    assert verdicts(jobs(1.03, noise=0.2))[0] == "within the interval"
    assert goals(summaries, jobs(1.0), ("static", "ballonet")) == []
