"""The autopilot's loop over real control sockets with scripted guests. Real guests: tests/vm/test_pilot.py."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ballonet.base.errors import StreamError
from ballonet.cli.main import main as cli
from ballonet.cli.pilot import _opening
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.pilot import fleet, lock, sandbox_client, state
from ballonet.pilot.journal import read_decisions
from ballonet.pilot.loop import Pilot, Settings, Tick
from ballonet.pilot.model import Decision, HostView, SandboxView, promisable_mib
from tests.unit.own_host import own_directories
from tests.unit.pilot_fleet import Fixed, Guest, running


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_directories(tmp_path, monkeypatch)


async def one_tick(policy: Fixed, **settings: object) -> Tick:
    ticks: list[Tick] = []
    pilot = Pilot(policy, Settings(**settings), on_tick=ticks.append)  # type: ignore[arg-type]
    await pilot.run(ticks=1)
    return ticks[0]


async def test_it_sees_all_asks_the_policy_and_moves_what_it_says(tmp_path: Path) -> None:
    guests = {"a": Guest(), "b": Guest()}
    policy = Fixed({"a": 400})
    async with running(tmp_path, guests):
        tick = await one_tick(policy)
    assert guests["a"].targets == [400]
    assert guests["a"].forced == [False]
    assert guests["b"].targets == []
    assert tick.moved == {"a": 400}
    host, views, memory = policy.seen[0]
    assert memory is None
    assert host.total_mib > 0
    assert (views["a"].ceiling_mib, views["a"].floor_mib, views["a"].guest_available_mib) == (1024, 256, 300)
    assert views["a"].problem is None


class Pausing(Fixed):
    """Pauses one sandbox, whether that is allowed or not."""

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: object) -> Decision:
        decision = super().decide(host, sandboxes, memory)
        verdicts = [verdict._replace(pause=verdict.sandbox == "a") for verdict in decision.verdicts]
        return decision._replace(verdicts=verdicts)


async def test_a_policy_that_pauses_a_sandbox_against_the_rules_is_not_obeyed(tmp_path: Path) -> None:
    asked: list[str] = []
    async with running(tmp_path, {"a": Guest(), "b": Guest()}):
        pilot = Pilot(Pausing({"a": 400}), Settings(), on_tick=lambda tick: None)
        pilot._fleet.pause = asked.append  # type: ignore[method-assign, assignment]
        await pilot.run(ticks=1)
    assert asked == []
    assert "is paused although it does not allow it" in read_decisions(lock.pilot_dir(), "a", 1)[0]["reason"]


async def test_a_budget_is_the_host_that_the_policy_sees(tmp_path: Path) -> None:
    policy = Fixed({})
    async with running(tmp_path, {"a": Guest(resident_mib=400), "b": Guest(resident_mib=500)}):
        await one_tick(policy, budget_mib=2000, reserve_mib=100)
    host = policy.seen[0][0]
    assert (host.total_mib, host.available_mib, host.reserve_mib) == (2000, 1100, 100)


async def test_its_first_line_says_what_it_manages_within_which_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = {"box": Guest(resident_mib=400)}
    guests["box"].change(engine_cpu_s=3.0)
    async with running(tmp_path, guests):
        tick = await one_tick(Fixed({}), budget_mib=2000, reserve_mib=100, only=("b*",))
    line = _opening("fixed", Settings(only=("b*",), budget_mib=2000), tick)
    assert line.startswith(
        "policy fixed manages 1 sandbox (box) whose names match b*, with a budget of 2000 MiB, 100 of"
    )
    assert line.endswith("1600 MiB available, price 0.00: guests at work lose nothing")
    assert cli(["pilot", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last"]["price"] == 0
    assert cli(["pilot", "explain", "box", "--json"]) == 0
    inputs = json.loads(capsys.readouterr().out)["inputs"]
    assert (inputs["host_price"], inputs["engine_cpu_s"]) == (0, 3.0)


async def test_a_budget_that_is_overdrawn_shows_by_how_much(tmp_path: Path) -> None:
    policy = Fixed({})
    async with running(tmp_path, {"a": Guest(resident_mib=500)}):
        await one_tick(policy, budget_mib=400, reserve_mib=0)
    host, views, _ = policy.seen[0]
    assert host.available_mib == -100
    assert promisable_mib(host, list(views.values())) == 310  # 90 of its 500 MiB are the engine's own


async def test_one_stuck_socket_delays_nobody_after_the_first_tick(tmp_path: Path) -> None:
    guests = {"stuck": Guest(), "well": Guest()}
    guests["stuck"].stall = asyncio.Event()
    policy = Fixed({"well": 400, "stuck": 300}, period_s=0.05)
    took: list[float] = []
    async with running(tmp_path, guests):
        pilot = Pilot(policy, Settings())
        for _ in range(3):
            began = time.monotonic()
            tick = await pilot.tick()
            took.append(time.monotonic() - began)
        problems = {view.name: view.problem for view in tick.sandboxes}
        await pilot.close()
    assert problems == {"stuck": "it has not answered yet", "well": None}
    assert guests["well"].targets == [400] * 3  # a target that is there already may be meant, too
    assert guests["stuck"].targets == []
    # Not a speed: the first tick waits for the stuck one until its deadline, later ones do not wait for it at all.
    assert took[1] < fleet.TICK_DEADLINE_S
    assert took[2] < fleet.TICK_DEADLINE_S


async def test_a_sandbox_that_is_slow_to_answer_is_managed_by_its_last_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    guest.change(engine_cpu_s=3.0, engine_io_mib=7)
    monkeypatch.setattr(fleet, "TICK_DEADLINE_S", 0.01)
    async with running(tmp_path, {"slow": guest}), asyncio.timeout(60):
        pilot = Pilot(Fixed({}), Settings())
        with caplog.at_level(logging.WARNING):
            while (first := (await pilot.tick()).sandboxes[0]).problem is not None:
                pass
            caplog.clear()
            guest.stall = asyncio.Event()
            monkeypatch.setattr(fleet, "tasks_per_processor", lambda: 1e6)
            late = [(await pilot.tick()).sandboxes[0] for _ in range(3)][-1]
            monkeypatch.setattr(fleet, "tasks_per_processor", lambda: 1.0)
            monkeypatch.setattr(sandbox_client, "ANSWER_S", 0.0)
            gone = [(await pilot.tick()).sandboxes[0] for _ in range(3)][-1]
            guest.stall.set()
            monkeypatch.setattr(sandbox_client, "ANSWER_S", 2.0)
            while (await pilot.tick()).sandboxes[0].problem is not None:
                pass
        await pilot.close()
    assert first.engine_cpu_s == 3.0
    # Its old processor time does not make it look idle.
    assert (late.problem, late.guest_available_mib, late.engine_cpu_s) == (None, 300, None)
    assert "has not answered for" in str(gone.problem)
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "sandbox slow is left alone",
        "sandbox slow is managed again",
    ]


async def test_a_message_is_not_repeated_when_only_its_numbers_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Noisy(Fixed):
        def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: object) -> Decision:
            decision = super().decide(host, sandboxes, memory)
            number = len(self.seen)
            return decision._replace(notes=[f"{number} MiB too much", f"{number} sandboxes are left alone"])

    guest = Guest()
    async with running(tmp_path, {"old": guest}):
        pilot = Pilot(Noisy({}), Settings())
        with caplog.at_level(logging.WARNING):
            for age_s in (20.0, 30.0, 40.0):
                fresh = guest.reading
                guest.reading = replace(fresh, guest=replace(fresh.guest, age_s=age_s))
                await pilot.tick()
        await pilot.close()
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "sandbox old is left alone",
        "1 MiB too much",
        "1 sandboxes are left alone",
    ]


async def test_a_missing_figure_is_loud_once_and_its_sandbox_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guests = {"mute": Guest(available_mib=None), "well": Guest()}
    async with running(tmp_path, guests):
        pilot = Pilot(Fixed({"mute": 300, "well": 300}), Settings())
        with caplog.at_level(logging.WARNING):
            await pilot.run(ticks=1)
            await pilot.run(ticks=1)
    assert guests["mute"].targets == []
    assert guests["well"].targets == [300]
    assert [line for line in caplog.messages if "left alone" in line] == [
        line for line in caplog.messages if "mute" in line
    ]
    assert len([line for line in caplog.messages if "mute" in line]) == 1


async def test_an_absurd_figure_leaves_that_sandbox_alone(tmp_path: Path) -> None:
    guests = {"liar": Guest(available_mib=5000), "well": Guest()}
    async with running(tmp_path, guests):
        tick = await one_tick(Fixed({"liar": 300, "well": 300}))
    problems = {view.name: view.problem for view in tick.sandboxes}
    assert "5000" in str(problems["liar"])
    assert (guests["liar"].targets, guests["well"].targets) == ([], [300])


async def test_what_a_policy_may_not_ask_for_is_not_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    async with running(tmp_path, {"a": guest}):
        with caplog.at_level(logging.WARNING):
            tick = await one_tick(Fixed({"a": 4096}))
    assert guest.targets == []
    assert "not applied" in tick.verdicts[0].reason
    assert any("4096" in line for line in caplog.messages)


async def test_a_sandbox_that_was_relieved_wakes_it_at_once(tmp_path: Path) -> None:
    guest = Guest()
    seen: list[int] = []
    both = asyncio.Event()

    def on_tick(tick: Tick) -> None:
        seen.append(tick.sandboxes[0].target_mib)
        if len(seen) == 2:
            both.set()

    async with running(tmp_path, {"a": guest}):
        pilot = Pilot(Fixed({}, period_s=600), Settings(), on_tick=on_tick)
        task = asyncio.create_task(pilot.run())
        while not seen:
            await asyncio.sleep(0.01)
        while guest.feed._next is None:  # its watch is on
            await asyncio.sleep(0.01)
        guest.change(target_mib=1024, requested_mib=1024)
        await asyncio.wait_for(both.wait(), 30)
        pilot.stop()
        await task
    assert seen == [512, 1024]


async def test_an_idle_guest_is_not_asked_at_each_tick(tmp_path: Path) -> None:
    guest = Guest()
    async with running(tmp_path, {"a": guest}):
        await Pilot(Fixed({}, period_s=0.01), Settings()).run(ticks=6)
        calm = guest.asked
        guest.change(resident_mib=700)
        await Pilot(Fixed({}), Settings()).run(ticks=1)
    assert calm == 2  # once for the first look, once more because anything may have moved before it
    assert guest.asked > calm


async def test_dry_run_moves_nothing_and_writes_nothing(tmp_path: Path) -> None:
    guest = Guest()
    async with running(tmp_path, {"a": guest}):
        tick = await one_tick(Fixed({"a": 300}), dry_run=True)
    assert tick.moved == {"a": 300}
    assert guest.targets == []
    assert state.read_status() is None
    assert read_decisions(lock.pilot_dir(), "a", 9) == []


async def test_it_ends_when_nothing_can_be_printed_any_more(tmp_path: Path) -> None:
    def full(tick: Tick) -> None:
        raise StreamError("standard output: No space left on device")

    async with running(tmp_path, {"a": Guest()}):
        with pytest.raises(StreamError):
            await Pilot(Fixed({}), Settings(), on_tick=full).run()


async def test_paused_it_moves_nothing_and_starts_afresh_afterwards(tmp_path: Path) -> None:
    guest = Guest()
    policy = Fixed({"a": 300})
    async with running(tmp_path, {"a": guest}):
        pilot = Pilot(policy, Settings())
        state.pause()
        tick = await pilot.tick()
        assert tick.paused
        assert (guest.targets, policy.seen) == ([], [])
        assert state.resume()
        await pilot.tick()
        await pilot.close()
    assert guest.targets == [300]
    assert policy.seen[0][2] is None


async def test_only_selected_sandboxes_are_managed(tmp_path: Path) -> None:
    guests = {"ci-1": Guest(), "web": Guest()}
    async with running(tmp_path, guests):
        await one_tick(Fixed({"ci-1": 300, "web": 300}), only=("ci-*",))
    assert (guests["ci-1"].targets, guests["web"].targets) == ([300], [])


async def test_decisions_are_on_record_with_every_input(tmp_path: Path) -> None:
    async with running(tmp_path, {"a": Guest()}):
        await one_tick(Fixed({"a": 300}))
    (entry,) = read_decisions(lock.pilot_dir(), "a", 9)
    assert (entry["old_mib"], entry["target_mib"], entry["reason"]) == (512, 300, "so the test wants")
    assert entry["inputs"]["x"] == 1
    assert entry["inputs"]["guest_available_mib"] == 300
    assert entry["inputs"]["host_total_mib"] > 0
    status = state.read_status()
    assert status is not None
    assert [view["name"] for view in status["sandboxes"]] == ["a"]


async def test_a_sandbox_that_goes_and_one_that_comes_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ballonet.pilot.loop.DISCOVER_S", 0.0)
    pilot = Pilot(Fixed({}), Settings())
    async with running(tmp_path, {"a": Guest()}):
        async with running(tmp_path, {"b": Guest()}):
            both = {view.name: view.problem for view in (await pilot.tick()).sandboxes}
        with Registry.open() as registry:
            registry.update("b", state=State.STOPPED)
        after = [view.name for view in (await pilot.tick()).sandboxes]
    await pilot.close()
    assert both == {"a": None, "b": None}
    assert after == ["a"]


async def test_what_the_policy_remembers_comes_back_to_it(tmp_path: Path) -> None:
    policy = Fixed({}, period_s=0.01)
    async with running(tmp_path, {"a": Guest()}):
        await Pilot(policy, Settings()).run(ticks=3)
    assert [memory for _, _, memory in policy.seen] == [None, 1, 2]


async def test_our_own_rule_may_not_shrink_a_guest_under_pressure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    policy = Fixed({}, period_s=0.01)
    policy.name = "ballonet"
    async with running(tmp_path, {"a": guest}):
        pilot = Pilot(policy, Settings())
        await pilot.tick()
        guest.stall_for(5_000_000)
        guest.change(resident_mib=600)  # so that its statistics are asked for again
        policy.targets = {"a": 500}
        with caplog.at_level(logging.WARNING):
            await pilot.tick()
        await pilot.close()
    assert guest.targets == []
    assert any("although its tasks stalled" in line for line in caplog.messages)
