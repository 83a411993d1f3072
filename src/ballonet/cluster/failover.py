"""What the directory does when a host, a program or a sandbox is lost, and how it tries one host after the other."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ballonet.base.errors import BusyError, ConfigError, HostError
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds
from ballonet.cluster.directory_state import REFRESH_S, Hosts
from ballonet.cluster.ledger import Ledger, Order, Placed, Saved
from ballonet.cluster.reconcile import Findings
from ballonet.cluster.saving import Saving

log = logging.getLogger(__name__)

#: How long a program may be silent before the sandboxes that it owns are removed (seconds).
SESSION_S = 15.0
#: After a restart elsewhere has failed, when the next is tried (seconds).
RETRY_S = 30.0


class Failover(Saving):
    """Restarts elsewhere, and what must not run any more."""

    def __init__(
        self,
        hosts: Hosts,
        ledger: Ledger,
        bounds: Bounds = DEFAULT_BOUNDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(hosts, ledger, bounds, clock)
        self._retry_s: dict[str, float] = {}

    def act(self, host: str, found: Findings) -> None:
        for order in found.adopt:
            self.put(order, host, "placed")
        for row in found.found:
            self.put(row.order, host, "placed")
        for name in found.gone:
            self.drop(name)
        for name in found.evict:
            self.in_background(self._evict(host, name))
        for name in found.resume:
            self.in_background(self._put_back(host, name))
        for row in found.restart:
            if row.state != "lost":
                self.put(row.order, host, "lost")
            self._restart_soon(row.order)

    def look(self) -> None:
        self._find_lost()
        self._end_sessions()
        self.save_due()

    def _find_lost(self) -> None:
        """Sandboxes of hosts that have no lease any more."""
        for row in list(self.ledger.rows.values()):
            name = row.order.name
            if name in self.busy or not self.lost(row.host):
                continue
            if row.state != "lost":
                self.put(row.order, row.host, "lost")
            if self._was_stopped(row):
                continue
            if row.order.restart == "elsewhere":
                self._restart_soon(row.order)

    def _restart_soon(self, order: Order) -> None:
        """Start a lost sandbox again, unless that was just tried."""
        if self._retry_s.get(order.name, 0.0) <= self.clock():
            self._retry_s[order.name] = self.clock() + RETRY_S
            self.in_background(self._restart(order))

    def _was_stopped(self, row: Placed) -> bool:
        """Whether its host last said that somebody had stopped it."""
        report, _ = self.reports.get(row.host, (None, 0.0))
        name = row.order.name
        return report is not None and name not in report.fenced and report.sandboxes.get(name) == "stopped"

    def _end_sessions(self) -> None:
        for row in list(self.ledger.rows.values()):
            session = row.order.session
            if session is None or row.order.name in self.busy:
                continue
            if self.sessions.setdefault(session, self.clock()) + SESSION_S < self.clock():
                self.in_background(self._remove_quietly(row.order.name))

    def keep_session(self, session: str) -> Answer:
        """The program that owns sandboxes is there."""
        self.sessions[session] = self.clock()
        return Answer(session)

    async def end_session(self, session: str) -> Answer:
        """The program ends: its sandboxes are removed."""
        self.sessions[session] = -math.inf
        names = [name for name, row in self.ledger.rows.items() if row.order.session == session]
        await asyncio.gather(*(self._remove_quietly(name) for name in names))
        return Answer(session)

    async def _remove_quietly(self, name: str) -> None:
        if name not in self.busy:
            await self.remove(name, force=True)

    async def _evict(self, host: str, name: str) -> None:
        """End a sandbox whose name belongs to another host."""
        with self.working(name):
            log.warning("sandbox %s is on host %s, where it does not belong: it is removed there", name, host)
            await self.hosts.remove(host, name, True)

    async def _put_back(self, host: str, name: str) -> None:
        """A directory before this one did not finish a move."""
        with self.working(name):
            await self.hosts.put_back(host, name)

    async def _restart(self, order: Order) -> None:
        """Start a lost sandbox where there is room."""
        if order.name in self.busy:
            return
        with self.working(order.name):
            row = self.ledger.rows.get(order.name)
            if row is None or row.state != "lost":
                return
            if not self.lost(row.host):  # it was fenced, and its host is back
                removed = await self.hosts.remove(row.host, order.name, True)
                if removed.code not in (None, "unknown-sandbox"):
                    return
            answer = await self.start_again(order)
            if answer.code is not None:
                log.warning(
                    "sandbox %s is lost, and was not started elsewhere: %s", order.name, answer.message
                )
                self.put(order, row.host, "lost")
            else:
                self._retry_s.pop(order.name, None)

    async def start_again(self, order: Order, tried: Mapping[str, str] = MappingProxyType({})) -> Answer:
        """Start a sandbox again: from its last saved state if there is one, otherwise with an empty disk. The ledger
        keeps which it was."""
        name = order.name
        saved, awaited = self.last_saved(name)
        if awaited is not None:
            return Answer(None, "host", f"its last saved state is on host {awaited}, which may answer soon")
        why = "nothing of it was saved on a host that answers"
        if saved is not None:
            answer = await self.place(order, tried, saved)
            if answer.code is None:
                age_s = max(0.0, time.time() - saved.saved_s)
                how = f"from saved state {saved.snapshot}, which was {age_s:.0f} s old"
                self.ledger.note_start(name, f"started again on {answer.value} {how}")
                return answer
            if answer.code != "snapshot":
                return answer
            why = f"saved state {saved.snapshot} cannot be restored: {answer.message}"
            log.warning("sandbox %s: %s", name, why)
        answer = await self.place(order, tried)
        if answer.code is None:
            self.ledger.outdate(name)  # they are older than what runs now
            self.ledger.note_start(name, f"started again on {answer.value} with an empty disk: {why}"[:500])
        return answer

    async def place(
        self, order: Order, tried: Mapping[str, str] = MappingProxyType({}), saved: Saved | None = None
    ) -> Answer:
        """Create it on one host after the other. The ledger has each host before it is asked.

        :param tried: hosts that are left out, and why.
        :param saved: it continues from this. The answer has the code ``snapshot`` if no host can restore it.
        """
        tried = dict(tried)
        broken: list[str] = []
        request = self.directory.informed(order.request)
        if saved is not None:
            request = request._replace(state=saved.snapshot)
        while len(tried) < self.directory.bounds.tries:
            found = self.directory.choose(request, self.clock())
            host = next((fit.host for fit in found.fits if fit.host not in tried), None)
            if host is None:
                break
            self.put(order, host, "creating")
            self.directory.reserve(request, host)
            answer = Answer(None, "cancelled")
            try:
                answer = await self.ask_to_create(host, order, saved=saved)
            finally:
                created = answer.code is None
                self.directory.settle(request.name, host, self.clock(), created=created)
            if created:
                self.put(order, host, "placed")
                return Answer(host)
            if answer.code not in ("no-room", "host-lost"):
                if saved is None or answer.code == "name-in-use":
                    return answer._replace(message=f"host {host}: {answer.message}")
                broken.append(f"host {host}: {answer.message}")
            tried[host] = answer.message
        if broken:
            return Answer(None, "snapshot", "; ".join(broken))
        return failed(self.directory.explain(request, self.clock(), tried))

    async def ask_to_create(
        self, host: str, order: Order, source: str | None = None, saved: Saved | None = None
    ) -> Answer:
        """Ask a host. If it does not answer, wait until it certainly does not run the sandbox.

        :param source: the host that it is moved from.
        :param saved: the snapshot that it continues from.
        """
        if saved is not None:
            fetched = await self.fetch_for(host, saved)
            if fetched.code is not None:
                return fetched
        permit_s = self.leases.grant(host)
        asked_s = self.clock()
        if saved is not None:
            asking = self.hosts.restore(host, order, permit_s, saved.snapshot)
        elif source is None:
            asking = self.hosts.create(host, order, permit_s)
        else:
            asking = self.hosts.take_over(host, order, permit_s, source)
        task = asyncio.ensure_future(asking)
        while not task.done():
            await asyncio.wait({task}, timeout=REFRESH_S)
            if not task.done() and self.lost(host):
                task.cancel()
                return Answer(None, "host-lost", "it stopped answering while it created the sandbox")
        answer = task.result()
        if answer.code != "host-unknown":
            return answer
        failed_s = max(asked_s, self.clock())
        while not self.lost(host):
            report, seen_s = self.reports.get(host, (None, -math.inf))
            if report is not None and seen_s > failed_s and order.name not in report.creating:
                return (
                    Answer(order.name) if order.name in report.orders else answer._replace(code="host-lost")
                )
            await self.refreshed.wait()
        return answer._replace(code="host-lost")

    async def remove(self, name: str, force: bool) -> Answer:
        """Remove a sandbox, wherever it is."""
        row = self.ledger.rows.get(name)
        if row is None:
            host = self.listed.get(name)  # somebody created it there, without the cluster
            if host is not None:
                return await self.hosts.remove(host, name, force)
            return Answer(None, "unknown-sandbox", f"the cluster has no sandbox {name!r}")
        if name in self.busy:
            return failed(BusyError(f"sandbox {name!r} is being created or moved", hint="try again"))
        if row.state == "lost":
            return failed(lost_error(row))
        with self.working(name):
            answer = await self.hosts.remove(row.host, name, force)
            if answer.code in (None, "unknown-sandbox"):
                self.drop(name)
        return answer

    async def forget(self, host: str) -> Answer:
        """A host is off for good: somebody says so. Its sandboxes are started elsewhere, or no longer known."""
        if host in self.reports and host not in self.silent:
            return failed(
                ConfigError(f"host {host} answers", hint="'ballonet cluster leave' on that host takes it out")
            )
        for row in self.ledger.on(host):
            if row.order.restart == "elsewhere":
                await self._restart(row.order)
            if self.ledger.rows[row.order.name].host == host:
                self.drop(row.order.name)
        self.lose_copies(host)
        self.forget_host(host)
        return Answer(host)

    async def leave(self, host: str) -> Answer:
        """A host leaves. Its sandboxes keep running there and are no longer the cluster's, but those that may run
        elsewhere do so."""
        self.leaving.add(host)
        await self.refresh()  # which hosts take sandboxes may just have changed
        for row in self.ledger.on(host):
            name = row.order.name
            if name in self.busy:
                continue
            if row.order.restart == "no" and row.order.session is None:
                self.drop(name)
                continue
            with self.working(name):
                await self.hosts.remove(host, name, True)
                if row.order.session is not None and row.order.restart == "no":
                    self.drop(name)
                    continue
                answer = await self.start_again(row.order, {host: "it leaves the cluster"})
                if answer.code is not None:
                    log.warning("sandbox %s was not started elsewhere yet: %s", name, answer.message)
                    self.put(row.order, host, "lost")
        self.lose_copies(host)
        return Answer(host)


def lost_error(row: Placed) -> HostError:
    """The error for a sandbox whose host does not answer."""
    name, host = row.order.name, row.host
    if row.order.restart == "elsewhere":
        hint = (
            "it is started on another host as soon as one has room, from its last saved state if there is one"
        )
    else:
        hint = f"it is found again when {host} answers; if that host is off for good: ballonet cluster forget {host}"
    return HostError(f"sandbox {name!r} is lost: its host {host} does not answer", hint=hint)
