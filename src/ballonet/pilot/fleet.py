"""All sandboxes that the autopilot looks after: found in the registry, asked all at once, none waited for long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.registry import Registry
from ballonet.pilot.claim import looks_after
from ballonet.pilot.link import Link
from ballonet.pilot.member import Member
from ballonet.pilot.model import SandboxView

#: How long a tick waits for answers; who has not answered by then is left alone (seconds).
TICK_DEADLINE_S = 0.5


class Fleet:
    """``only``: patterns of names (fnmatch); all sandboxes by default."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self._only = tuple(only)
        self._links: dict[str, Link] = {}
        self._late: set[asyncio.Task[str | None]] = set()
        #: Set when somebody else than the autopilot has raised a target.
        self.raised = asyncio.Event()

    async def discover(self) -> None:
        """Look who runs now.

        :raises RegistryError: the registry cannot be read.
        """
        found = {member.name: member for member in find_members(self._only)}
        for name, link in list(self._links.items()):
            member = found.get(name)
            if member is None or member.run_id != link.member.run_id:
                await self._links.pop(name).close()
            else:
                link.member = member  # its weight or reserve may be another now
        for name, member in found.items():
            if name not in self._links:
                self._links[name] = Link(member, self.raised.set)

    async def observe(self) -> list[SandboxView]:
        """Ask all, wait a little, and say what is known."""
        # Those that still owe an earlier answer are not waited for again: one that is stuck delays one tick, once.
        asked = [task for link in self._links.values() if (task := link.observe()) is not None]
        if asked:
            await asyncio.wait(asked, timeout=TICK_DEADLINE_S)
        return [link.view() for link in self._links.values()]

    async def apply(self, targets: Mapping[str, int]) -> dict[str, str]:
        """Ask for targets, all at once; by name, why one could not be.

        One that does not answer is not waited for: its request stays under way.
        """
        tasks = {
            name: asyncio.create_task(self._links[name].set(target), name=f"set {name}")
            for name, target in targets.items()
            if name in self._links
        }
        if not tasks:
            return {}
        await asyncio.wait(tasks.values(), timeout=TICK_DEADLINE_S)
        failed = {}
        for name, task in tasks.items():
            error = task.result() if task.done() else f"no answer within {TICK_DEADLINE_S:g} s"
            if error is not None:
                failed[name] = error
            if not task.done():
                self._leave(task)
        return failed

    def trim(self, amounts: Mapping[str, int]) -> None:
        """Have guests drop caches (MiB). Nobody waits for that: what came of it shows in what they hold."""
        for name, mib in amounts.items():
            if name in self._links:
                self._leave(asyncio.create_task(self._links[name].trim(mib), name=f"trim {name}"))

    def _leave(self, task: asyncio.Task[str | None]) -> None:
        """Let it go on by itself, until it is done or we are."""
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        self._links.clear()


def find_members(only: Sequence[str] = ()) -> list[Member]:
    """The running sandboxes that have a balloon, the oldest first.

    :raises RegistryError: the registry cannot be read.
    """
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    members = []
    for record in records:
        if not looks_after(only, record.name):
            continue
        note = living(record) if record.state.lives else None
        if note is None or not note.ready or note.control_socket is None:
            continue
        members.append(
            Member(
                name=record.name,
                run_id=note.run_id,
                control_socket=note.control_socket,
                ceiling_mib=lifecycle.config_of(record, note.flags).memory_mib,
                weight=record.weight,
                reserve_mib=record.reserve_mib,
                started_at=note.started_at or record.created_at,
            )
        )
    return members
