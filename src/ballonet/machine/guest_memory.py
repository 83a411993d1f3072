"""What the guest says of its memory, through its agent: asked when needed, and told by itself when it stalls.

Quicker and fresher than the balloon's own statistics, which come at most once a second; those are the way out when
the agent does not answer. Nothing here is trusted: a guest that lies only harms itself.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time

from ballonet.base.errors import BallonetError, GuestError
from ballonet.base.memory import kib_to_bytes, mib_to_bytes
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.messages import Features, Ready, TrimFlags
from ballonet.guest.report import GuestReport
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.convergence import State
from ballonet.vmm.guard import GUARD_MIN_MIB, GuestReading

log = logging.getLogger(__name__)

#: A guest whose tasks lost this much time to a lack of memory …
STALL_US = 25_000
#: … within this (microseconds) gets memory back. The kernel looks ten times in a window, and takes none shorter than
#: this (Documentation/accounting/psi.rst), so a stall is told 25 to 75 ms after it began.
WINDOW_US = 500_000
#: How often a guest that stalls in the middle of a shrink is looked at (seconds).
_LOOK_AGAIN_S = 0.05
#: How long the agent may take to answer: it is locked in memory and of high priority (seconds).
_ANSWER_S = 2.0


class GuestMemory:
    """One guest's word on its memory, and the relief that it gets."""

    def __init__(self, agent: AgentClient, balloon: Balloon | None) -> None:
        self._agent = agent
        self._balloon = balloon
        self._relieving: asyncio.Task[None] | None = None
        self._asked_at = -float("inf")
        self._told: tuple[float, GuestReport] | None = None
        #: Whether stalls are watched for.
        self.relief = False

    async def start(self, ready: Ready, *, relief: bool) -> None:
        """Use the agent from now on; with ``relief``, have it tell when the guest stalls."""
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
        """What the guest says now; ``None`` if it does not answer."""
        self._asked_at = time.monotonic()
        try:
            report = await self._agent.stats(timeout_s=_ANSWER_S)
        except GuestError as error:
            log.warning("the guest does not tell its memory: %s", error)
            return None
        self._told = (time.monotonic(), report)
        return report

    async def recent_report(self, max_age_s: float) -> tuple[GuestReport, float] | None:
        """The guest's newest report and its age (seconds); ``None`` if there is none.

        The guest is asked only if it was not within ``max_age_s``. What comes back may be older where it does not
        answer.
        """
        if time.monotonic() - self._asked_at >= max_age_s:
            await self.report()
        if self._told is None:
            return None
        at, report = self._told
        return report, time.monotonic() - at

    async def read(self) -> GuestReading:
        """For a guarded shrink."""
        report = await self.report()
        available = None if report is None or report.mem_available_kib is None else report.mem_available_kib
        return GuestReading(
            at=time.monotonic(),
            available_bytes=None if available is None else kib_to_bytes(available),
            major_faults=None if report is None else report.pgmajfault,
        )

    async def trim(self, caches_percent: int, *, compact: bool, timeout_s: float) -> str | None:
        """Have the guest drop clean caches and join its free memory; what could not be done, in words."""
        flags = TrimFlags.NONE
        size_bytes = 0
        if caches_percent == 100:
            flags |= TrimFlags.SYNC | TrimFlags.DROP_CACHES
        elif caches_percent > 0:
            report = await self.report()
            if report is None or report.cached_kib is None:
                return "the guest does not tell how large its caches are"
            size_bytes = kib_to_bytes(report.cached_kib) * caches_percent // 100
        if compact:
            flags |= TrimFlags.COMPACT
        if not flags and not size_bytes:
            return None
        try:
            _, number = await self._agent.trim(size_bytes, flags, timeout_s=timeout_s)
        except GuestError as error:
            return f"the guest was not trimmed: {error}"
        if number in (0, errno.EAGAIN):  # EAGAIN: there was less to reclaim than asked, which is no failure
            return None
        return f"the guest was trimmed in part: {os.strerror(number)}"

    async def close(self) -> None:
        """Give no more relief."""
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
            log.info("the guest stalled while it gave up its caches: it has memory")
            return
        try:
            await self._balloon.relieve("the guest stalled for lack of memory")
        except BallonetError as error:
            log.warning("no pressure relief: %s", error)

    async def _falls_short(self) -> bool:
        """Whether a guest that stalls in the middle of a shrink comes to lack memory after all. The kernel tells of a
        stall only once in a window: until then it is looked at here."""
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


def _only_gives_caches(report: GuestReport, balloon: Balloon) -> bool:
    """Whether a guest stalls because the balloon's own driver is dropping its caches to make room.

    The kernel counts that as a stall for lack of memory like any other. While a shrink is under way, a guest that
    still has available what the guard leaves to it is not short: the shrink itself watches for worse.
    """
    status = balloon.status
    if status.state is not State.CONVERGING or status.actual_mib is None:
        return False
    return status.target_mib < status.actual_mib and _has_to_spare(report, balloon)


def _has_to_spare(report: GuestReport, balloon: Balloon) -> bool:
    """Whether the guest has available what the guard leaves to it. One that does not tell has not."""
    if report.mem_available_kib is None:
        return False
    return kib_to_bytes(report.mem_available_kib) >= mib_to_bytes(max(balloon.spec.guard_mib, GUARD_MIN_MIB))
