"""The balloon device: the one holder of a sandbox's target, and the only code that moves it.

Follows the engine's ``BALLOON_CHANGE`` events. Events come at most once a second, so while, and only while, the
guest is on its way to a target, actual is read beside them at intervals that grow with the time it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from ballonet.errors import EngineError, EngineExitedError
from ballonet.vmm.config import BalloonSpec, Clamped, Machine
from ballonet.vmm.convergence import BalloonStatus, Convergence, Driver, State
from ballonet.vmm.qemu_args import BALLOON_ID
from ballonet.vmm.qmp import Qmp
from ballonet.vmm.statistics import GuestStatistics, parse_statistics

log = logging.getLogger(__name__)

_OBJECT = f"/machine/peripheral/{BALLOON_ID}"
#: How often, while converging, the device's status is read to see whether the driver is still there (seconds).
_DRIVER_CHECK_S = 1.0
#: How long fresh statistics are waited for, and how often they are looked for meanwhile (seconds).
_STATISTICS_WAIT_S, _STATISTICS_LOOK_S = 2.0, 0.01


class Balloon:
    """One VM's balloon. Created by :class:`~ballonet.vmm.vm.Vm`."""

    def __init__(self, spec: BalloonSpec, machine: Machine, qmp: Qmp) -> None:
        self.spec = spec
        self._qmp = qmp
        self._status_path = _OBJECT if machine is Machine.MICROVM else f"{_OBJECT}/virtio-backend"
        self._convergence = Convergence(spec, time.monotonic())
        self._sent: int | None = None
        self._version = 0
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._driver_checked_at = 0.0
        self._pushing = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._statistics_on = False

    @property
    def status(self) -> BalloonStatus:
        """What is known now; costs nothing."""
        return self._convergence.status

    async def start(self) -> None:
        """Ask for the initial size, before the guest runs: the driver settles at it as soon as it loads."""
        await self._push()
        self._convergence.observe((await self._qmp.execute("query-balloon"))["actual"], time.monotonic())
        self._follower = asyncio.create_task(self._follow(), name="balloon follower")

    async def stop(self) -> None:
        """Stop following; the engine is about to end or has ended."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def set_target(self, requested_mib: int) -> Clamped:
        """Ask the guest for ``requested_mib``, brought into range. Returns when the engine has it, not the guest.

        :raises EngineError: the engine refused; the state is then ``failed``.
        """
        clamped = self._convergence.set_target(requested_mib, time.monotonic())
        # Said again even when it is the same: after an out-of-memory deflation only that moves the driver.
        self._sent = None
        await self._push()
        self._changed()
        self._wake.set()
        return clamped

    async def wait_change(self, seen_version: int) -> tuple[int, BalloonStatus]:
        """Wait until the status is another than that of ``seen_version`` (start with −1); changes coalesce."""
        while self._version == seen_version:
            await self._news.wait()
        return self._version, self.status

    async def wait_settled(self, generation: int) -> BalloonStatus:
        """Wait until the target of ``generation`` is applied, refused, failed, or superseded by another."""
        version = -1
        while True:
            version, status = await self.wait_change(version)
            if status.generation != generation or status.state is not State.CONVERGING:
                return status

    async def check_driver(self) -> Driver:
        """Read the device's status: is there a driver that drives it? (virtio 1.2 §2.1, ``DRIVER_OK``)."""
        self._driver_checked_at = time.monotonic()
        answer = await self._qmp.execute("x-query-virtio-status", path=self._status_path)
        statuses = answer.get("status", {}).get("statuses", [])
        ready = any("DRIVER_OK" in str(status) for status in statuses)
        self._convergence.driver_seen(Driver.PRESENT if ready else Driver.ABSENT, time.monotonic())
        self._changed()
        self._wake.set()
        return self.status.driver

    def handle_event(self, name: str, data: Mapping[str, Any]) -> None:
        """An engine event; those of other devices are ignored."""
        if name == "BALLOON_CHANGE" and isinstance(actual := data.get("actual"), int):
            self._observed(actual)
            self._wake.set()

    def engine_exited(self) -> None:
        """The VM is gone."""
        self._convergence.fail("the virtual machine has ended", time.monotonic())
        self._changed()

    async def statistics(self, *, max_age_s: float | None = None) -> GuestStatistics:
        """The guest's statistics.

        :param max_age_s: ask the guest again when its last report is older than this, and wait up to 2 s for
            the answer. What comes back may still be old, or empty, where the guest does not answer: look at
            ``reported_at``. ``None``: whatever the engine has. The guest is never asked when nobody reads.
        """
        latest = await self._read_statistics()
        if max_age_s is None or not _is_older(latest, max_age_s):
            return latest
        async with self._asking:
            asked_at = int(time.time())
            latest = await self._read_statistics()
            if not _is_older(latest, max_age_s):
                return latest
            # Turning the engine's timer off and on makes it ask at once.
            await self._set_statistics_interval(0)
            await self._set_statistics_interval(1)
            deadline = time.monotonic() + _STATISTICS_WAIT_S
            while time.monotonic() < deadline:
                latest = await self._read_statistics()
                if latest.reported_at is not None and latest.reported_at >= asked_at:
                    break
                await asyncio.sleep(_STATISTICS_LOOK_S)
            await self._set_statistics_interval(0)
        return latest

    async def _read_statistics(self) -> GuestStatistics:
        # Reading is an error until the timer was set once.
        if not self._statistics_on:
            await self._set_statistics_interval(0)
        answer = await self._qmp.execute("qom-get", path=_OBJECT, property="guest-stats")
        return parse_statistics(answer, self.spec.ceiling_mib)

    async def _set_statistics_interval(self, seconds: int) -> None:
        prop = "guest-stats-polling-interval"
        await self._qmp.execute("qom-set", path=_OBJECT, property=prop, value=seconds)
        self._statistics_on = True

    async def _push(self) -> None:
        """Make the engine's target the one that is wanted now."""
        async with self._pushing:
            wanted = self._convergence.engine_target_bytes
            if wanted == self._sent:
                return
            try:
                # Zero is an error to the engine, and no guest could do it: one byte rounds to one page.
                await self._qmp.execute("balloon", value=max(1, wanted))
            except EngineExitedError:
                self.engine_exited()
                raise
            except EngineError as error:
                self._convergence.fail(error.message, time.monotonic())
                self._changed()
                raise
            self._sent = wanted

    async def _follow(self) -> None:
        """Read actual while the guest is on its way, watch for stalls, and keep the engine's target right."""
        with contextlib.suppress(
            EngineError
        ):  # said in the state, or the VM is ending: the loop ends with it
            while True:
                await self._push()
                interval = self._convergence.poll_interval(time.monotonic())
                self._wake.clear()
                if interval is None:
                    await self._wake.wait()
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await self._wake.wait()
                self._observed((await self._qmp.execute("query-balloon"))["actual"])
                if time.monotonic() - self._driver_checked_at > _DRIVER_CHECK_S:
                    await self.check_driver()

    def _observed(self, actual_bytes: int) -> None:
        before = self.status
        if before.driver is Driver.UNKNOWN and actual_bytes != before.actual_bytes:
            self._convergence.driver_seen(Driver.PRESENT, time.monotonic())  # only a driver moves it
        self._convergence.observe(actual_bytes, time.monotonic())
        after = self.status
        if after != before:
            if after.state is not before.state:
                log.info("balloon %s: %s", after.state, after.detail or f"actual {after.actual_mib} MiB")
            self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()


def _is_older(statistics: GuestStatistics, max_age_s: float) -> bool:
    return statistics.reported_at is None or time.time() - statistics.reported_at > max_age_s
