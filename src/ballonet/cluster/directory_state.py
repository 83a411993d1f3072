"""What the directory of a cluster knows, and how it keeps knowing it: it reads all hosts again and again.

With each question it grants the host a lease (:mod:`ballonet.cluster.lease`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Literal, Protocol

from ballonet.cluster.answers import Answer
from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds
from ballonet.cluster.directory import Directory
from ballonet.cluster.host_report import Grant, HostReport
from ballonet.cluster.lease import Leases
from ballonet.cluster.ledger import Ledger, Order
from ballonet.cluster.reconcile import Findings, reconcile
from ballonet.version import __version__

log = logging.getLogger(__name__)

REFRESH_S = 2.0
#: How long a host may take for a report before the next host is read without it (seconds).
REPORT_S = 5.0


#: From which difference on a person is told that a host's wall clock is off (seconds).
CLOCK_OFF_S = 2.0


def off_by(wall_s: float, asked_s: float, answered_s: float) -> float:
    """How far a clock that showed ``wall_s`` at some time between the two others is off at least."""
    if wall_s > answered_s:
        return wall_s - answered_s
    return min(0.0, wall_s - asked_s)


class Hosts(Protocol):
    """The hosts of the cluster, as the service reaches them."""

    async def names(self) -> list[str]:
        """The hosts whose agents exist."""
        ...

    async def report(self, host: str, grant: Grant) -> Answer: ...

    async def create(self, host: str, order: Order, permit_s: float | None) -> Answer: ...

    async def fork(self, host: str, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer: ...

    async def pack_up(self, host: str, name: str) -> Answer: ...

    async def take_over(self, host: str, order: Order, permit_s: float | None, source: str) -> Answer: ...

    async def put_back(self, host: str, name: str) -> Answer: ...

    async def remove(self, host: str, name: str, force: bool) -> Answer: ...

    async def snapshot(self, host: str, method: str, *what: Any) -> Answer: ...

    async def fetch(self, host: str, snapshot: str, source: str, automatic: bool) -> Answer: ...

    async def restore(self, host: str, order: Order, permit_s: float | None, snapshot: str) -> Answer: ...


class DirectoryState:
    """The hosts, their sandboxes and leases, and the ledger. Subclasses have :meth:`act`, :meth:`compare_snapshots` and
    :meth:`look`."""

    def __init__(
        self,
        hosts: Hosts,
        ledger: Ledger,
        bounds: Bounds = DEFAULT_BOUNDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hosts = hosts
        self.ledger = ledger
        self.clock = clock
        self.directory = Directory(bounds, __version__)
        self.leases = Leases(clock())
        #: Of each host: its last report, and when it was asked for.
        self.reports: dict[str, tuple[HostReport, float]] = {}
        #: A host that has each name, whoever created it.
        self.listed: dict[str, str] = {}
        #: The hosts that there are, or were when they were last seen.
        self.known: set[str] = set()
        #: Names with which something is being done, and when the ledger's row of each name was last changed.
        self.busy: set[str] = set()
        self.changed_s: dict[str, float] = {}
        self.silent: dict[str, str] = {}
        #: When this directory began, and each host last answered.
        self.began_s = clock()
        self.heard_s: dict[str, float] = {}
        #: Hosts that are offered nothing for a while, and why.
        self.closed_by_us: dict[str, str] = {}
        #: Hosts that are leaving: what is placed there now would no longer be the cluster's.
        self.leaving: set[str] = set()
        #: How far each host's wall clock is off that of the head (seconds), as far as it certainly is.
        self.clocks: dict[str, float | None] = {}
        self.sessions: dict[str, float] = {}
        self._refreshing = asyncio.Lock()
        self.refreshed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Read all hosts, and keep reading them."""
        now_s = self.clock()
        for row in list(self.ledger.rows.values()):
            self.known.add(row.host)
            if row.order.session is not None:
                self.sessions.setdefault(row.order.session, now_s)
        await self.refresh()
        self.in_background(self._keep_reading())

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except Exception:  # a full disk may be a passing problem; leases must go on
                log.exception("the hosts were not all read")

    async def refresh(self) -> None:
        """Read all hosts once. A host that does not answer keeps its last offer, which becomes stale."""
        async with self._refreshing:
            names = await self.hosts.names()
            self.known |= set(names)
            for host in set(self.reports) - set(names):
                self.directory.forget(host)
                self._unlist(host)
            for host in self.known - set(names):
                self.silent[host] = "it has no agent"
                if not self.ledger.on(host):
                    self.forget_host(host)
            await asyncio.gather(*(self._read(host) for host in names))
            self.look()
        self.refreshed.set()
        self.refreshed = asyncio.Event()

    async def _read(self, host: str) -> None:
        asked_s, began_wall_s = self.clock(), time.time()
        kept = frozenset(
            row.order.name
            for row in self.ledger.on(host)
            if row.order.restart == "no" and row.order.session is None and row.state == "placed"
        )
        try:
            answer = await asyncio.wait_for(
                self.hosts.report(host, Grant(self.leases.grant(host), kept)), REPORT_S
            )
        except TimeoutError:
            answer = Answer(None, "host", f"it did not answer within {REPORT_S:g} s")
        if answer.code is not None:
            self.silent[host] = answer.message
            return
        report: HostReport = answer.value
        self.silent.pop(host, None)
        self.heard_s[host] = self.clock()
        self._unlist(host)
        self.reports[host] = (report, asked_s)
        self.clocks[host] = (
            None if report.wall_s is None else off_by(report.wall_s, began_wall_s, time.time())
        )
        for name in report.sandboxes:
            self.listed.setdefault(name, host)
        self.leases.received(host, report.mark_s, self.clock())
        # Its age counts from the question on, so that what was placed meanwhile is not taken as included.
        leaves = "it leaves the cluster" if host in self.leaving else None
        closed = report.offer.closed or self.closed_by_us.get(host) or leaves
        self.directory.update(
            report.offer._replace(at_s=asked_s + min(0.0, report.offer.at_s), closed=closed)
        )
        found = reconcile(host, report, self.ledger.rows, asked_s, self.changed_s, self.busy)
        self.act(host, found)
        self.compare_snapshots(host, report, asked_s)

    def _unlist(self, host: str) -> None:
        """Forget a host's report."""
        report, _ = self.reports.pop(host, (None, 0.0))
        for name in () if report is None else report.sandboxes:
            if self.listed.get(name) == host:
                del self.listed[name]

    def act(self, host: str, found: Findings) -> None:
        """Do what follows from a host's report."""
        raise NotImplementedError

    def compare_snapshots(self, host: str, report: HostReport, asked_s: float) -> None:
        """Do what follows from the snapshots that a host has."""
        raise NotImplementedError

    def look(self) -> None:
        """Called after each round of questions."""
        raise NotImplementedError

    def lost(self, host: str) -> bool:
        """Whether a host does not answer, and certainly has no lease."""
        return host in self.silent and self.leases.expired(host, self.clock())

    def clock_problem(self, host: str) -> str | None:
        """What to tell a person about a host's wall clock. Nothing here depends on it: leases and the ages of offers
        are durations that one machine has measured."""
        off_s = self.clocks.get(host)
        if off_s is None or abs(off_s) < CLOCK_OFF_S:
            return None
        return f"its clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the head's"

    @contextlib.contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Nothing else is done with this name meanwhile."""
        self.busy.add(name)
        try:
            yield
        finally:
            self.busy.discard(name)
            self.changed_s[name] = self.clock()

    def put(self, order: Order, host: str, state: Literal["creating", "placed", "lost"]) -> None:
        self.ledger.put(order, host, state)
        self.changed_s[order.name] = self.clock()

    def drop(self, name: str) -> None:
        self.ledger.drop(name)
        self.changed_s[name] = self.clock()

    def forget_host(self, host: str) -> None:
        self.known.discard(host)
        self.leaving.discard(host)
        self.clocks.pop(host, None)
        self.silent.pop(host, None)
        self.leases.forget(host)
        self.directory.forget(host)
        self._unlist(host)
