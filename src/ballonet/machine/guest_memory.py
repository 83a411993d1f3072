"""The guest's memory as its agent reports it: on request, and when the guest stalls.

This is faster than the statistics of the balloon device, which have a resolution of one second and are used if the
agent does not answer. Reports are not trusted: a guest that lies harms only itself.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable

from ballonet.base.errors import BallonetError, GuestError
from ballonet.base.memory import kib_to_bytes, mib_to_bytes
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.messages import Features, Ready, TrimFlags
from ballonet.guest.report import GuestReport
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.convergence import State
from ballonet.vmm.guard import GUARD_MIN_MIB, GuestReading

log = logging.getLogger(__name__)

#: A guest whose tasks stalled on memory for this time (microseconds) …
STALL_US = 25_000
#: … within this window (microseconds) gets memory back. The kernel checks ten times per window, and accepts no shorter
#: window (Documentation/accounting/psi.rst), so a stall is reported 25 to 75 ms after it began.
WINDOW_US = 500_000
#: How often a guest that stalls during a shrink is checked (seconds).
_LOOK_AGAIN_S = 0.05
#: How long the agent may take to answer (seconds): it is locked in memory and has a high priority.
_ANSWER_S = 2.0


class GuestMemory:
    """The memory reports of one guest, and pressure relief."""

    def __init__(self, agent: AgentClient, balloon: Balloon | None) -> None:
        self._agent = agent
        self._balloon = balloon
        self._relieving: asyncio.Task[None] | None = None
        self._asked_at = -float("inf")
        self._told: tuple[float, GuestReport] | None = None
        #: Called when the guest got relief.
        self.relieved: Callable[[], None] = lambda: None
        #: Whether pressure relief is active.
        self.relief = False

    async def start(self, ready: Ready, *, relief: bool) -> None:
        """Use the agent from now on; with ``relief``, have it report stalls."""
        if self._balloon is None:
            return
        self._balloon.read_guest = self.read
        if not relief:
            return
        if Features.PRESSURE not in ready.features:
            log.warning("the guest's kernel has no pressure triggers: no pressure relief")
            return
        try:
            await self._agent.watch_pressure(STALL_US, WINDOW_US, self._stalls)
            self.relief = True
        except GuestError as error:
            log.warning("no pressure relief: %s", error)

    async def report(self) -> GuestReport | None:
        """The guest's report of now; ``None`` if it does not answer."""
        self._asked_at = time.monotonic()
        try:
            report = await self._agent.stats(timeout_s=_ANSWER_S)
        except GuestError as error:
            log.warning("the guest does not report its memory: %s", error)
            return None
        self._told = (time.monotonic(), report)
        return report

    async def recent_report(self, max_age_s: float) -> tuple[GuestReport, float] | None:
        """The newest report and its age (seconds); ``None`` if there is none.

        The guest is asked unless it was asked within ``max_age_s``. If it does not answer, the report may be older.
        """
        if time.monotonic() - self._asked_at >= max_age_s:
            await self.report()
        if self._told is None:
            return None
        at, report = self._told
        return report, time.monotonic() - at

    async def read(self) -> GuestReading:
        """The available memory and the faults, for a guarded shrink."""
        report = await self.report()
        available = None if report is None or report.mem_available_kib is None else report.mem_available_kib
        return GuestReading(
            at=time.monotonic(),
            available_bytes=None if available is None else kib_to_bytes(available),
            major_faults=None if report is None else report.pgmajfault,
        )

    async def trim(
        self, caches_percent: int, *, compact: bool, timeout_s: float, gentle: bool = False
    ) -> tuple[str | None, int | None]:
        """Have the guest drop clean caches and compact its memory.

        :param gentle: only while the guest is idle.
        :returns: what could not be done, for a person, and the caches that the guest reclaimed (bytes; ``None``:
            unknown).
        """
        flags = TrimFlags.GENTLE if gentle else TrimFlags.NONE
        size_bytes = 0
        before: GuestReport | None = None
        if caches_percent == 100 and not gentle:
            flags |= TrimFlags.SYNC | TrimFlags.DROP_CACHES
        elif caches_percent > 0:
            before = await self.report()
            if before is None or before.cached_kib is None:
                return "the guest does not report the size of its caches", None
            size_bytes = kib_to_bytes(before.cached_kib) * caches_percent // 100
        if compact:
            flags |= TrimFlags.COMPACT
        if flags in (TrimFlags.NONE, TrimFlags.GENTLE) and not size_bytes:
            return None, 0
        try:
            after, number = await self._agent.trim(size_bytes, flags, timeout_s=timeout_s)
        except GuestError as error:
            return f"the guest was not trimmed: {error}", None
        reclaimed = _reclaimed_bytes(before, after)
        if number in (
            0,
            errno.EAGAIN,
        ):  # EAGAIN: there was less to reclaim than requested, which is not a failure
            return None, reclaimed
        why = "it went to work" if gentle and number == errno.EBUSY else os.strerror(number)
        return f"the guest was trimmed only in part: {why}", reclaimed

    async def close(self) -> None:
        """End pressure relief."""
        if self._relieving is not None:
            self._relieving.cancel()
            await asyncio.wait({self._relieving})

    def _stalls(self, report: GuestReport) -> None:
        self._told = (time.monotonic(), report)
        if self._relieving is None or self._relieving.done():
            self._relieving = asyncio.create_task(self._relieve(report), name="pressure relief")

    async def _relieve(self, report: GuestReport) -> None:
        assert self._balloon is not None
        if _only_gives_caches(report, self._balloon) and not await self._falls_short():
            log.info("the guest stalled while it dropped caches; it has enough memory")
            return
        try:
            if await self._balloon.relieve("the guest stalled because memory is short"):
                self.relieved()
        except BallonetError as error:
            log.warning("no pressure relief: %s", error)

    async def _falls_short(self) -> bool:
        """Whether a guest that stalls during a shrink runs short of memory before the window ends: the kernel reports
        only one stall per window."""
        assert self._balloon is not None
        until = time.monotonic() + WINDOW_US / 1e6
        while time.monotonic() < until:
            await asyncio.sleep(_LOOK_AGAIN_S)
            report = await self.report()
            if report is None or not _has_to_spare(report, self._balloon):
                return True
            if not _only_gives_caches(report, self._balloon):
                return False  # the shrink is over
        return False


def _reclaimed_bytes(before: GuestReport | None, after: GuestReport) -> int | None:
    """What the guest's kernel reclaimed between two reports on request."""
    if before is None or before.trimmed_kib is None or after.trimmed_kib is None:
        return None
    return kib_to_bytes(max(0, after.trimmed_kib - before.trimmed_kib))


def _only_gives_caches(report: GuestReport, balloon: Balloon) -> bool:
    """Whether the guest stalls only because its balloon driver drops caches.

    The kernel counts that as a stall on memory like any other. During a shrink, a guest that still has the guard
    available is not short of memory; the shrink itself watches the guest.
    """
    status = balloon.status
    if status.state is not State.CONVERGING or status.actual_mib is None:
        return False
    return status.target_mib < status.actual_mib and _has_to_spare(report, balloon)


def _has_to_spare(report: GuestReport, balloon: Balloon) -> bool:
    """Whether the guest has at least the guard available; false if it does not report that."""
    if report.mem_available_kib is None:
        return False
    return kib_to_bytes(report.mem_available_kib) >= mib_to_bytes(max(balloon.spec.guard_mib, GUARD_MIN_MIB))
