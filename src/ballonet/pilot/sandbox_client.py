"""The autopilot's connection to one sandbox: an ordinary client of its control socket.

It queries the balloon at each tick, which costs the guest nothing. It requests guest statistics while values change,
otherwise every :data:`QUIET_S`, so that an idle guest is rarely woken. A watch reports immediately when another
client, above all the sandbox's own pressure relief, has raised the target.
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

#: How often the statistics of a guest are requested while nothing changes (seconds).
QUIET_S = 5.0
#: Changes of resident memory up to this do not count (MiB).
_STILL_MIB = 2
#: A sandbox is left alone when its answer is overdue by this much, times the tasks per processor of the host (seconds).
#: Until then its last figures are used.
ANSWER_S = 2.0
#: Time limit for one call; afterwards the sandbox is called again (seconds).
_CALL_S = 10.0
#: Time limit for a guest to drop caches (seconds).
_TRIM_S = 10.0
#: Pause between attempts to watch a sandbox that does not answer (seconds).
_WATCH_AGAIN_S = 1.0


class SandboxClient:
    """Created by :class:`~ballonet.pilot.fleet.Fleet`; :meth:`close` it when the sandbox is gone."""

    def __init__(self, member: Member, on_raise: Callable[[], None]) -> None:
        self.member = member
        self._on_raise = on_raise
        self._client: Client | None = None
        self._balloon: BalloonSnapshot | None = None
        self._stats: Stats | None = None
        self._stats_at = 0.0
        self._asked_at = 0.0
        self._moves = True
        self._error: str | None = "it has not answered yet"
        #: The last target that this client requested, to recognize targets set by others.
        self._requested_mib: int | None = None
        self._observing: asyncio.Task[None] | None = None
        self._watching = asyncio.create_task(self._watch(), name=f"watch {member.name}")

    def observe(self) -> asyncio.Task[None] | None:
        """Start a query; ``None`` while an earlier one is still pending. :meth:`view` has the result."""
        if self._observing is not None and not self._observing.done():
            return None
        self._asked_at = time.monotonic()
        self._observing = asyncio.create_task(self._ask(), name=f"observe {self.member.name}")
        return self._observing

    def view(self, load: float = 1.0) -> SandboxView:
        """What is known about it, with the problem if something is missing.

        :param load: tasks per processor of the host: a busy one is given more time to answer.
        """
        member, balloon, stats = self.member, self._balloon, self._stats
        problem = self._error
        late = self._observing is not None and not self._observing.done()
        late_s = time.monotonic() - self._asked_at
        if problem is None and late and late_s >= ANSWER_S * load:
            problem = f"it has not answered for {late_s:.0f} s; the host has {load:.1f} tasks per processor"
        if balloon is None or stats is None:
            # As long as nothing is known, it may hold up to its ceiling.
            return SandboxView(
                name=member.name,
                ceiling_mib=member.ceiling_mib,
                floor_mib=0,
                target_mib=member.ceiling_mib,
                actual_mib=None,
                weight=member.weight,
                reserve_mib=member.reserve_mib,
                pausable=member.pausable,
                problem=problem or "nothing is known about it yet",
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
            pausable=member.pausable,
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
            guest_inactive_mib=guest.inactive_caches_mib,
            # Old totals would look like those of an idle guest.
            engine_cpu_s=None if late else balloon.engine_cpu_s,
            engine_io_mib=None if late else balloon.engine_io_mib,
        )

    async def set(self, target_mib: int) -> str | None:
        """Set the target; the reason in words if that failed."""
        self._requested_mib = target_mib
        try:
            async with asyncio.timeout(_CALL_S):
                client = await self._connected()
                reply = await client.set(target_mib)
        except (BallonetError, TimeoutError) as error:
            await self._hang_up()
            return _in_words(error)
        if self._balloon is not None:
            self._balloon = replace(self._balloon, target_mib=reply.target_mib)
        self._moves = True
        return None

    async def trim(self, mib: int, *, gentle: bool) -> str | None:
        """Have the guest drop this much of its clean caches, which takes time; the reason in words if that failed.

        :param gentle: only while it is idle, at the lowest priority.
        """
        from ballonet.control.backend import TrimRequest
        from ballonet.control.client import Client

        caches = None if self._stats is None else self._stats.guest.disk_caches_mib
        if not caches:
            return "it does not report its caches"
        # At most 99 %: dropping everything would write back dirty pages first, which nobody requested.
        request = TrimRequest(
            min(99, 100 * mib // caches), compact=True, inflate=False, timeout_s=_TRIM_S, gentle=gentle
        )
        try:
            # On a separate connection, so that the queries of the next ticks do not wait for it.
            async with await Client.connect(self.member.control_socket) as client:
                await client.trim(request)
        except BallonetError as error:
            return _in_words(error)
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
            self._error = _in_words(error)
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
        # If the guest stalled or its memory changed, query it again at the next tick.
        self._moves = before is None or (
            before.pressure.some_total_us != stats.pressure.some_total_us
            or abs((before.guest.available_mib or 0) - (stats.guest.available_mib or 0)) > _STILL_MIB
        )

    async def _watch(self) -> None:
        """Report when another client raises the target."""
        from ballonet.control.client import Client

        while True:
            try:
                async with await Client.connect(self.member.control_socket) as client:
                    async for balloon in client.watch():
                        known = self._balloon
                        if (
                            known is not None
                            and balloon.target_mib > known.target_mib
                            and balloon.target_mib != self._requested_mib
                        ):
                            self._note_balloon(balloon)
                            self._on_raise()
            except BallonetError:
                pass  # the queries report the problem
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


def _in_words(error: BaseException) -> str:
    return error.message if isinstance(error, BallonetError) else f"no answer within {_CALL_S:g} s"
