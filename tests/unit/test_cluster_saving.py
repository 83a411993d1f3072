"""Snapshots in a cluster, and restarts from the last saved state, with hosts that are simulated here."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ballonet.base.errors import (
    BusyError,
    ConfigError,
    NameInUseError,
    UnknownSandboxError,
    UnknownSnapshotError,
)
from ballonet.cluster import saving
from ballonet.cluster.answers import value_of
from ballonet.cluster.directory_state import CLOCK_OFF_S, off_by
from ballonet.cluster.failover import RETRY_S
from ballonet.cluster.host_moving import file_of
from ballonet.cluster.host_notes import HostNotes
from ballonet.cluster.host_snapshots import HostSnapshots
from ballonet.cluster.ledger import Ledger, Order, Placed, Saved, check_order
from ballonet.cluster.saving import RETURN_S
from ballonet.sdk.sandbox import Sandbox
from tests.unit.cluster_inputs import request
from tests.unit.test_cluster_failover import PAST_LEASE_S, Cluster, cluster, placed
from tests.unit.test_cluster_service import ordered

__all__ = ["cluster"]  # the fixture


async def save(cluster: Cluster, name: str, snapshot: str, copies: int = 1) -> tuple[str, ...]:
    """Save a sandbox; the hosts that have the snapshot then."""
    made, hosts, problem = value_of(await cluster.directory.save(name, snapshot, copies, True))
    assert (made, problem) == (snapshot, None)
    found: tuple[str, ...] = hosts
    return found


async def started(cluster: Cluster, name: str) -> str:
    """What the status says of a restart."""
    status = value_of(await cluster.directory.status())
    return " ".join(
        words for host in status.values() for one, words in host["started"].items() if one == name
    )


async def test_a_lost_sandbox_continues_from_the_last_of_its_saved_states(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    assert await save(cluster, "moves", "first") == ("a", "b")
    assert await save(cluster, "moves", "second") == ("a", "b")
    assert await started(cluster, "moves") == "", "it was not started again yet"
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.hosts.restored == [("b", "moves", "second")]
    assert value_of(cluster.directory.find("moves")) == "b"
    assert "started again on b from saved state second, which was 0 s old" in await started(cluster, "moves")
    cluster.directory = cluster.new_directory()
    await cluster.rounds()
    assert "from saved state second" in await started(cluster, "moves"), "a new directory knows it, too"
    value_of(await cluster.directory.remove("moves", True))
    assert cluster.directory.ledger.saved["second"].current is False


async def test_without_a_saved_state_it_starts_with_an_empty_disk_and_the_status_says_so(
    cluster: Cluster,
) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await placed(cluster, "here", "a", "elsewhere")
    assert await save(cluster, "here", "only-here", copies=0) == ("a",)
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.hosts.restored == []
    for name in ("moves", "here"):
        assert value_of(cluster.directory.find(name)) == "b"
        words = await started(cluster, name)
        assert words == (
            "started again on b with an empty disk: nothing of it was saved on a host that answers"
        )
    assert not cluster.directory.ledger.saved_of("here"), "it is older than what runs now"


async def test_a_state_of_an_earlier_sandbox_with_that_name_is_never_used(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await save(cluster, "moves", "old")
    value_of(await cluster.directory.remove("moves", True))
    await placed(cluster, "moves", "a", "elsewhere")
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.where("moves") == ["a", "b"]
    assert cluster.hosts.restored == []
    assert [(name, current) for name, *_, current, _ in value_of(cluster.directory.snapshots())] == [
        ("old", False)
    ]


async def test_a_state_that_cannot_be_restored_does_not_prevent_the_restart(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await save(cluster, "moves", "state")
    cluster.hosts.broken.add(("b", "state"))
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.where("moves") == ["a", "b"]
    words = await started(cluster, "moves")
    assert (
        "with an empty disk: saved state state cannot be restored: host b: it was saved with another" in words
    )


async def test_a_restart_waits_a_while_for_a_host_that_has_the_state(tmp_path: Path) -> None:
    cluster = await three(tmp_path)
    await placed(cluster, "moves", "a", "elsewhere")
    assert await save(cluster, "moves", "state") == ("a", "b")
    cluster.hosts.silent |= {"a", "b"}
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.where("moves") == ["a"], "host c has room, but b may return with its state"
    cluster.hosts.silent.discard("b")
    await cluster.pass_time(RETRY_S + 1)
    assert cluster.hosts.restored == [("b", "moves", "state")]


async def test_a_restart_does_not_wait_for_ever_for_a_state(tmp_path: Path) -> None:
    cluster = await three(tmp_path)
    await placed(cluster, "moves", "a", "elsewhere")
    await save(cluster, "moves", "state")
    cluster.hosts.silent |= {"a", "b"}
    await cluster.pass_time(PAST_LEASE_S)
    await cluster.pass_time(RETURN_S + RETRY_S)
    assert cluster.where("moves") == ["a", "c"]
    assert cluster.hosts.restored == []


async def test_a_host_without_the_state_gets_it_from_one_that_has_no_room(tmp_path: Path) -> None:
    cluster = await three(tmp_path)
    await placed(cluster, "moves", "a", "elsewhere")
    assert await save(cluster, "moves", "state") == ("a", "b")
    cluster.hosts.offers["b"] = cluster.hosts.offers["b"]._replace(closed="it is being drained")
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert cluster.hosts.restored == [("c", "moves", "state")]
    assert cluster.directory.ledger.saved["state"].hosts == ("a", "b", "c")


async def test_a_sandbox_is_saved_again_and_again_and_only_the_last_state_is_kept(
    cluster: Cluster, tmp_path: Path
) -> None:
    await placed(cluster, "moves", "a", "elsewhere", save_every_s=60)
    await cluster.pass_time(50)
    assert cluster.hosts.snapshots == {"a": set(), "b": set()}
    await cluster.pass_time(11)
    [first] = cluster.hosts.snapshots["a"]
    assert cluster.hosts.snapshots["b"] == {first}
    await cluster.pass_time(61)
    await cluster.rounds()
    [second] = cluster.hosts.snapshots["a"]
    assert second != first
    assert cluster.hosts.snapshots["b"] == {second}
    cluster.hosts.broken.add(("b", "fetch"))
    await cluster.pass_time(61)
    await cluster.rounds()
    assert second in cluster.hosts.snapshots["b"], "it is the last one that survives the loss of a"
    assert len(cluster.hosts.snapshots["a"]) == 2
    [ended] = cluster.hosts.ended_exports
    assert ended.endswith(".to-b"), "nothing is left of what b did not take"
    status = value_of(await cluster.directory.status())
    assert "this host does not have the image" in status["a"]["unsaved"]["moves"]
    value_of(await cluster.directory.remove("moves", True))
    await cluster.rounds()
    await cluster.rounds()
    assert cluster.hosts.snapshots == {"a": set(), "b": set()}, "nothing is left of what it saved by itself"


async def test_what_a_lost_directory_was_saving_is_removed(cluster: Cluster) -> None:
    cluster.hosts.snapshots["a"] = {"auto-moves-1234", "mine"}
    await cluster.rounds()
    assert cluster.hosts.snapshots["a"] == {"mine"}


async def test_a_snapshot_is_listed_restored_under_another_name_and_removed(cluster: Cluster) -> None:
    await placed(cluster, "box", "a")
    assert await save(cluster, "box", "state") == ("a", "b")
    order = Order(request("copy"), {"ports": ["0:80"]}, "elsewhere", None)
    where = value_of(await cluster.directory.restore("state", order))
    assert cluster.hosts.restored == [(where, "copy", "state")]
    copy = cluster.directory.ledger.rows["copy"].order
    assert (copy.restart, copy.settings["ports"]) == ("elsewhere", ["0:80"])
    with pytest.raises(NameInUseError, match="'copy' exists already"):
        value_of(await cluster.directory.restore("state", order))
    with pytest.raises(UnknownSnapshotError, match="the cluster has no snapshot 'stat'"):
        value_of(await cluster.directory.restore("stat", order))
    assert value_of(cluster.directory.find_snapshot("state")) == ("a", "b")
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    assert value_of(cluster.directory.find_snapshot("state")) == ("b", "a"), "those that answer first"
    cluster.hosts.silent.clear()
    await cluster.rounds()
    assert set(value_of(await cluster.directory.remove_snapshot("state"))) == {"a", "b"}
    assert cluster.hosts.snapshots == {"a": set(), "b": set()}
    with pytest.raises(UnknownSnapshotError):
        value_of(await cluster.directory.remove_snapshot("state"))
    await cluster.rounds()
    with pytest.raises(UnknownSnapshotError, match="the cluster has no snapshot 'state'"):
        value_of(cluster.directory.find_snapshot("state"))


async def test_what_somebody_removed_on_a_host_is_not_counted_on(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    await save(cluster, "moves", "state")
    cluster.hosts.snapshots["b"].clear()
    await cluster.rounds()
    assert cluster.directory.ledger.saved["state"].hosts == ("a",)
    cluster.hosts.snapshots["a"].clear()
    await cluster.rounds()
    assert "state" not in cluster.directory.ledger.saved


async def test_a_snapshot_that_cannot_be_made_says_why(cluster: Cluster) -> None:
    await placed(cluster, "box", "a")
    directory = cluster.directory
    with pytest.raises(UnknownSandboxError, match="the cluster has no sandbox 'bxo'"):
        value_of(await directory.save("bxo", "state", 1, True))
    cluster.hosts.snapshots["b"].add("mine")
    await cluster.rounds()
    with pytest.raises(NameInUseError, match="'mine' already, on host b"):
        value_of(await directory.save("box", "mine", 1, True))
    with pytest.raises(UnknownSnapshotError, match="'mine' was not made through the cluster"):
        value_of(await directory.remove_snapshot("mine"))
    with pytest.raises(ConfigError, match="copies is 9, but must be from 0 to 8"):
        value_of(await directory.save("box", "state", 9, True))
    cluster.hosts.silent.add("a")
    await cluster.pass_time(PAST_LEASE_S)
    with pytest.raises(BusyError, match="'box' is lost"):
        value_of(await directory.save("box", "state", 1, True))


async def test_copies_that_find_no_host_are_told(cluster: Cluster) -> None:
    await placed(cluster, "box", "a")
    _, hosts, problem = value_of(await cluster.directory.save("box", "state", 2, True))
    assert (hosts, problem) == (("a", "b"), "no other host has room for it")


async def test_a_host_that_cannot_take_a_copy_is_told_with_its_reason(cluster: Cluster) -> None:
    await placed(cluster, "box", "a")
    cluster.hosts.silent.add("b")
    await cluster.pass_time(PAST_LEASE_S)
    _, hosts, problem = value_of(await cluster.directory.save("box", "state", 1, True))
    assert hosts == ("a",)
    assert problem.startswith("host b: its last offer is "), problem


async def test_a_host_that_was_opened_again_takes_a_copy_although_its_answer_took_longer(
    cluster: Cluster,
) -> None:
    # Both answers tell of the same look of its autopilot; by the directory's clock, the second one's is older.
    await placed(cluster, "box", "a")
    opened = cluster.hosts.offers["b"]
    cluster.hosts.offers["b"] = opened._replace(closed="it is drained")
    await cluster.directory.refresh()
    cluster.hosts.offers["b"], cluster.hosts.age_s = opened, 2.0
    assert await save(cluster, "box", "state") == ("a", "b")


async def test_a_host_that_leaves_takes_its_copies_with_it(cluster: Cluster) -> None:
    await placed(cluster, "moves", "a", "elsewhere")
    assert await save(cluster, "moves", "state", copies=0) == ("a",)
    await cluster.directory.leave("a")
    assert cluster.hosts.restored == [("b", "moves", "state")], "it was sent before the host left"
    assert cluster.directory.ledger.saved["state"].hosts == ("b",)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(request("box"), {}, "no", None, 60), "save_every needs restart='elsewhere'"),
        (Order(request("box"), {}, "elsewhere", None, 5), "save_every of 5 s is less than 10 s"),
        (Order(request("box"), {"volumes": ["a:/a"]}, "elsewhere", None, 60), "has volumes"),
    ],
)
def test_saving_that_makes_no_sense_is_refused(order: Order, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_order(order)


def test_the_ledger_keeps_what_was_saved(tmp_path: Path) -> None:
    order = Order(request("box"), {}, "elsewhere", None, 60)
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.put(order, "a", "placed")
    saved = Saved("state", order, ledger.next_number(), ("a", "b"), 1000.0)
    ledger.put_saved(saved)
    ledger.note_start("box", "from saved state state")
    ledger.put(order, "b", "placed")
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.saved_of("box") == [saved]
    assert again.rows["box"] == Placed(order, "b", "placed", "from saved state state")
    assert again.next_number() == 2
    again.drop("box")
    assert (again.saved_of("box"), again.saved["state"].current) == ([], False)
    again.close()


def test_notes_of_an_earlier_version_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    notes = HostNotes()
    notes.begin(ordered("box"))
    path = tmp_path / "ballonet/cluster/host.json"
    path.write_text(path.read_text().replace('"automatic": [], ', ""))
    assert HostNotes().orders.keys() == {"box"}
    notes.automatic.add("auto-box-1")
    notes.write()
    assert HostNotes().automatic == {"auto-box-1"}


async def test_a_host_whose_clock_is_off_is_told_and_nothing_else_changes(cluster: Cluster) -> None:
    cluster.hosts.walls = {"a": time.time() + 3600, "b": time.time()}
    await placed(cluster, "moves", "a", "elsewhere")
    status = value_of(await cluster.directory.status())
    assert status["a"]["clock"] in (
        "its clock is 3600 s ahead of the head's",
        "its clock is 3599 s ahead of the head's",
    )
    assert status["b"]["clock"] is None
    assert not status["a"]["lost"]
    cluster.hosts.walls["a"] = time.time() - 7200
    await cluster.rounds()
    assert "behind the head's" in (cluster.directory.clock_problem("a") or "")


def test_a_slow_answer_is_not_taken_for_a_wrong_clock() -> None:
    assert off_by(105.0, asked_s=100.0, answered_s=110.0) == 0.0
    assert off_by(112.0, asked_s=100.0, answered_s=110.0) == 2.0
    assert off_by(97.0, asked_s=100.0, answered_s=110.0) == -3.0
    assert CLOCK_OFF_S > 1


async def three(path: Path) -> Cluster:
    made = Cluster(path, "a", "b", "c")
    # The fullest come last: copies go to b.
    made.hosts.offers["c"] = made.hosts.offers["c"]._replace(expected_mib=3000)
    await made.rounds()
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "REFRESH_S", 0.01)


def test_a_new_agent_removes_what_another_was_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    notes = HostNotes()
    notes.moving.add("paused")
    notes.automatic.add("auto-gone-1")
    for name in ("state.to-b", "state.here", "paused"):
        file_of(name).write_bytes(b"x")

    async def no_box(name: str) -> Sandbox:
        raise AssertionError(name)

    HostSnapshots(notes, no_box).remove_transfers()
    assert [path.name for path in file_of("any").parent.iterdir()] == ["paused.snapshot"]
    assert HostNotes().automatic == set()
