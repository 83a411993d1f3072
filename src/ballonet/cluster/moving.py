"""The directory's part of a move: when one is made, where the sandbox goes, and from when on it belongs there.

Until the new host has it, the ledger names the old one: whatever ends meanwhile, the sandbox is there.
"""

from __future__ import annotations

import logging
from typing import Any

from ballonet.cluster.answers import Answer
from ballonet.cluster.failover import Failover
from ballonet.cluster.ledger import Placed
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.placement import Fit, judge
from ballonet.cluster.rebalance import Movable, Move, Rebalancer

log = logging.getLogger(__name__)


class Moving(Failover):
    """Moves sandboxes away from hosts."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.rebalancer = Rebalancer()
        self._rebalancing = False

    def look(self) -> None:
        super().look()
        now_s = self.clock()
        offers = {host: report.offer for host, (report, _) in self.reports.items() if host not in self.silent}
        self.rebalancer.observe(offers.values(), now_s)
        short = self.rebalancer.short(now_s)
        self.closed_by_us = dict.fromkeys(short, "it has been short of memory for minutes")
        if short and not self._rebalancing:
            move = self._next_move(offers, short, now_s)
            if move is not None:
                self._rebalancing = True
                self.in_background(self._rebalance(move))

    def _next_move(self, offers: dict[str, HostOffer], short: list[str], now_s: float) -> Move | None:
        """Only sandboxes that may be started elsewhere are moved: a move ends their connections."""
        movable: dict[str, list[Movable]] = {}
        fits: dict[str, frozenset[str]] = {}
        for row in self.ledger.rows.values():
            name, host = row.order.name, row.host
            if host not in short or row.state != "placed" or row.order.restart != "elsewhere":
                continue
            if name in self.busy or row.order.settings.get("volumes"):
                continue
            figures = self.reports[host][0].figures.get(name)
            if figures is None or figures.resident_mib is None:
                continue
            movable.setdefault(host, []).append(Movable(name, figures.resident_mib))
            request = self.directory.informed(row.order.request)
            verdicts = (
                judge(request, offer, now_s, self.directory.bounds, self.directory.version)
                for offer in self.directory.offers.values()
            )
            fits[name] = frozenset(verdict.host for verdict in verdicts if isinstance(verdict, Fit))
        return self.rebalancer.next_move(offers, movable, now_s, fits)

    async def _rebalance(self, move: Move) -> None:
        moved = False
        try:
            row = self.ledger.rows.get(move.name)
            if row is None or row.host != move.source:
                return
            answer = await self.move(row, move.target)
            moved = answer.code is None
            result = "it was moved" if moved else f"it stays: {answer.message}"
            log.warning("host %s is short of memory; sandbox %s: %s", move.source, move.name, result)
        finally:
            self._rebalancing = False
            self.rebalancer.done(move, self.clock(), moved=moved)

    async def empty(self, host: str) -> Answer:
        """Move all sandboxes of a host; for each the new host, or why it stays as an error's words."""
        found: dict[str, tuple[str | None, str]] = {}
        for row in self.ledger.on(host):
            answer = await self.move(row)
            found[row.order.name] = (answer.value, answer.message)
        return Answer(found)

    async def move(self, row: Placed, target: str | None = None) -> Answer:
        """Move a sandbox to the host that fits best, or to ``target``; the answer is that host."""
        order, source = row.order, row.host
        name = order.name
        if name in self.busy or row.state != "placed":
            return Answer(
                None, "busy", f"it is {'lost' if row.state == 'lost' else 'being created or removed'}"
            )
        with self.working(name):
            request = self.directory.informed(order.request)
            fits = self.directory.choose(request, self.clock()).fits
            if target is None:
                target = next((fit.host for fit in fits if fit.host != source), None)
            if target is None:
                return Answer(None, "no-room", self.directory.explain(request, self.clock(), {}).message)
            packed = await self.hosts.pack_up(source, name)
            if packed.code is not None:
                return packed
            self.directory.reserve(request, target)
            answer = await self.ask_to_create(target, order, source)
            self.directory.settle(name, target, self.clock(), created=answer.code is None)
            if answer.code is not None:
                back = await self.hosts.put_back(source, name)
                if back.code is not None:
                    return back._replace(message=f"{answer.message}; on {source}: {back.message}")
                return answer
            self.put(order, target, "placed")
            await self.hosts.remove(source, name, True)
            return Answer(target)
