"""All sandboxes that the autopilot manages: found in the registry, queried concurrently, with a time limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from ballonet.base.errors import BallonetError
from ballonet.host.load import tasks_per_processor
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.registry import Registry
from ballonet.pilot.lock import manages
from ballonet.pilot.member import Member
from ballonet.pilot.model import SandboxView
from ballonet.pilot.sandbox_client import SandboxClient

#: How long a tick waits for answers (seconds). On a busy host this is multiplied by the tasks per processor, up to the
#: second value.
TICK_DEADLINE_S = 0.5
TICK_DEADLINE_MOST_S = 1.0


#: The problem of a sandbox that is being paused.
_PAUSING = "the autopilot pauses it"

log = logging.getLogger(__name__)


class Fleet:
    """:param only: name patterns (fnmatch); all sandboxes by default."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self._only = tuple(only)
        self._clients: dict[str, SandboxClient] = {}
        self._late: set[asyncio.Task[str | None]] = set()
        self._pausing: set[str] = set()
        #: Set when another client than the autopilot has raised a target.
        self.raised = asyncio.Event()

    async def discover(self) -> None:
        """Find the sandboxes that run now.

        :raises RegistryError: the registry cannot be read.
        """
        found = {member.name: member for member in find_members(self._only)}
        for name, client in list(self._clients.items()):
            member = found.get(name)
            if member is None or member.run_id != client.member.run_id:
                await self._clients.pop(name).close()
            else:
                client.member = member  # its weight or reserve may have changed
        for name, member in found.items():
            if name not in self._clients:
                self._clients[name] = SandboxClient(member, self.raised.set)

    async def observe(self) -> list[SandboxView]:
        """Query all, wait up to the deadline, and return what is known."""
        load = tasks_per_processor()
        # A sandbox with a pending query is not waited for again: one that is stuck delays a single tick.
        asked = [task for client in self._clients.values() if (task := client.observe()) is not None]
        if asked:
            await asyncio.wait(asked, timeout=min(TICK_DEADLINE_S * load, TICK_DEADLINE_MOST_S))
        views = [client.view(load) for client in self._clients.values()]
        return [view._replace(problem=_PAUSING) if view.name in self._pausing else view for view in views]

    async def apply(self, targets: Mapping[str, int]) -> dict[str, str]:
        """Set targets concurrently; returns errors by name.

        The request to a sandbox that does not answer in time stays pending.
        """
        tasks = {
            name: asyncio.create_task(self._clients[name].set(target), name=f"set {name}")
            for name, target in targets.items()
            if name in self._clients
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

    def trim(self, amounts: Mapping[str, int], gentle: Collection[str] = ()) -> None:
        """Have guests drop caches (MiB), without waiting: the result shows in their memory.

        :param gentle: the sandboxes whose guests do so only while they are idle.
        """
        for name, mib in amounts.items():
            if name in self._clients:
                trim = self._clients[name].trim(mib, gentle=name in gentle)
                self._leave(asyncio.create_task(trim, name=f"trim {name}"))

    def pause(self, name: str) -> None:
        """Pause a sandbox, without waiting. It is left alone meanwhile, and is gone when that is done. Its own process
        refuses if it is used."""
        if name in self._clients and name not in self._pausing:
            self._pausing.add(name)
            self._leave(asyncio.create_task(self._pause(name), name=f"pause {name}"))

    async def _pause(self, name: str) -> str | None:
        from ballonet.lifecycle.pause import pause_sandbox

        try:
            with Registry.open() as registry:
                paused = await pause_sandbox(registry, name, if_idle=True)
        except BallonetError as error:
            log.warning("sandbox %s was not paused: %s", name, error.message)
            return error.message
        finally:
            self._pausing.discard(name)
        if paused is not None:
            log.warning("sandbox %s was paused in %.1f s; its next use resumes it", name, paused.seconds)
        return None

    def _leave(self, task: asyncio.Task[str | None]) -> None:
        """Let the task finish in the background, or until :meth:`close`."""
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*(client.close() for client in self._clients.values()))
        self._clients.clear()


def find_members(only: Sequence[str] = ()) -> list[Member]:
    """The running sandboxes that have a balloon, the oldest first.

    :raises RegistryError: the registry cannot be read.
    """
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    members = []
    for record in records:
        if not manages(only, record.name):
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
                pausable=lifecycle.config_of(record).pausable,
                started_at=note.started_at or record.created_at,
            )
        )
    return members
