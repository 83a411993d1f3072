"""Hosts that stay short of memory: what is moved, and that it never goes in circles."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ballonet.cluster.answers import value_of
from ballonet.cluster.host_report import Figures
from ballonet.cluster.rebalance import Movable, Move, RebalanceBounds, Rebalancer
from ballonet.pilot.price import price_of
from tests.unit.cluster_inputs import offer
from tests.unit.test_cluster_failover import Cluster, cluster, placed

__all__ = ["cluster"]  # the fixture

BOUNDS = RebalanceBounds()
BUDGET_MIB, RESERVE_MIB = 10_000, 500


class World:
    """Hosts whose sandboxes hold what a function of time says; the moves that are made are carried out."""

    def __init__(self, hosts: int, bounds: RebalanceBounds, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.rebalancer = Rebalancer(bounds)
        self.hosts = [f"host-{at}" for at in range(hosts)]
        #: By sandbox: its host, and what it holds.
        self.places: dict[str, str] = {}
        self.held: dict[str, int] = {}
        self.moves: list[tuple[float, Move]] = []
        self.now_s = 0.0

    def add(self, name: str, host: str, held_mib: int) -> None:
        self.places[name], self.held[name] = host, held_mib

    def price(self, host: str) -> float:
        used = sum(self.held[name] for name, at in self.places.items() if at == host)
        found = price_of(BUDGET_MIB - used, RESERVE_MIB, BUDGET_MIB)
        assert found is not None
        return found

    def step(self, seconds: float = 10.0) -> None:
        self.now_s += seconds
        free = dict.fromkeys(self.hosts, BUDGET_MIB)
        for name, host in self.places.items():
            free[host] -= self.held[name]
        offers = {
            host: offer(host, available_mib=mib, price=price_of(mib, RESERVE_MIB, BUDGET_MIB))
            for host, mib in free.items()
        }
        self.rebalancer.observe(offers.values(), self.now_s)
        movable: dict[str, list[Movable]] = {}
        for name, host in self.places.items():
            movable.setdefault(host, []).append(Movable(name, self.held[name]))
        move = self.rebalancer.next_move(offers, movable, self.now_s)
        if move is not None:
            assert self.places[move.name] == move.source
            self.places[move.name] = move.target
            self.moves.append((self.now_s, move))
            self.rebalancer.done(move, self.now_s, moved=True)

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.step()


def test_a_host_that_stays_short_gives_one_sandbox_away_and_is_not_short_any_more() -> None:
    world = World(3, BOUNDS)
    for at in range(9):
        world.add(f"box-{at}", "host-0", 1000)
    world.run(BOUNDS.short_s - 10)
    assert world.moves == []
    world.run(30)
    [(_, move)] = world.moves
    assert (move.source, move.target in ("host-1", "host-2")) == ("host-0", True)
    world.run(3600)
    assert world.price("host-0") <= BOUNDS.low
    assert len(world.moves) <= 2


def test_a_short_peak_moves_nothing() -> None:
    world = World(2, BOUNDS)
    world.add("box", "host-0", 9400)
    for _ in range(20):
        world.held["box"] = 9400
        world.run(BOUNDS.short_s - 20)
        world.held["box"] = 1000
        world.run(20)
    assert world.moves == []


def test_what_would_only_carry_the_problem_elsewhere_stays() -> None:
    world = World(3, BOUNDS)
    world.add("huge", "host-0", 9400)
    world.run(7200)
    assert world.moves == [], "every host would be short with it"


def work(world: World) -> None:
    """Sandboxes that grow and shrink at random, all hosts around the limit, so that something is always short."""
    for at in range(40):
        world.add(f"box-{at}", world.random.choice(world.hosts), world.random.randint(200, 1800))
    for _ in range(3 * 180):
        for name in world.held:
            world.held[name] = max(50, min(2000, world.held[name] + world.random.randint(-150, 150)))
        world.run(20)


@pytest.mark.parametrize("seed", range(3))
def test_hosts_around_the_limit_never_move_in_circles(seed: int) -> None:
    world = World(5, BOUNDS, seed)
    work(world)
    hours = world.now_s / 3600
    assert len(world.moves) <= BOUNDS.budget * (hours + 1)
    last: dict[str, float] = {}
    for at_s, move in world.moves:
        assert at_s - last.get(move.name, -1e9) >= BOUNDS.stay_s, "a sandbox is moved once an hour"
        assert at_s - last.get(move.target, -1e9) >= BOUNDS.rest_s, "a target rests"
        last |= dict.fromkeys((move.name, move.source, move.target), at_s)


def test_without_the_limits_the_same_work_goes_in_circles() -> None:
    """The test above can fail."""
    free = replace(BOUNDS, high=0.5, low=0.49, short_s=0.0, rest_s=0.0, stay_s=0.0, budget=10_000)
    world = World(5, free, 1)
    work(world)
    there_and_back = 0
    for (_, first), (_, later) in zip(world.moves, world.moves[1:], strict=False):
        there_and_back += first.name == later.name
    assert len(world.moves) > 10 * BOUNDS.budget * (world.now_s / 3600)
    assert there_and_back > 0


def test_a_price_between_the_limits_neither_begins_nor_ends_anything() -> None:
    rebalancer = Rebalancer(BOUNDS)
    for at_s, price in ((0.0, 0.5), (100.0, 0.71), (200.0, 0.5), (281.0, 0.6)):
        rebalancer.observe([offer("a", price=price)], at_s)
    assert rebalancer.short(281.0) == ["a"], "it was never low"
    rebalancer.observe([offer("a", price=0.35)], 282.0)
    assert rebalancer.short(1e6) == []
    rebalancer.observe([offer("a", price=0.5)], 283.0)
    assert rebalancer.short(1e6) == []


async def test_a_short_host_is_offered_nothing_and_only_what_may_run_elsewhere_is_moved(
    cluster: Cluster,
) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await placed(cluster, "stays", "a")
    cluster.hosts.figures = {name: Figures(2048, 2048, 3000) for name in ("moves", "stays")}
    cluster.hosts.offers["a"] = cluster.hosts.offers["a"]._replace(available_mib=3100, price=0.9)
    await cluster.pass_time(10)
    await cluster.pass_time(BOUNDS.short_s - 12)
    assert (cluster.where("moves"), cluster.where("stays")) == (["a"], ["a"])
    assert cluster.directory.directory.offers["a"].closed is None
    await cluster.pass_time(14)
    assert (cluster.where("moves"), cluster.where("stays")) == (["b"], ["a"])
    assert value_of(cluster.directory.find("moves")) == "b"
    assert "short of memory" in (cluster.directory.directory.offers["a"].closed or "")
    cluster.hosts.offers["a"] = cluster.hosts.offers["a"]._replace(available_mib=9000, price=0.1)
    await cluster.pass_time(2)
    await cluster.rounds()
    assert cluster.directory.directory.offers["a"].closed is None


async def test_a_move_that_fails_is_not_tried_again_and_again(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.figures = {"moves": Figures(2048, 2048, 3000)}
    cluster.hosts.immovable.add("moves")
    cluster.hosts.offers["a"] = cluster.hosts.offers["a"]._replace(available_mib=1000, price=0.9)
    tried = []
    pack_up = cluster.hosts.pack_up

    async def counted(host: str, name: str) -> object:
        tried.append(name)
        return await pack_up(host, name)

    cluster.hosts.pack_up = counted  # type: ignore[method-assign,assignment]
    for _ in range(40):
        await cluster.pass_time(60)
    assert tried == ["moves"]
    assert cluster.where("moves") == ["a"]
