"""One sandbox as the autopilot reaches it: a client of its control socket like any other.

It asks for the balloon at each tick, which costs the guest nothing, and for the guest's statistics only as often as
something moves: an idle guest is woken every :data:`QUIET_S`. A watch tells at once when somebody else, above all the
sandbox's own pressure relief, has raised the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ballonet.base.errors import BallonetError
from ballonet.pilot.model import SandboxView

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, Stats
    from ballonet.control.client import Client
    from ballonet.pilot.member import Member

#: Statistics of a guest in which nothing moves are asked for this often (seconds).
QUIET_S = 5.0
#: How much the memory that the host holds may change before that counts as a move (MiB).
_STILL_MIB = 2
#: How long a sandbox may take for one call; it is left alone meanwhile, and asked anew afterwards (seconds).
_CALL_S = 10.0
#: How long a guest may take to drop caches (seconds).
_TRIM_S = 10.0
#: Between attempts to watch a sandbox that does not answer (seconds).
_WATCH_AGAIN_S = 1.0


class Link:
    """Made by :class:`~ballonet.pilot.fleet.Fleet`; :meth:`close` it when the sandbox is gone."""

    def __init__(self, member: Member, on_raise: Callable[[], None]) -> None:
        self.member = member
        self._on_raise = on_raise
        self._client: Client | None = None
        self._balloon: BalloonSnapshot | None = None
        self._stats: Stats | None = None
        self._stats_at = 0.0
        self._moves = True
        self._error: str | None = "it has not answered yet"
        #: What we asked for last: a target that others did not set.
        self._asked_mib: int | None = None
        self._observing: asyncio.Task[None] | None = None
        self._watching = asyncio.create_task(self._watch(), name=f"watch {member.name}")

    def observe(self) -> asyncio.Task[None] | None:
        """Ask how it is; ``None`` while an earlier question is still open. What comes back is in :meth:`view`."""
        if self._observing is not None and not self._observing.done():
            return None
        self._observing = asyncio.create_task(self._ask(), name=f"observe {self.member.name}")
        return self._observing

    def view(self) -> SandboxView:
        """What is known of it, with the problem if something is missing."""
        member, balloon, stats = self.member, self._balloon, self._stats
        problem = self._error
        if problem is None and self._observing is not None and not self._observing.done():
            problem = "it does not answer"
        if balloon is None or stats is None:
            # The ceiling is what it may hold as long as nothing is known.
            return SandboxView(
                name=member.name,
                ceiling_mib=member.ceiling_mib,
                floor_mib=0,
                target_mib=member.ceiling_mib,
                actual_mib=None,
                weight=member.weight,
                reserve_mib=member.reserve_mib,
                problem=problem or "nothing is known of it",
            )
        now = time.monotonic()
        guest, pressure = stats.guest, stats.pressure
        return SandboxView(
            name=member.name,
            ceiling_mib=balloon.ceiling_mib,
            floor_mib=balloon.floor_mib,
            target_mib=balloon.target_mib,
            actual_mib=balloon.actual_mib,
            state=balloon.state,
            weight=member.weight,
            reserve_mib=member.reserve_mib,
            resident_mib=balloon.resident_mib,
            guest_ram_mib=stats.host.guest_ram_mib,
            guest_total_mib=guest.total_mib,
            guest_free_mib=guest.free_mib,
            guest_available_mib=guest.available_mib,
            guest_caches_mib=guest.disk_caches_mib,
            guest_age_s=None if guest.age_s is None else guest.age_s + now - self._stats_at,
            pressure_some_us=pressure.some_total_us,
            pressure_full_us=pressure.full_total_us,
            major_faults=guest.major_faults,
            oom_kills=stats.oom_kills,
            refault_mib=guest.refault_mib,
            age_s=max(0.0, time.time() - member.started_at),
            problem=problem,
        )

    async def set(self, target_mib: int) -> str | None:
        """Ask for another target; why it could not be, in words."""
        self._asked_mib = target_mib
        try:
            async with asyncio.timeout(_CALL_S):
                client = await self._connected()
                reply = await client.set(target_mib)
        except (BallonetError, TimeoutError) as error:
            await self._hang_up()
            return _words(error)
        if self._balloon is not None:
            self._balloon = replace(self._balloon, target_mib=reply.target_mib)
        self._moves = True
        return None

    async def trim(self, mib: int) -> str | None:
        """Have the guest drop so much of its clean caches, which takes its time; why it could not, in words."""
        from ballonet.control.backend import TrimRequest
        from ballonet.control.client import Client

        caches = None if self._stats is None else self._stats.guest.disk_caches_mib
        if not caches:
            return "it does not tell its caches"
        # All of them would mean to write back first what is dirty: that is work which nobody asked for.
        request = TrimRequest(min(99, 100 * mib // caches), compact=True, inflate=False, timeout_s=_TRIM_S)
        try:
            # A connection of its own: the questions of the next ticks are not to wait for it.
            async with await Client.connect(self.member.control_socket) as client:
                await client.trim(request)
        except BallonetError as error:
            return _words(error)
        self._moves = True
        return None

    async def close(self) -> None:
        for task in (self._watching, self._observing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._hang_up()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_CALL_S):
                client = await self._connected()
                balloon = await client.get()
                self._note_balloon(balloon)
                if self._moves or time.monotonic() - self._stats_at >= QUIET_S:
                    self._note_stats(await client.stats())
            self._error = None
        except (BallonetError, TimeoutError) as error:
            self._error = _words(error)
            await self._hang_up()

    def _note_balloon(self, balloon: BalloonSnapshot) -> None:
        before, self._balloon = self._balloon, balloon
        self._moves = (
            self._moves
            or balloon.state == "converging"
            or before is None
            or before.target_mib != balloon.target_mib
            or before.actual_mib != balloon.actual_mib
            or abs((before.resident_mib or 0) - (balloon.resident_mib or 0)) > _STILL_MIB
        )

    def _note_stats(self, stats: Stats) -> None:
        before, self._stats = self._stats, stats
        self._stats_at = time.monotonic()
        # One that stalled or changed since the last look is looked at again at the next tick.
        self._moves = before is None or (
            before.pressure.some_total_us != stats.pressure.some_total_us
            or abs((before.guest.available_mib or 0) - (stats.guest.available_mib or 0)) > _STILL_MIB
        )

    async def _watch(self) -> None:
        """Tell when the target is raised by somebody else than us."""
        from ballonet.control.client import Client

        while True:
            try:
                async with await Client.connect(self.member.control_socket) as client:
                    async for balloon in client.watch():
                        known = self._balloon
                        if (
                            known is not None
                            and balloon.target_mib > known.target_mib
                            and balloon.target_mib != self._asked_mib
                        ):
                            self._note_balloon(balloon)
                            self._on_raise()
            except BallonetError:
                pass  # what is wrong is said by the questions
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def _connected(self) -> Client:
        if self._client is None:
            from ballonet.control.client import Client

            self._client = await Client.connect(self.member.control_socket, deadline_s=_CALL_S)
        return self._client

    async def _hang_up(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with contextlib.suppress(BallonetError):
                await client.close()


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, BallonetError) else f"no answer within {_CALL_S:g} s"
