"""The directory's part of snapshots: it has sandboxes saved and copied to other hosts, and knows where copies are."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Coroutine
from typing import Any

from ballonet.base.errors import (
    BallonetError,
    BusyError,
    ConfigError,
    UnknownSandboxError,
    UnknownSnapshotError,
)
from ballonet.base.suggest import hint_for
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.directory_state import REFRESH_S, DirectoryState
from ballonet.cluster.host_report import HostReport
from ballonet.cluster.ledger import Placed, Saved
from ballonet.lifecycle.snapshots import name_in_use
from ballonet.settings.config import check_name

log = logging.getLogger(__name__)

#: How long a restart waits for a host that has the last saved state and does not answer (seconds): after a restart of
#: the head, hosts join again one after the other.
RETURN_S = 60.0
#: The most copies of a snapshot on other hosts.
MOST_COPIES = 8
#: How many hosts that cannot take a copy are told with their reasons.
_SHOWN = 3


class Saving(DirectoryState):
    """Snapshots of the cluster's sandboxes."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        #: Sandboxes that are being saved, and snapshots that are being made or copied.
        self._saving: set[str] = set()
        self._making: set[str] = set()
        #: When each sandbox was last saved by itself, or first seen; why that failed; when each snapshot was changed.
        self._last_save_s: dict[str, float] = {}
        self.unsaved: dict[str, str] = {}
        self._snapshot_changed_s: dict[str, float] = {}

    async def save(self, name: str, snapshot: str | None, copies: int, trim: bool) -> Answer:
        """Save a sandbox. The answer is the snapshot's name, its hosts, and why there are fewer copies than asked for
        (or ``None``)."""
        try:
            await self.refresh()  # which hosts take copies may just have changed
            row = self._savable(name)
            if not 0 <= copies <= MOST_COPIES:
                raise ConfigError(f"copies is {copies}, but must be from 0 to {MOST_COPIES}")
            if snapshot is None:
                snapshot = f"{name[:46]}-{time.strftime('%Y%m%d-%H%M%S')}"
            check_name(snapshot)
            holders = [host for host, offer in self.directory.offers.items() if snapshot in offer.states]
            if snapshot in self.ledger.saved or snapshot in self._making or holders:
                error = name_in_use(snapshot)
                where = f", on host {holders[0]}" if holders else ""
                raise type(error)(error.message + where, hint=error.hint)
            return await self._save(row, snapshot, copies, trim, automatic=False)
        except BallonetError as error:
            return failed(error)

    def _savable(self, name: str) -> Placed:
        """:raises BallonetError: there is no such sandbox, or it is lost, or busy."""
        row = self.ledger.rows.get(name)
        if row is None:
            hint = hint_for(name, self.ledger.rows, "'ballonet --cluster auto ls' lists all sandboxes")
            raise UnknownSandboxError(f"the cluster has no sandbox {name!r}"[:200], hint=hint)
        if row.state != "placed" or name in self.busy or name in self._saving:
            raise BusyError(
                f"sandbox {name!r} is lost, or is being created, moved, removed or saved", hint="try again"
            )
        return row

    async def _save(self, row: Placed, snapshot: str, copies: int, trim: bool, *, automatic: bool) -> Answer:
        name, host = row.order.name, row.host
        self._saving.add(name)
        self._making.add(snapshot)
        try:
            answer = await self._unless_lost(
                host, self.hosts.snapshot(host, "save", name, snapshot, automatic, trim)
            )
            if answer.code is not None:
                return answer
            now = self.ledger.rows.get(name)
            current = now is not None and now.order is row.order
            number = self.ledger.next_number()
            saved = Saved(snapshot, row.order, number, (host,), time.time(), current, automatic)
            self._put_saved(saved)
            problem = await self._copy(saved, copies)
            saved = self.ledger.saved.get(snapshot, saved)
            return Answer((snapshot, saved.hosts, problem))
        finally:
            self._saving.discard(name)
            self._making.discard(snapshot)

    async def _copy(self, saved: Saved, copies: int) -> str | None:
        """Have copies made on other hosts; why there are fewer."""
        request = self.directory.informed(saved.order.request)
        source, tried = saved.hosts[0], set(saved.hosts)
        problems: list[str] = []
        while len(saved.hosts) <= copies:
            placement = self.directory.choose(request, self.clock())
            target = next(
                (
                    fit.host
                    for fit in placement.fits
                    if fit.host not in tried and saved.snapshot not in self.directory.offers[fit.host].states
                ),
                None,
            )
            if target is None:
                refusals = [one for one in placement.refusals if one.host not in tried]
                problems += [f"host {one.host}: {one.reason}" for one in refusals[:_SHOWN]]
                return "; ".join(problems) or "no other host has room for it"
            tried.add(target)
            answer = await self._fetch(target, saved, source)
            if answer.code is not None:
                problems.append(f"host {target}: {answer.message}")
                continue
            saved = self.ledger.saved.get(saved.snapshot, saved)
            self._put_saved(saved._replace(hosts=(*saved.hosts, target)))
            saved = self.ledger.saved[saved.snapshot]
        return None

    async def _fetch(self, host: str, saved: Saved, source: str) -> Answer:
        """Have a host get a copy from another one."""
        answer = await self._unless_lost(
            host, self.hosts.fetch(host, saved.snapshot, source, saved.automatic)
        )
        if answer.code is not None:  # the host may have ended before it said that it has read all
            await self.hosts.snapshot(source, "end_export", f"{saved.snapshot}.to-{host}")
        return answer

    async def _unless_lost(self, host: str, asking: Coroutine[Any, Any, Answer]) -> Answer:
        """The answer of a host, or that the host is lost."""
        task = asyncio.ensure_future(asking)
        while not task.done():
            await asyncio.wait({task}, timeout=REFRESH_S)
            if not task.done() and self.lost(host):
                task.cancel()
                return Answer(None, "host", f"host {host} does not answer any more")
        answer = task.result()
        return answer if answer.code != "host-unknown" else answer._replace(code="host")

    def save_due(self) -> None:
        """Save the sandboxes whose time has come."""
        now_s = self.clock()
        for name, row in self.ledger.rows.items():
            every_s = row.order.save_every_s
            if every_s is None:
                continue
            since_s = now_s - self._last_save_s.setdefault(name, now_s)
            ready = row.state == "placed" and name not in self.busy and name not in self._saving
            if since_s >= every_s and ready and row.host not in self.silent:
                self._last_save_s[name] = now_s
                self.in_background(self._save_again(row))
        for name in self._last_save_s.keys() - self.ledger.rows.keys():
            del self._last_save_s[name]
            self.unsaved.pop(name, None)

    async def _save_again(self, row: Placed) -> None:
        """Save a sandbox for a restart elsewhere. What was saved before is removed when a copy is on another host."""
        name = row.order.name
        snapshot = f"auto-{name[:40]}-{secrets.token_hex(4)}"
        answer = await self._save(row, snapshot, 1, trim=True, automatic=True)
        self._last_save_s[name] = self.clock()
        problem = answer.message if answer.code is not None else answer.value[2]
        if problem is not None:
            if self.unsaved.get(name) != problem:
                log.warning("sandbox %s was not saved on another host: %s", name, problem)
            self.unsaved[name] = problem
            if answer.code is not None:
                return
        else:
            self.unsaved.pop(name, None)
        older = [one for one in self.ledger.saved_of(name) if one.automatic and one.snapshot != snapshot]
        elsewhere = [one for one in older if set(one.hosts) - {row.host}]
        keep = elsewhere[:1] if problem is not None else []
        for one in older:
            if one not in keep:
                self.ledger.drop_saved(one.snapshot)  # its hosts remove it when they report it

    def compare_snapshots(self, host: str, report: HostReport, asked_s: float) -> None:
        has = report.offer.states
        for snapshot in self.ledger.saved_on.get(host, set()) - has:
            if self._snapshot_changed_s.get(snapshot, -math.inf) >= asked_s:
                continue
            saved = self.ledger.saved[snapshot]
            left = tuple(one for one in saved.hosts if one != host)  # somebody removed it there
            if left:
                self._put_saved(saved._replace(hosts=left))
            else:
                self.ledger.drop_saved(saved.snapshot)
        for snapshot in report.automatic - self.ledger.saved.keys() - self._making:
            self.in_background(self._remove_there(host, snapshot))

    async def _remove_there(self, host: str, snapshot: str) -> None:
        answer = await self.hosts.snapshot(host, "remove", snapshot)
        if answer.code is not None:
            log.info("snapshot %s on host %s was not removed yet: %s", snapshot, host, answer.message)

    async def remove_snapshot(self, snapshot: str) -> Answer:
        """Remove a snapshot on all hosts that have it; the answer is those hosts."""
        saved = self.ledger.saved.get(snapshot)
        if saved is None:
            return failed(self.unknown_snapshot(snapshot))
        if snapshot in self._making:
            return failed(BusyError(f"snapshot {snapshot!r} is being copied", hint="try again"))
        for host in saved.hosts:
            answer = await self.hosts.snapshot(host, "remove", snapshot)
            if answer.code is not None:
                return answer._replace(message=f"host {host}: {answer.message}")
        self.ledger.drop_saved(snapshot)
        return Answer(saved.hosts)

    def find_snapshot(self, snapshot: str) -> Answer:
        """The hosts that have a snapshot, those that answer first."""
        saved = self.ledger.saved.get(snapshot)
        if saved is None or not saved.hosts:
            return failed(self.unknown_snapshot(snapshot))
        answering = self.holders(saved)
        return Answer((*answering, *(host for host in saved.hosts if host not in answering)))

    def unknown_snapshot(self, snapshot: str) -> UnknownSnapshotError:
        holders = [host for host, offer in self.directory.offers.items() if snapshot in offer.states]
        if holders:
            return UnknownSnapshotError(
                f"snapshot {snapshot!r} was not made through the cluster",
                hint=f"host {holders[0]} has it: use it there",
            )
        hint = hint_for(snapshot, self.ledger.saved, "'ballonet --cluster auto snapshot ls' lists all")
        return UnknownSnapshotError(f"the cluster has no snapshot {snapshot!r}"[:200], hint=hint)

    def snapshots(self) -> Answer:
        """All snapshots that the cluster made, the oldest first: name, sandbox, hosts, age, and whether it is a state
        of the sandbox that has that name now, and was made by itself."""
        found = []
        for saved in sorted(self.ledger.saved.values(), key=lambda saved: saved.number):
            age_s = max(0.0, time.time() - saved.saved_s)
            what = saved.snapshot, saved.order.name, saved.hosts, age_s, saved.current, saved.automatic
            found.append(what)
        return Answer(found)

    def holders(self, saved: Saved) -> list[str]:
        """The hosts that have it and answer."""
        return [host for host in saved.hosts if host in self.reports and host not in self.silent]

    def last_saved(self, name: str) -> tuple[Saved | None, str | None]:
        """The last state of a sandbox that can be used now; or which host to wait for, because it may return with a
        later one."""
        row = self.ledger.rows.get(name)
        for saved in self.ledger.saved_of(name):
            if self.holders(saved):
                return saved, None
            for host in saved.hosts:
                quiet_s = self.clock() - max(self.began_s, self.heard_s.get(host, -math.inf))
                if quiet_s < RETURN_S and (row is None or host != row.host):
                    return None, host
        return None, None

    def lose_copies(self, host: str) -> None:
        """A host has left with its copies."""
        for snapshot in list(self.ledger.saved_on.get(host, ())):
            saved = self.ledger.saved[snapshot]
            left = tuple(one for one in saved.hosts if one != host)
            if left:
                self._put_saved(saved._replace(hosts=left))
            else:
                self.ledger.drop_saved(snapshot)

    async def fetch_for(self, host: str, saved: Saved) -> Answer:
        """Have a host get a copy of a snapshot, unless it has one."""
        saved = self.ledger.saved.get(saved.snapshot, saved)
        if host in saved.hosts:
            return Answer(host)
        source = next(iter(self.holders(saved)), None)
        if source is None:
            return Answer(None, "host", f"no host that answers has snapshot {saved.snapshot!r}")
        self._making.add(saved.snapshot)
        try:
            answer = await self._fetch(host, saved, source)
        finally:
            self._making.discard(saved.snapshot)
        known = self.ledger.saved.get(saved.snapshot)
        if answer.code is None and known is not None and host not in known.hosts:
            self._put_saved(known._replace(hosts=(*known.hosts, host)))
        return answer

    def _put_saved(self, saved: Saved) -> None:
        self.ledger.put_saved(saved)
        self._snapshot_changed_s[saved.snapshot] = self.clock()
        for snapshot in self._snapshot_changed_s.keys() - self.ledger.saved.keys():
            del self._snapshot_changed_s[snapshot]
