"""Hosts, programs and directories that are lost, with hosts that are simulated here: nothing runs twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, HostError, NameInUseError
from ballonet.cluster import directory_state, failover, ledger
from ballonet.cluster.answers import Answer, value_of
from ballonet.cluster.directory_service import DirectoryService
from ballonet.cluster.failover import RETRY_S, SESSION_S
from ballonet.cluster.host_notes import HostNotes, boot_time_s, fenced_names
from ballonet.cluster.lease import LEASE_S, MARGIN_S, HostLease, Leases
from ballonet.cluster.ledger import Ledger, Order, check_order
from tests.unit.cluster_inputs import offer, request
from tests.unit.test_cluster_service import FakeHosts, ordered

PAST_LEASE_S = LEASE_S + MARGIN_S + 1


class Clock:
    """A clock that moves by hand, and a little with every look."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


class Cluster:
    """Hosts, and a directory that may be started again with the same ledger."""

    def __init__(self, path: Path, *names: str) -> None:
        self.hosts = FakeHosts(*(offer(name) for name in names))
        self.clock = Clock()
        self._path = path / "ledger.db"
        self.directory = self.new_directory()

    def new_directory(self) -> DirectoryService:
        if hasattr(self, "directory"):
            self.directory.ledger.close()
        return DirectoryService(self.hosts, Ledger(self._path), clock=self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await self.rounds()

    async def rounds(self) -> None:
        """Let the directory ask twice, and finish what follows."""
        for _ in range(2):
            await self.directory.refresh()
            for _ in range(20):
                await asyncio.sleep(0)

    def where(self, name: str) -> list[str]:
        return [host for host, boxes in self.hosts.boxes.items() if name in boxes]


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(directory_state, "REPORT_S", 0.05)
    monkeypatch.setattr(failover, "REFRESH_S", 0.01)
    made = Cluster(tmp_path, "a", "b")
    await made.rounds()
    return made


async def placed(
    cluster: Cluster, name: str, host: str, restart: str = "no", session: str | None = None, **how: Any
) -> None:
    """Create a sandbox on one host."""
    cluster.hosts.offers[host] = cluster.hosts.offers[host]._replace(closed=None)
    for other in cluster.hosts.offers.keys() - {host}:
        cluster.hosts.offers[other] = cluster.hosts.offers[other]._replace(closed="not now")
    await cluster.rounds()
    answer = await cluster.directory.create(ordered(name, restart=restart, session=session, **how))
    assert answer.value == host, answer
    for other in cluster.hosts.offers:
        cluster.hosts.offers[other] = cluster.hosts.offers[other]._replace(closed=None)
    await cluster.rounds()


async def test_a_lost_sandbox_is_started_elsewhere_only_after_its_hosts_lease_is_over(
    cluster: Cluster,
) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await placed(cluster, "stays", "a")
    assert cluster.hosts.grants["a"].kept == {"stays"}, "only what stays needs no lease"
    cluster.hosts.silent.add("a")
    await cluster.pass_time(LEASE_S - 1)
    assert cluster.where("moves") == ["a"], "its host may still run it"
    await cluster.pass_time(MARGIN_S + 2)
    assert cluster.where("moves") == ["a", "b"], "a, which cannot be reached, has ended its own"
    assert value_of(cluster.directory.find("moves")) == "b"
    with pytest.raises(HostError, match="'stays' is lost: its host a does not answer") as caught:
        value_of(cluster.directory.find("stays"))
    assert "ballonet cluster forget a" in (caught.value.hint or "")
    with pytest.raises(NameInUseError, match="on host a, which does not answer"):
        value_of(await cluster.directory.create(ordered("stays")))
    status = (await cluster.directory.status()).value["a"]
    assert status["lost"]
    assert status["sandboxes"] == {"stays": "lost"}
    cluster.hosts.silent.clear()
    await cluster.rounds()
    assert cluster.where("moves") == ["b"], "the copy on a was removed when a came back"
    assert cluster.hosts.removed == [("a", "moves")]
    assert value_of(cluster.directory.find("stays")) == "a"


async def test_a_new_directory_waits_for_leases_that_it_does_not_know(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.silent.add("a")
    cluster.directory = cluster.new_directory()
    await cluster.directory.refresh()
    await cluster.pass_time(LEASE_S - 1)
    assert cluster.where("moves") == ["a"]
    await cluster.pass_time(MARGIN_S + 2)
    assert value_of(cluster.directory.find("moves")) == "b"


async def test_a_directory_without_its_ledger_learns_from_the_hosts(cluster: Cluster, tmp_path: Path) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    (tmp_path / "ledger.db").rename(tmp_path / "away")
    cluster.directory = cluster.new_directory()
    await cluster.rounds()
    assert cluster.directory.ledger.rows["moves"].order.restart == "elsewhere"
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert value_of(cluster.directory.find("moves")) == "b"


async def test_a_sandbox_that_was_fenced_is_started_again(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.fenced.add("moves")
    await cluster.rounds()
    assert len(cluster.where("moves")) == 1
    assert cluster.hosts.removed == [("a", "moves")]
    assert value_of(cluster.directory.find("moves")) == cluster.where("moves")[0]


async def test_a_sandbox_that_was_fenced_and_finds_no_room_is_started_as_soon_as_there_is(
    cluster: Cluster,
) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.fenced.add("moves")
    for host in "ab":
        cluster.hosts.offers[host] = cluster.hosts.offers[host]._replace(closed="not now")
    await cluster.rounds()
    await cluster.rounds()
    assert cluster.where("moves") == []
    assert cluster.directory.find("moves").code == "host", "it is lost, and not forgotten"
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed=None)
    await cluster.pass_time(RETRY_S + 1)
    assert cluster.where("moves") == ["b"]


async def test_nothing_is_placed_on_a_host_that_leaves(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed="not now")
    await cluster.directory.leave("a")
    await cluster.pass_time(RETRY_S + 1)
    assert cluster.where("moves") == [], "its agent is still there"
    with pytest.raises(ConfigError, match="a: it leaves the cluster"):
        value_of(await cluster.directory.create(ordered("box")))
    assert value_of(await cluster.directory.check_host("a")) == "a"
    assert value_of(await cluster.directory.create(ordered("box"))) == "a", "it has joined again"


async def test_a_host_that_ends_while_it_creates_is_asked_before_another_is(cluster: Cluster) -> None:
    cluster.hosts.late = {"a", "b"}
    creating = asyncio.create_task(cluster.directory.create(ordered("box")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not creating.done(), "nobody knows whether it exists"
    await cluster.rounds()
    answer = await creating
    assert cluster.where("box") == [answer.value]


async def test_a_create_on_a_host_that_is_cut_off_goes_on_elsewhere_after_its_lease(cluster: Cluster) -> None:
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed="not now")
    await cluster.rounds()
    cluster.hosts.silent.add("a")
    creating = asyncio.create_task(cluster.directory.create(ordered("box")))
    await asyncio.sleep(0)
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed=None)
    await cluster.rounds()
    assert not creating.done()
    await cluster.pass_time(PAST_LEASE_S)
    assert value_of(await asyncio.wait_for(creating, 10)) == "b"
    cluster.hosts.boxes["a"]["box"] = ordered("box")
    cluster.hosts.silent.clear()
    await cluster.rounds()
    assert cluster.where("box") == ["b"], "the one that came late is removed"


async def test_what_a_silent_program_owns_is_removed_and_what_it_detached_is_not(cluster: Cluster) -> None:
    await placed(cluster, "owned", "a", session="program")
    await placed(cluster, "detached", "a")
    assert "owned" not in cluster.hosts.grants["a"].kept, "it ends on a host that is cut off"
    await cluster.pass_time(SESSION_S - 2)
    cluster.directory.keep_session("program")
    await cluster.pass_time(SESSION_S - 2)
    assert cluster.where("owned") == ["a"]
    await cluster.pass_time(SESSION_S + 1)
    assert cluster.where("owned") == []
    assert cluster.where("detached") == ["a"]
    assert cluster.directory.find("owned").code == "unknown-sandbox"


async def test_a_host_is_forgotten_only_if_it_does_not_answer(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await placed(cluster, "stays", "a")
    with pytest.raises(ConfigError, match="host a answers"):
        value_of(await cluster.directory.forget("a"))
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert value_of(await cluster.directory.forget("a")) == "a"
    assert cluster.directory.find("stays").code == "unknown-sandbox"
    assert value_of(cluster.directory.find("moves")) == "b"


async def test_a_host_that_leaves_keeps_what_stays_and_the_rest_goes_elsewhere(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await placed(cluster, "stays", "a")
    await cluster.directory.leave("a")
    assert cluster.where("moves") == ["b"]
    assert cluster.where("stays") == ["a"]
    assert "stays" not in cluster.directory.ledger.rows


async def test_what_finds_no_room_when_its_host_leaves_is_started_as_soon_as_there_is(
    cluster: Cluster,
) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed="not now")
    await cluster.directory.leave("a")
    assert cluster.where("moves") == [], "not on the host that leaves"
    del cluster.hosts.offers["a"]
    await cluster.rounds()
    assert cluster.directory.find("moves").code == "host"
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed=None)
    await cluster.pass_time(PAST_LEASE_S)
    await cluster.pass_time(RETRY_S + 1)
    assert cluster.where("moves") == ["b"]
    assert "a" not in (await cluster.directory.status()).value


async def test_what_somebody_removed_or_stopped_on_a_host_is_not_started_again(cluster: Cluster) -> None:
    await placed(cluster, "removed", "a", "elsewhere")
    del cluster.hosts.boxes["a"]["removed"]
    await cluster.rounds()
    assert cluster.directory.find("removed").code == "unknown-sandbox"
    assert cluster.where("removed") == []


async def test_a_drained_host_is_emptied_and_what_cannot_be_moved_is_named(cluster: Cluster) -> None:
    await placed(cluster, "one", "a")
    await placed(cluster, "fixed", "a")
    cluster.hosts.immovable.add("fixed")
    cluster.hosts.offers["a"] = cluster.hosts.offers["a"]._replace(closed="it is being drained")

    async def look() -> None:
        assert value_of(cluster.directory.find("one")) == "a", "it belongs there until the other host has it"
        await cluster.rounds()

    cluster.hosts.meanwhile = look
    await cluster.rounds()
    moved = value_of(await cluster.directory.empty("a"))
    assert moved == {"one": ("b", ""), "fixed": (None, "sandbox 'fixed' has volumes")}
    assert (cluster.where("one"), cluster.where("fixed")) == (["b"], ["a"])
    await cluster.rounds()
    assert (cluster.where("one"), cluster.where("fixed")) == (["b"], ["a"])


async def test_a_move_that_fails_leaves_the_sandbox_where_it_was(cluster: Cluster) -> None:
    await placed(cluster, "one", "a")
    cluster.hosts.answers["b"] = Answer(None, "snapshot", "another engine")
    [row] = cluster.directory.ledger.on("a")
    answer = await cluster.directory.move(row)
    assert "another engine" in answer.message
    assert cluster.where("one") == ["a"]
    assert not cluster.hosts.moving, "it was resumed"


async def test_a_move_that_a_lost_directory_began_is_undone(cluster: Cluster) -> None:
    await placed(cluster, "one", "a")
    await cluster.hosts.pack_up("a", "one")
    cluster.hosts.boxes["b"]["one"] = ordered("one")  # it arrived, and nobody was told
    cluster.directory = cluster.new_directory()
    await cluster.rounds()
    assert cluster.where("one") == ["a"]
    assert not cluster.hosts.moving


def test_a_lease_counts_from_the_hosts_own_mark_however_late_the_grant() -> None:
    host = HostLease()
    assert host.renew(100.0, 110.0)
    assert host.expires_s == 100.0 + LEASE_S
    assert not host.renew(90.0, 111.0), "an older grant changes nothing"
    assert not host.renew(500.0, 111.0), "a mark of an earlier boot"
    assert host.valid(100.0 + LEASE_S - 1)
    assert not host.valid(100.0 + LEASE_S)


def test_for_the_directory_a_lease_never_ends_before_it_does_on_the_host() -> None:
    leases = Leases(0.0)
    assert leases.grant("a") is None
    leases.received("a", 7000.0, 10.0)  # the host made its mark at 10.0 or before
    assert leases.grant("a") == 7000.0
    assert not leases.expired("a", 10.0 + LEASE_S)
    assert leases.expired("a", 10.0 + LEASE_S + MARGIN_S)
    leases.received("a", 7010.0, 20.0)
    assert leases.expired("a", 10.0 + LEASE_S + MARGIN_S), "the mark alone grants nothing"
    leases.grant("a")
    assert not leases.expired("a", 10.0 + LEASE_S + MARGIN_S)


def test_an_order_that_cannot_be_sent_or_started_elsewhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown restart 'always'"):
        check_order(ordered("box", restart="always"))
    with pytest.raises(ConfigError, match="port 8080:80 may be in use on another host"):
        check_order(Order(request("box"), {"ports": ["8080:80"]}, "elsewhere"))
    with pytest.raises(ConfigError, match="cannot be sent to another host"):
        check_order(Order(request("box"), {"env": object()}))


def test_a_hosts_notes_survive_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    notes = HostNotes()
    notes.begin(ordered("box", restart="elsewhere"))
    notes.begin(ordered("stays"))
    notes.created("stays")
    assert not notes.keep(frozenset({"box"})), "it is being created"
    assert notes.keep(frozenset({"stays", "unknown"}))
    again = HostNotes()
    assert again.orders == notes.orders
    assert (again.creating, again.leased) == ({"box"}, ["box"])
    again.forget("box")
    assert HostNotes().orders.keys() == {"stays"}
    assert fenced_names() == frozenset()
    assert boot_time_s() >= time.monotonic() - 1


def test_a_ledger_has_one_directory_and_survives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOCK_S", 0.01)
    first = Ledger(tmp_path / "ledger.db")
    order = ordered("box", restart="elsewhere", session="program")
    first.put(order, "a", "placed")
    with pytest.raises(HostError, match="locked"):
        Ledger(tmp_path / "ledger.db")
    first.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.rows["box"].order == order
    again.drop("box")
    again.close()
    assert Ledger(tmp_path / "ledger.db").rows == {}
