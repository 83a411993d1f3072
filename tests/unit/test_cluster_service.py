"""The directory of a cluster with hosts that are simulated here, without Ray."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ballonet.base.errors import (
    AdmissionError,
    CommandTimeoutError,
    ConfigError,
    NameInUseError,
    UnknownSandboxError,
)
from ballonet.cluster.answers import Answer, failed, value_of
from ballonet.cluster.directory_service import DirectoryService
from ballonet.cluster.host_report import Figures, Grant, HostReport
from ballonet.cluster.ledger import Ledger, Order
from ballonet.cluster.offer import HostOffer
from ballonet.pilot.admission import ENGINE_MIB
from ballonet.version import __version__
from tests.unit.cluster_inputs import offer, request


class FakeHosts:
    """Hosts that keep their own books, and refuse above their budgets as a real host's admission does."""

    def __init__(self, *offers: HostOffer) -> None:
        self.offers = {one.host: one._replace(version=__version__) for one in offers}
        self.boxes: dict[str, dict[str, Order]] = {one.host: {} for one in offers}
        #: Hosts that do not answer; that create, and then do not answer; and what is being created there.
        self.silent: set[str] = set()
        self.late: set[str] = set()
        self.creating: dict[str, set[str]] = {}
        self.fenced: set[str] = set()
        self.removed: list[tuple[str, str]] = []
        #: Sandboxes that are paused to be moved, that cannot be, and what happens while one is sent.
        self.moving: set[str] = set()
        self.immovable: set[str] = set()
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.grants: dict[str, Grant] = {}
        #: The snapshots of each host; those that cannot be restored there; what was restored, and where; wall clocks.
        self.snapshots: dict[str, set[str]] = {one.host: set() for one in offers}
        self.broken: set[tuple[str, str]] = set()
        self.restored: list[tuple[str, str, str]] = []
        self.walls: dict[str, float] = {}
        self.figures: dict[str, Figures] = {}
        self.ended_exports: list[str] = []
        self.marks = 0.0
        self.age_s = 0.0
        self.answers: dict[str, Answer] = {}
        self.gate: asyncio.Event | None = None

    async def names(self) -> list[str]:
        return list(self.offers)

    async def report(self, host: str, grant: Grant) -> Answer:
        self.grants[host] = grant
        if host in self.silent or host in self.answers:
            return self.answers.get(host, Answer(None, "host", "no answer"))
        made = self.offers[host]
        for one in self.boxes[host].values():
            made = made.with_placed(one.request)
        orders = dict(self.boxes[host])
        states = dict.fromkeys(orders, "running")
        creating = frozenset(self.creating.get(host, ()))
        fenced = frozenset(self.fenced & orders.keys())
        self.marks += 1
        moving = frozenset(self.moving & orders.keys())
        made = made._replace(at_s=-self.age_s, states=frozenset(self.snapshots[host]))
        automatic = frozenset(name for name in self.snapshots[host] if name.startswith("auto-"))
        return Answer(
            HostReport(
                made,
                states,
                self.marks,
                orders,
                creating,
                fenced,
                moving,
                automatic,
                figures={name: self.figures[name] for name in orders if name in self.figures},
                wall_s=self.walls.get(host),
            )
        )

    async def snapshot(self, host: str, method: str, *what: Any) -> Answer:
        if host in self.silent:
            return Answer(None, "host", "no answer")
        if host in self.answers:
            return self.answers[host]
        if method == "save":
            name, snapshot, automatic, _ = what
            assert automatic == snapshot.startswith("auto-")
            assert name in self.boxes[host]
            self.snapshots[host].add(snapshot)
        elif method == "end_export":
            self.ended_exports.append(what[0])
        else:
            assert method == "remove"
            self.snapshots[host].discard(what[0])
        return Answer(what[0])

    async def fetch(self, host: str, snapshot: str, source: str, automatic: bool) -> Answer:
        assert snapshot in self.snapshots[source], "it is sent by a host that has it"
        assert source not in self.silent
        if (host, "fetch") in self.broken:
            return Answer(None, "image", "this host does not have the image")
        self.snapshots[host].add(snapshot)
        return Answer(snapshot)

    async def restore(self, host: str, order: Order, permit_s: float | None, snapshot: str) -> Answer:
        assert snapshot in self.snapshots[host]
        if (host, snapshot) in self.broken:
            return Answer(None, "snapshot", "it was saved with another engine")
        answer = await self.create(host, order, permit_s)
        if answer.code is None:
            self.restored.append((host, order.name, snapshot))
        return answer

    async def fork(self, host: str, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer:
        assert name in self.boxes[host]
        if host in self.answers:
            return self.answers[host]
        self.boxes[host] |= {order.name: order for order in orders}
        return Answer(name)

    async def pack_up(self, host: str, name: str) -> Answer:
        if name in self.immovable:
            return failed(ConfigError(f"sandbox {name!r} has volumes"))
        self.moving.add(name)
        return Answer(name)

    async def take_over(self, host: str, order: Order, permit_s: float | None, source: str) -> Answer:
        assert order.name in self.moving, "it is paused before it starts elsewhere"
        if self.meanwhile is not None:
            await self.meanwhile()
        if host in self.answers:
            return self.answers[host]
        self.boxes[host][order.name] = order
        return Answer(order.name)

    async def put_back(self, host: str, name: str) -> Answer:
        self.moving.discard(name)
        return Answer(name)

    async def remove(self, host: str, name: str, force: bool) -> Answer:
        if host in self.silent:
            return Answer(None, "host", "no answer")
        if name not in self.boxes[host]:
            return failed(UnknownSandboxError(f"no sandbox {name!r}"))
        self.removed.append((host, name))
        del self.boxes[host][name]
        self.moving.discard(name)
        self.fenced.discard(name)
        return Answer(name)

    async def create(self, host: str, order: Order, permit_s: float | None) -> Answer:
        await asyncio.sleep(0)
        request = order.request
        if host in self.silent:
            await asyncio.Event().wait()
        if host in self.late:
            self.late.discard(host)
            self.boxes[host][request.name] = order
            return Answer(None, "host-unknown", "its agent ended")
        if self.gate is not None:
            await self.gate.wait()
        if host in self.answers:
            return self.answers[host]
        made = self.offers[host]
        held = sum(one.request.promise_mib for one in self.boxes[host].values())
        if held + request.promise_mib > made.usable_mib:
            return failed(AdmissionError(f"it needs {request.promise_mib} MiB"))
        self.boxes[host][request.name] = order
        return Answer(request.name)


def _ticking() -> Callable[[], float]:
    """A clock on which every look comes later."""
    ticks = itertools.count(1_000_000)
    return lambda: next(ticks) / 1000


def ordered(name: str, **how: Any) -> Order:
    return Order(request(name), {}, **how)


async def service(hosts: FakeHosts) -> DirectoryService:
    made = DirectoryService(hosts, Ledger(":memory:"), clock=_ticking())
    await made.refresh()
    return made


async def test_thirty_creates_at_once_keep_every_budget_and_are_where_the_directory_says() -> None:
    hosts = FakeHosts(offer("a"), offer("b"), offer("c", budget_mib=5000, available_mib=5000))
    directory = await service(hosts)
    wanted = [request(f"box-{at}", expected_mib=100) for at in range(30)]
    answers = await asyncio.gather(*(directory.create(Order(one, {})) for one in wanted))
    for one, answer in zip(wanted, answers, strict=True):
        if answer.code is None:
            assert one.name in hosts.boxes[answer.value]
            assert directory.find(one.name).value == answer.value
    for host, boxes in hosts.boxes.items():
        assert sum(one.request.promise_mib for one in boxes.values()) <= hosts.offers[host].usable_mib
    placed = sum(len(boxes) for boxes in hosts.boxes.values())
    assert placed == sum(answer.code is None for answer in answers) == 30


async def test_a_new_directory_is_rebuilt_from_the_hosts() -> None:
    hosts = FakeHosts(offer("a"), offer("b"))
    first = await service(hosts)
    for at in range(6):
        await first.create(Order(request(f"box-{at}"), {}))
    second = await service(hosts)
    for at in range(6):
        assert second.find(f"box-{at}") == first.find(f"box-{at}")
    with pytest.raises(NameInUseError, match=r"a sandbox 'box-3' exists already, on host [ab]"):
        value_of(await second.create(Order(request("box-3"), {})))


async def test_a_name_is_created_once_however_many_ask() -> None:
    hosts = FakeHosts(offer("a"), offer("b"))
    hosts.gate = asyncio.Event()
    directory = await service(hosts)
    tasks = [asyncio.create_task(directory.create(Order(request("box"), {}))) for _ in range(5)]
    await asyncio.sleep(0)
    hosts.gate.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(answer.code or "" for answer in answers) == ["", *["name-in-use"] * 4]
    assert sum("box" in boxes for boxes in hosts.boxes.values()) == 1


async def test_a_name_can_be_used_again_as_soon_as_its_sandbox_is_removed() -> None:
    hosts = FakeHosts(offer("a"))
    directory = await service(hosts)
    assert (await directory.create(Order(request("box"), {}))).value == "a"
    hosts.boxes["a"].clear()
    assert (await directory.create(Order(request("box"), {}))).value == "a"


async def test_copies_are_made_on_the_host_of_their_sandbox_under_names_that_are_free() -> None:
    hosts = FakeHosts(offer("a"), offer("b"))
    directory = await service(hosts)
    where = (await directory.create(ordered("box", restart="elsewhere"))).value
    assert value_of(await directory.fork("box", ["one", "two"], None)) == where
    assert directory.find("two").value == where
    assert directory.ledger.rows["one"].order.restart == "no", "elsewhere it would not be a copy"
    assert (await directory.fork("box", ["three", "one"], None)).code == "name-in-use"
    assert (await directory.fork("box", ["three", "three"], None)).code == "config"
    hosts.answers[where] = Answer(None, "guest", "the guest does not answer")
    assert (await directory.fork("box", ["three"], None)).code == "guest"
    assert set(directory.ledger.rows) == {"box", "one", "two"}


async def test_a_host_that_refuses_leads_to_the_next_and_the_error_has_all_numbers() -> None:
    hosts = FakeHosts(offer("a"), offer("b", expected_mib=1000), offer("c", promised_mib=9400))
    directory = await service(hosts)
    hosts.answers["a"] = Answer(None, "no-room", "it needs 612 MiB, but only 80 are free")
    assert (await directory.create(Order(request("one"), {}))).value == "b"
    hosts.answers["b"] = Answer(None, "host-lost", "its agent has ended")
    with pytest.raises(AdmissionError) as caught:
        value_of(await directory.create(Order(request("two"), {})))
    for words in ("a: it needs 612 MiB", "b: its agent has ended", "c: 9400 of 9500 MiB are guaranteed"):
        assert words in caught.value.message
    assert directory.find("two").code == "unknown-sandbox"


async def test_an_error_of_the_sandbox_itself_is_not_tried_elsewhere() -> None:
    hosts = FakeHosts(offer("a"), offer("b", expected_mib=1000))
    directory = await service(hosts)
    hosts.answers["a"] = failed(ConfigError("unknown image 'debain'", hint="pull it"))
    with pytest.raises(ConfigError, match="host a: unknown image 'debain'") as caught:
        value_of(await directory.create(Order(request("box"), {})))
    assert caught.value.hint == "pull it"
    assert not any(hosts.boxes.values())


async def test_a_silent_host_becomes_stale_and_is_named() -> None:
    hosts = FakeHosts(offer("a"))
    now = [1000.0]
    directory = DirectoryService(hosts, Ledger(":memory:"), clock=lambda: now[0])
    await directory.refresh()
    hosts.answers["a"] = Answer(None, "host-lost", "its agent has ended")
    now[0] += 20
    status = (await directory.status()).value
    assert status["a"]["silent"] == "its agent has ended"
    assert status["a"]["offer"].at_s == -20
    with pytest.raises(ConfigError, match="a: its last offer is 20 s old"):
        value_of(await directory.create(Order(request("box"), {})))


async def test_a_host_that_left_is_gone_with_its_sandboxes() -> None:
    hosts = FakeHosts(offer("a"))
    directory = await service(hosts)
    await directory.create(Order(request("box"), {}))
    assert (await directory.leave("a")).value == "a"
    del hosts.offers["a"]
    await directory.refresh()
    with pytest.raises(UnknownSandboxError, match="no host has a sandbox 'box'"):
        value_of(directory.find("box"))
    assert (await directory.check_host("a")).code == "config"


def test_errors_keep_their_class_message_and_hint() -> None:
    with pytest.raises(AdmissionError, match=r"^host a: no$") as caught:
        value_of(failed(AdmissionError("no", hint="stop one")), "a")
    assert caught.value.hint == "stop one"
    with pytest.raises(CommandTimeoutError):
        value_of(failed(CommandTimeoutError("late", timeout=1.0)))
    assert value_of(Answer(ENGINE_MIB)) == ENGINE_MIB
