"""The directory's part of a move: it decides where a sandbox goes, and from when on it belongs there.

Until the new host has it, the ledger names the old one: whatever ends meanwhile, the sandbox is there.
"""

from __future__ import annotations

from ballonet.cluster.answers import Answer
from ballonet.cluster.failover import Failover
from ballonet.cluster.ledger import Placed


class Moving(Failover):
    """Moves sandboxes away from hosts."""

    async def empty(self, host: str) -> Answer:
        """Move all sandboxes of a host; for each the new host, or why it stays as an error's words."""
        found: dict[str, tuple[str | None, str]] = {}
        for row in self.ledger.on(host):
            answer = await self.move(row)
            found[row.order.name] = (answer.value, answer.message)
        return Answer(found)

    async def move(self, row: Placed) -> Answer:
        """Move a sandbox to the host that fits best; the answer is that host."""
        order, source = row.order, row.host
        name = order.name
        if name in self.busy or row.state != "placed":
            return Answer(
                None, "busy", f"it is {'lost' if row.state == 'lost' else 'being created or removed'}"
            )
        with self.working(name):
            request = self.directory.informed(order.request)
            fits = self.directory.choose(request, self.clock()).fits
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
