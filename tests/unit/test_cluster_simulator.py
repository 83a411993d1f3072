"""Many simulated hosts, and ``ballonet cluster simulate``."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest

from ballonet.base.errors import ConfigError
from ballonet.cli.main import EXIT_USAGE, main
from ballonet.cluster.bounds import DEFAULT_BOUNDS
from ballonet.cluster.request import Request
from ballonet.cluster.simulator import curves as curves_module
from ballonet.cluster.simulator.compare import compare, most
from ballonet.cluster.simulator.curves import Curves, agents, compute
from ballonet.cluster.simulator.simulation import PLACERS, Plan, simulate
from ballonet.cluster.simulator.world import World, make_hosts
from ballonet.cluster.usage import expected, observed
from ballonet.pilot.admission import admit
from ballonet.pilot.model import HostView, SandboxView
from ballonet.pilot.simulator.simulation import ENGINE_MIB

pytestmark = pytest.mark.long

LENGTH_S = 90


@pytest.fixture(scope="module")
def curves() -> Curves:
    return compute(agents(3, count=6, floor_mib=128, length_s=LENGTH_S), 8.0, LENGTH_S)


def plan(curves: Curves, wanted: int = 300, hosts: int = 6, **changes: float) -> Plan:
    made = Plan(make_hosts(hosts, [16_384, 8192]), curves, wanted, 1, DEFAULT_BOUNDS)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_guests_hold_what_they_need_and_lose_more_on_a_full_host(curves: Curves) -> None:
    assert curves.need.shape == (6, LENGTH_S)
    assert (curves.need > ENGINE_MIB + 80).all()
    assert (curves.need <= ENGINE_MIB + 2048).all()
    assert curves.held[0].mean() > curves.held[-1].mean()
    assert curves.lost[0].sum() < curves.lost[-1].sum()
    assert curves.lost_static.sum() < curves.lost[0].sum()


@pytest.mark.parametrize("name", list(PLACERS))
def test_the_same_seed_gives_the_same_run(curves: Curves, name: str) -> None:
    assert simulate(plan(curves), name) == simulate(plan(curves), name)
    assert simulate(plan(curves), name).as_dict() != simulate(plan(curves, seed=2), name).as_dict()


def test_placement_by_memory_runs_more_than_by_ceiling_and_breaks_nothing(curves: Curves) -> None:
    ceiling, round_robin, ours, oracle = compare(plan(curves), ["round robin", "ballonet"])
    # 2088 MiB each: 7 and 3 fit.
    assert ceiling.outcome.running == pytest.approx(3 * 7 + 3 * 3, rel=0.05)
    assert ours.of_ceiling > 1.5
    assert (ours.outcome.broken, ours.outcome.host_oom, oracle.outcome.broken) == (0, 0, 0)
    assert ours.outcome.slowdown <= 0.03
    assert round_robin.outcome.host_oom > 0, "half of the hosts are smaller"
    assert ours.as_dict()["of_ceiling"] == round(ours.of_ceiling, 4)


def test_the_most_that_is_bearable_is_found(curves: Curves) -> None:
    made = plan(curves, hosts=2)
    found = most(made, "round robin", 0.03)
    assert found.slowdown <= 0.03
    assert found.short_s == 0
    assert 0 < found.wanted < made.wanted
    more = simulate(dataclasses.replace(made, wanted=int(found.wanted * 1.1) + 1), "round robin")
    assert more.slowdown > 0.03 or more.short_s > 0
    assert most(made, "by ceiling", 0.03).wanted == made.wanted, "it is bounded by itself"


def test_sandboxes_that_grow_together_are_placed_more_carefully(curves: Curves) -> None:
    apart, together = simulate(plan(curves), "ballonet"), simulate(plan(curves, together=1.0), "ballonet")
    assert together.broken == 0
    assert together.price > apart.price


def test_expected_use_follows_the_rule_of_one_host(curves: Curves) -> None:
    world = World(make_hosts(1, [65_536]), curves, 4)
    wanted = Request("box", 2048, 128, 2048)
    world.add(0, 2, 7, 1e9, wanted)
    usage = expected(wanted)
    slot = np.flatnonzero(world.host >= 0)
    for _ in range(100):
        world.step()
        usage = observed(usage, float(world.held[0]), 1.0)
    mean, variance = world.expectations(slot)
    assert mean[0] == pytest.approx(usage.expectation.mean_mib)
    assert variance[0] == pytest.approx(usage.expectation.variance)
    [made] = world.offers([0], 100.0)
    assert made.expected_mib == int(usage.expectation.mean_mib)
    assert made.deviation_mib == int(usage.expectation.variance**0.5)
    assert made.held["agent"].sandboxes == 1


def test_a_simulated_host_admits_what_a_real_one_would(curves: Curves) -> None:
    world = World(make_hosts(1, [8192]), curves, 9)
    wanted = Request("box", 2048, 128, 2048)
    for n in range(9):
        world.add(0, n % 6, 11 * n, 1e9, wanted)
    for _ in range(40):
        world.step()
    views = []
    for slot in range(9):
        curve = int(world.curve[slot])
        column = (world.at_s + int(world.phase[slot])) % curves.length_s
        need = float(curves.need[curve, column]) - ENGINE_MIB
        views.append(
            SandboxView(
                str(slot), 2048, 128, 2048, 2048, guest_available_mib=2048 - round(need), guest_age_s=0.0
            )
        )
    guest_ram = int(world.held[0]) - 9 * ENGINE_MIB
    views[0] = views[0]._replace(guest_ram_mib=guest_ram)
    tick = HostView(40.0, 8192, 8192 - int(world.held[0]), 8192 // 20)
    answer = admit(tick, views, 2048, 2048, 128, 0)
    assert answer.free_mib == pytest.approx(max(0.0, world.free_mib(0)), abs=15)


@pytest.fixture
def short_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that takes a second to compute instead of ten."""
    monkeypatch.setattr(curves_module, "agents", functools.partial(agents, count=4))
    monkeypatch.setattr(curves_module, "compute", functools.partial(compute, length_s=LENGTH_S))


@pytest.mark.usefixtures("short_pool")
def test_a_table_and_json_compare_with_ceiling_and_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "cluster",
        "simulate",
        "--hosts",
        "3",
        "--memory",
        "8G",
        "--memory",
        "16G",
        "--placement",
        "ballonet",
    ]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "3 hosts with 32768 MiB, 300 agents wanted with ceilings of 2048 MiB and 512 MiB"
    )
    assert [line.rsplit(maxsplit=11)[0] for line in lines[2:]] == ["by ceiling", "ballonet", "oracle"]
    assert main([*words, "--sandboxes", "40", "--most", "3", "--json"]) == 0
    arms = json.loads(capsys.readouterr().out)["arms"]
    assert [arm["placement"] for arm in arms] == ["by ceiling", "ballonet", "oracle"]
    assert all(arm["slowdown"] <= 0.03 and arm["host_short_s"] == 0 for arm in arms)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hosts", "0"], "--hosts 0 must be from 1 to 10000"),
        (["--most", "0"], "--most 0 must be"),
        (["--memory", "1M"], "--memory 1 MiB is below 1024 MiB"),
        (["--floor", "3G"], "--floor 3072 MiB must be from 1 to the ceiling, 2048 MiB"),
        (["--together", "101"], "--together 101"),
        (["--placement", "balonet"], "unknown placement 'balonet'"),
    ],
)
def test_a_wrong_option_starts_nothing(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "simulate", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_unknown_placements_are_refused_in_python(curves: Curves) -> None:
    with pytest.raises(ConfigError, match="unknown placement 'random'"):
        compare(plan(curves), ["random"])
