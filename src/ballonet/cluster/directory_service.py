"""Places sandboxes and knows where each one is, for all programs that use a cluster. It knows nothing of Ray.

There is one per cluster. It asks all hosts every :data:`REFRESH_S` seconds, and grants them leases with that; what it
knows is a copy of what they say, and a ledger of what was placed, so that it can be started again at any time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from ballonet.base.errors import BallonetError, ConfigError, NameInUseError, UnknownSandboxError
from ballonet.base.suggest import hint_for
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.failover import lost_error
from ballonet.cluster.ledger import Order, check_order, fork_of
from ballonet.cluster.moving import Moving
from ballonet.cluster.request import check_request
from ballonet.version import __version__


class DirectoryService(Moving):
    """The methods that return an :class:`Answer` never raise a :class:`BallonetError`."""

    async def create(self, order: Order) -> Answer:
        """Create a sandbox on the best host that takes it; the answer is the host."""
        name = order.name
        try:
            check_order(order)
            check_request(order.request)
            if self._where(name) is not None:
                await self.refresh()  # it may have been removed since
            self._check_free(name)
            with self.working(name):
                if order.session is not None:
                    self.sessions.setdefault(order.session, self.clock())
                answer = await self.place(order)
                if answer.code is not None:
                    self.drop(name)
                return answer
        except BallonetError as error:
            return failed(error)

    async def restore(self, snapshot: str, order: Order) -> Answer:
        """Make a sandbox of a snapshot of the cluster; the answer is its host. Its sizes are those of the one that was
        saved.

        :param order: what may differ: its name, labels of the host, settings, and who owns it.
        """
        saved = self.ledger.saved.get(snapshot)
        if saved is None:
            return failed(self.unknown_snapshot(snapshot))
        name, asked = order.name, order.request
        settings = {**saved.order.settings, "ports": (), "labels": {}, **order.settings}
        request = saved.order.request._replace(
            name=name,
            labels=asked.labels,
            group=asked.group,
            affinity=asked.affinity,
            strategy=asked.strategy,
        )
        whole = Order(request, settings, order.restart, order.session, order.save_every_s)
        try:
            check_order(whole)
            if self._where(name) is not None:
                await self.refresh()
            self._check_free(name)
            with self.working(name):
                if order.session is not None:
                    self.sessions.setdefault(order.session, self.clock())
                answer = await self.place(whole, saved=saved)
                if answer.code is not None:
                    self.drop(name)
                return answer
        except BallonetError as error:
            return failed(error)

    async def fork(self, name: str, names: Sequence[str], session: str | None) -> Answer:
        """Make copies of a sandbox on its host, which is the answer. If the host is lost meanwhile, they are removed or
        found when it returns."""
        row = self.ledger.rows.get(name)
        if row is None:
            return failed(UnknownSandboxError(f"the cluster has no sandbox {name!r}"))
        if row.state == "lost":
            return failed(lost_error(row))
        try:
            if not names or len(set(names)) != len(names):
                raise ConfigError(f"the names of copies must differ: {', '.join(names) or 'none was given'}")
            for one in names:
                self._check_free(one)
            orders = [fork_of(row.order, one, session) for one in names]
            if session is not None:
                self.sessions.setdefault(session, self.clock())
            with contextlib.ExitStack() as stack:
                for order in orders:
                    stack.enter_context(self.working(order.name))
                    self.put(order, row.host, "creating")
                answer = await self.hosts.fork(row.host, name, orders, self.leases.grant(row.host))
                if answer.code == "host-unknown":
                    return answer
                for order in orders:
                    if answer.code is None:
                        self.put(order, row.host, "placed")
                    else:
                        self.drop(order.name)
        except BallonetError as error:
            return failed(error)
        return answer if answer.code is not None else Answer(row.host)

    def _check_free(self, name: str) -> None:
        """No name is used twice in a cluster."""
        host = self._where(name)
        if host is None and name not in self.busy:
            return
        row = self.ledger.rows.get(name)
        where = f"on host {host}" if host is not None else "and is being created"
        hint = "choose another name"
        if row is not None and row.state == "lost":
            where += ", which does not answer"
            hint = f"choose another name; if that host is off for good: ballonet cluster forget {row.host}"
        raise NameInUseError(f"a sandbox {name!r} exists already, {where}", hint=hint)

    def find(self, name: str) -> Answer:
        """The host of a sandbox."""
        row = self.ledger.rows.get(name)
        if row is not None and row.state == "lost":
            return failed(lost_error(row))
        host = self._where(name)
        if host is None:
            known = [box for report, _ in self.reports.values() for box in report.sandboxes]
            return failed(
                UnknownSandboxError(
                    f"no host has a sandbox {name!r}"[:200],
                    hint=hint_for(name, known, "'ballonet cluster status' lists all sandboxes"),
                )
            )
        return Answer(host)

    def _where(self, name: str) -> str | None:
        row = self.ledger.rows.get(name)
        if row is not None:
            return row.host
        host = self.listed.get(name)
        if host is None or self.reports[host][1] <= self.changed_s.get(name, -math.inf):
            return None
        return host

    def names(self) -> Answer:
        """The hosts, and why each does not answer, as it was when they were last asked."""
        return Answer({host: self.silent.get(host) for host in sorted(self.known)})

    async def status(self) -> Answer:
        """All hosts, now: offers with their ages, sandboxes, and why a host does not answer."""
        await self.refresh()
        now = self.clock()
        found = {}
        for host in sorted(self.known):
            offer = self.directory.offers.get(host)
            boxes = dict(self.reports[host][0].sandboxes) if host in self.reports else {}
            boxes |= {row.order.name: row.state for row in self.ledger.on(host) if row.state != "placed"}
            # What the host has, but belongs elsewhere, is about to be removed there.
            for name in list(boxes):
                row = self.ledger.rows.get(name)
                if row is not None and row.host != host:
                    del boxes[name]
            names = [row.order.name for row in self.ledger.on(host)]
            started = {name: self.ledger.rows[name].started for name in names}
            found[host] = {
                "offer": offer if offer is None else offer._replace(at_s=offer.at_s - now),
                "sandboxes": boxes,
                "silent": self.silent.get(host),
                "lost": self.lost(host),
                "started": {name: how for name, how in started.items() if how},
                "unsaved": {name: self.unsaved[name] for name in names if name in self.unsaved},
                "figures": dict(self.reports[host][0].figures) if host in self.reports else {},
                "clock": self.clock_problem(host),
            }
        return Answer(found)

    def version(self) -> Answer:
        """The version of ballonet that all hosts must have."""
        return Answer(__version__)

    async def check_host(self, host: str) -> Answer:
        """Whether there is such a host."""
        self.leaving.discard(host)  # it has joined again
        await self.refresh()
        if host not in self.known:
            known = sorted(self.known)
            return failed(
                ConfigError(
                    f"the cluster has no host {host!r}"[:200],
                    hint=hint_for(host, known, f"its hosts: {', '.join(known) or 'none'}"),
                )
            )
        return Answer(host)
