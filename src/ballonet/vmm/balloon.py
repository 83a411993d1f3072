"""The balloon of a VM: holds the target, and is the only code that moves it.

Actual comes from the engine's events. They arrive at most once a second, so while the guest converges to a target, and
only then, actual is also read, at intervals that grow with the time since the target was set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from ballonet.base.errors import EngineError, EngineExitedError
from ballonet.base.memory import MIB, mib_to_bytes
from ballonet.vmm.balloon_device import BalloonDevice
from ballonet.vmm.config import BalloonSpec, Clamped
from ballonet.vmm.convergence import (
    POLL_SHARE,
    STALL_WINDOW_S,
    BalloonStatus,
    Convergence,
    Driver,
    State,
)
from ballonet.vmm.guard import GuestReading
from ballonet.vmm.processor_wait import ProcessorWait
from ballonet.vmm.statistics import GuestStatistics

log = logging.getLogger(__name__)

#: How often, while converging, the device's status is read to see whether the driver is still there (seconds).
_DRIVER_CHECK_S = 1.0
#: How long to wait for fresh statistics, how often to ask the guest again meanwhile, and how often to check whether
#: they have arrived (seconds).
_STATISTICS_WAIT_S, _STATISTICS_AGAIN_S, _STATISTICS_LOOK_S = 2.0, 0.25, 0.01

#: How often, while converging, the engine's waits for a processor are read (seconds): by the time that a stall is
#: judged, actual is read no more often than this, so that the judgement has the newest figure, an event aside.
_WAITS_READ_S = POLL_SHARE * STALL_WINDOW_S


class Balloon:
    """The balloon of one VM. Created by :class:`~ballonet.vmm.engine.Vm`."""

    def __init__(self, spec: BalloonSpec, device: BalloonDevice, engine_pid: int) -> None:
        self.spec = spec
        self._processor_wait = ProcessorWait(engine_pid)
        self._waits_read_at = time.monotonic()
        self._device = device
        self._convergence = Convergence(spec, time.monotonic())
        self._sent: int | None = None
        self._version = 0
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._driver_checked_at = 0.0
        self._driver_check_due = False
        self._pushing = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._quieting: asyncio.Task[None] | None = None
        #: Reads how much memory the guest has available, for a guarded shrink. The default uses the device's
        #: statistics; a faster source can be put in its place.
        self.read_guest: Callable[[], Awaitable[GuestReading]] = self._read_from_device

        #: Called with a new target in bytes before the engine gets it.
        self.before_retarget: Callable[[int], None] = lambda target_bytes: None

    @property
    def status(self) -> BalloonStatus:
        """The current status, without asking the engine."""
        return self._convergence.status

    async def start(self, first: tuple[int, int | None] | None = None) -> None:
        """Set the initial size before the guest runs: its driver applies it as soon as it loads.

        :param first: a target and a limit (MiB) in place of the initial size.
        """
        if first is not None:
            self._convergence.set_limit(first[1], time.monotonic())
            self._convergence.set_target(first[0], time.monotonic())
        await self._push()
        self._convergence.observe(await self._device.read_actual(), time.monotonic())
        self._follower = asyncio.create_task(self._follow(), name="balloon follower")

    async def stop(self) -> None:
        """Stop following actual, because the engine ends or has ended."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        if self._quieting is not None:
            self._quieting.cancel()

    async def set_target(self, requested_mib: int, *, force: bool = False) -> tuple[Clamped, int]:
        """Set the target to ``requested_mib``, clamped. Returns when the engine has the target, not when the guest has
        it.

        :returns: the clamped target, and its generation, for :meth:`wait_settled`.
        :param force: do not stop a shrink at the guard, even if the guest suffers.
        :raises EngineError: the engine refused it; the state is then ``failed``.
        """
        clamped = self._convergence.set_target(requested_mib, time.monotonic(), force=force)
        # Read now: another target may be set while the engine gets this one.
        generation = self.status.generation
        await self._retarget()
        return clamped, generation

    async def set_limit(self, limit_mib: int | None) -> None:
        """Limit targets and pressure relief to ``limit_mib`` (``None``: the ceiling), starting with the current
        target."""
        self._convergence.set_limit(limit_mib, time.monotonic())
        await self._retarget()

    async def relieve(self, reason: str) -> bool:
        """Give the guest all memory up to the limit back, in one step. False if it has it already."""
        relieved = self._convergence.relieve(reason, time.monotonic())
        if relieved:
            log.warning("balloon: %s", self.status.detail)
            await self._retarget()
        return relieved

    async def squeeze(self, timeout_s: float) -> str | None:
        """Inflate the balloon by what the guest can spare, then deflate it again, so that the host gets free memory
        back.

        Stays above the floor and leaves the guard to the guest. Returns when the guest has its memory back.

        :returns: why nothing, or not everything, was taken; ``None`` on success.
        """
        actual = self.status.actual_bytes
        reading = await self.read_guest()
        if actual is None or reading.available_bytes is None:
            return "the guest does not report its available memory"
        spare = reading.available_bytes - mib_to_bytes(self.spec.guard_mib)
        lowest = max(mib_to_bytes(self.spec.floor_mib), actual - max(0, spare))
        now = time.monotonic()
        # Half of the time for each direction.
        if not self._convergence.squeeze(lowest, now + timeout_s / 2, now):
            return "the guest has no memory to spare" if lowest >= actual else "the balloon is still moving"
        await self._retarget()
        try:
            async with asyncio.timeout(timeout_s):
                status = await self.wait_settled(self.status.generation)
        except TimeoutError:
            return f"the guest did not get its memory back within {timeout_s:g} s"
        if status.state is not State.APPLIED:
            return status.detail
        if missed := self._convergence.squeeze_missed_bytes // MIB:
            return f"the guest did not release the last {missed} MiB within {timeout_s / 2:g} s"
        return None

    async def wait_change(self, seen_version: int) -> tuple[int, BalloonStatus]:
        """Wait until the status differs from that of ``seen_version`` (start with −1). Changes coalesce."""
        while self._version == seen_version:
            await self._news.wait()
        return self._version, self.status

    async def wait_settled(self, generation: int) -> BalloonStatus:
        """Wait until the target of ``generation`` is applied, refused, failed, or superseded by a later one."""
        version = -1
        while True:
            version, status = await self.wait_change(version)
            if status.generation != generation or status.state is not State.CONVERGING:
                return status

    async def check_driver(self) -> Driver:
        """Ask the device whether a driver in the guest has taken it."""
        self._driver_checked_at = time.monotonic()
        self._driver_check_due = False
        ready = await self._device.has_driver()
        if ready is None:
            # The statistics still show whether a driver ever reported.
            ready = (await self.statistics(max_age_s=_STATISTICS_WAIT_S)).reported_at is not None
        before = self.status
        self._convergence.driver_seen(Driver.PRESENT if ready else Driver.ABSENT, time.monotonic())
        if self.status != before:
            self._note_change(before)
            self._wake.set()
        return self.status.driver

    def actual_changed(self, actual_bytes: int) -> None:
        """The engine reports a new actual."""
        self._observed(actual_bytes)
        # Actual moves although no target is pending, or before a driver was seen: a driver may have come or gone.
        status = self.status
        if status.state is not State.CONVERGING or status.driver is not Driver.PRESENT:
            self._driver_check_due = True
        self._wake.set()

    def engine_exited(self) -> None:
        """The VM is gone."""
        self._convergence.fail("the virtual machine has ended", time.monotonic())
        self._changed()

    async def statistics(self, *, max_age_s: float | None = None) -> GuestStatistics:
        """The guest's statistics.

        :param max_age_s: ask the guest again if its last report is older than this, and wait up to 2 s for the answer.
            If the guest does not answer, the result is old or empty: see ``reported_at``. ``None``: what the engine
            has.
        """
        latest = await self._device.read_statistics()
        if max_age_s is None or not _is_older(latest, max_age_s):
            return latest
        async with self._asking:
            latest = await self._device.read_statistics()
            if not _is_older(latest, max_age_s):
                return latest
            return await self._refresh_statistics(latest.reported_at or 0)

    async def _refresh_statistics(self, reported_before: int) -> GuestStatistics:
        """Have the engine ask the guest, and wait for a report with a later time, which is in whole seconds."""
        try:
            return await self._ask_for_statistics(reported_before)
        except asyncio.CancelledError:
            # The engine is stuck, or the caller gave up. When it continues, it must not go on asking the guest.
            self._quieting = asyncio.create_task(self._quiet_statistics(), name="quiet statistics")
            raise

    async def _quiet_statistics(self) -> None:
        with contextlib.suppress(EngineError):
            await self._device.quiet_statistics()

    async def _ask_for_statistics(self, reported_before: int) -> GuestStatistics:
        deadline = time.monotonic() + _STATISTICS_WAIT_S
        while True:
            await self._device.request_statistics()
            again = time.monotonic() + _STATISTICS_AGAIN_S
            while time.monotonic() < min(again, deadline):
                latest = await self._device.read_statistics()
                if latest.reported_at is not None and latest.reported_at > reported_before:
                    deadline = 0.0
                    break
                await asyncio.sleep(_STATISTICS_LOOK_S)
            if time.monotonic() >= deadline:
                await self._device.quiet_statistics()
                return latest

    async def _read_from_device(self) -> GuestReading:
        asked_at = time.time()
        statistics = await self.statistics(max_age_s=0)
        at = time.monotonic()
        if statistics.reported_at is None or statistics.reported_at < int(asked_at):
            return GuestReading(at, None, None)
        return GuestReading(at, statistics.available_bytes, statistics.major_faults)

    async def _retarget(self) -> None:
        # Sent even if it is the same as before: after an out-of-memory deflation only that moves the driver.
        self._sent = None
        await self._push()
        self._changed()
        self._wake.set()

    async def _push(self) -> None:
        """Send the engine the target that it should have now, unless it has it."""
        async with self._pushing:
            wanted = self._convergence.engine_target_bytes
            if wanted == self._sent:
                return
            self.before_retarget(mib_to_bytes(self.status.target_mib))
            try:
                await self._device.set_target(wanted)
            except EngineExitedError:
                self.engine_exited()
                raise
            except EngineError as error:
                self._convergence.fail(error.message, time.monotonic())
                self._changed()
                raise
            self._sent = wanted

    async def _follow(self) -> None:
        """Read actual while the guest converges, detect stalls, and keep the engine's target up to date."""
        while True:
            self._wake.clear()
            try:
                await self._take_step()
            except EngineExitedError:
                return  # the VM reports its end itself
            except EngineError as error:
                log.warning("balloon: %s", error)  # also in the status; the next target may succeed
                await self._wake.wait()

    async def _take_step(self) -> None:
        """Do what is due now, or wait until something is due."""
        await self._push()
        if self._driver_check_due:
            await self.check_driver()
            return
        if self._convergence.reading_due(time.monotonic()):
            await self._ask_guest()
            return
        wait_s = self._convergence.next_look(time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        if wait_s is None:
            return
        self._excuse_waiting()
        self._tick()
        self._observed(await self._device.read_actual())
        if time.monotonic() - self._driver_checked_at > _DRIVER_CHECK_S:
            await self.check_driver()

    def _excuse_waiting(self) -> None:
        """Tell the state machine how long the host did not run the engine, which costs a read for each thread."""
        now = time.monotonic()
        if now - self._waits_read_at >= _WAITS_READ_S:
            self._waits_read_at = now
            self._convergence.engine_waited(self._processor_wait.since_last(), now)

    def _tick(self) -> None:
        before = self.status
        self._convergence.tick(time.monotonic())
        if self.status != before:
            self._sent = None
            self._note_change(before)

    async def _ask_guest(self) -> None:
        """Continue or stop a guarded shrink according to the guest's report."""
        actual_before = self.status.actual_bytes
        reading = await self.read_guest()
        if actual_before is None:
            return
        before = self.status
        self._convergence.guest_reported(reading, actual_before, time.monotonic())
        if self.status != before:
            self._note_change(before)

    def _observed(self, actual_bytes: int) -> None:
        before = self.status
        self._convergence.observe(actual_bytes, time.monotonic())
        if self.status != before:
            self._note_change(before)

    def _note_change(self, before: BalloonStatus) -> None:
        after = self.status
        if after.state is not before.state:
            log.info("balloon %s: %s", after.state, after.detail or f"actual {after.actual_mib} MiB")
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()


def _is_older(statistics: GuestStatistics, max_age_s: float) -> bool:
    return statistics.reported_at is None or time.time() - statistics.reported_at > max_age_s
