"""Takes samples of this sandbox for its history, more often while it is active.

The host's figures of the engine cost the guest nothing. They are read first and show whether the guest is busy. The
guest is asked often only while it is busy, under pressure or converging; an idle guest is asked once a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import HostError
from ballonet.base.memory import MIB, bytes_to_mib
from ballonet.control.backend import EarlierTotals, Stats
from ballonet.host.proc import read_cpu_s
from ballonet.machine.backend import MachineBackend
from ballonet.metrics.history import HISTORY_FILE, HistoryWriter, totals
from ballonet.metrics.model import TOTALS, SandboxSample, sample_of, with_totals

log = logging.getLogger(__name__)

#: A guest counts as busy if its engine uses more than this share of a processor. An idle one with emulation uses 0.5
#: %, and 4 % if the guest's kernel has dropped the TSC and ticks all the time (bench/metrics.py).
BUSY_SHARE = 0.10
#: It also counts as busy if its memory on the host changed by this.
BUSY_BYTES = 4 * MIB
#: A guest is under pressure if its tasks stalled for this time since the last sample (microseconds).
PRESSURE_US = 10_000
#: How often an idle guest is asked and a sample is written (seconds). It is less than the age that readers accept
#: (lifecycle/samples.py), so that they need not ask the guest.
HEARTBEAT_S = 55.0
#: The least interval between samples while the balloon moves (seconds).
LEAST_S = 0.25


class Pace(Enum):
    """The sampling rate: seconds to the next reading of the host's figures, and the accepted age of the guest's
    report."""

    QUICK = (0.5, 0.4)
    BUSY = (2.0, 1.5)
    #: The interval increases up to this; the guest is asked only for the heartbeat.
    IDLE = (5.0, math.inf)

    @property
    def look_s(self) -> float:
        return self.value[0]

    @property
    def guest_age_s(self) -> float:
        return self.value[1]


@dataclass(frozen=True)
class Look:
    """The figures that determine the pace."""

    at: float
    cpu_s: float | None
    guest_ram: int | None
    #: Target, actual and limit of the balloon.
    balloon: tuple[object, ...]
    moving: bool
    pressure_us: int | None


def pace_of(before: Look | None, now: Look) -> Pace:
    """The pace for the activity between two readings. Pure."""
    if now.moving or before is None:
        return Pace.QUICK
    if _grew(before.pressure_us, now.pressure_us) >= PRESSURE_US:
        return Pace.QUICK
    seconds = max(0.001, now.at - before.at)
    if before.cpu_s is None or now.cpu_s is None or (now.cpu_s - before.cpu_s) / seconds > BUSY_SHARE:
        return Pace.BUSY
    if abs((now.guest_ram or 0) - (before.guest_ram or 0)) >= BUSY_BYTES or now.balloon != before.balloon:
        return Pace.BUSY
    return Pace.IDLE


class Sampler:
    """Writes one sandbox's history while it runs."""

    def __init__(
        self,
        name: str,
        run_id: str,
        state_dir: Path,
        backend: MachineBackend,
        resumed: EarlierTotals | None = None,
    ) -> None:
        """
        :param resumed: the earlier totals of a resumed sandbox: its guest goes on counting where it was.
        :raises HostError: the history cannot be opened.
        """
        self._name = name
        self._run_id = run_id
        self._backend = backend
        self._history = HistoryWriter(state_dir / HISTORY_FILE)
        self._totals = totals(self._history.last)
        earlier = earlier_totals(self._totals)
        if resumed is not None:  # except what the host counts for each engine
            earlier = replace(resumed, reclaimed_mib=earlier.reclaimed_mib)
        backend.earlier = earlier
        self._before: Look | None = None
        self._written_at = 0.0
        #: The newest sample, if it was not written because nothing had changed.
        self._held: SandboxSample | None = None
        self._complained = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sampling."""
        self._task = asyncio.create_task(self._run(), name="sampler")

    async def close(self, *, guest_age_s: float = math.inf) -> None:
        """Write a last sample, and stop. May be called again.

        :param guest_age_s: ask the guest once more if its report is older than this; by default it is not asked.
        """
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        self._write(self._sample(await self._backend.stats(guest_age_s)))
        self._history.close()

    async def _run(self) -> None:
        changes = None if self._backend.balloon is None else self._backend.subscribe()
        version = 0
        pace, wait_s = Pace.QUICK, Pace.QUICK.look_s
        while True:
            pace = await self._look(pace)
            wait_s = min(pace.look_s, wait_s * 2)
            await asyncio.sleep(LEAST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s - LEAST_S):
                    if changes is None:
                        await asyncio.sleep(wait_s)
                    else:
                        version, _ = await changes.wait_change(version)

    async def _look(self, pace: Pace) -> Pace:
        """Take a sample, write it if something has changed, and return the new pace."""
        look = self._host_look()
        # The host's figures decide whether the guest is asked: one that has just become active is asked at once.
        quicker = min(pace_of(self._before, look), pace, key=lambda one: one.look_s)
        due = look.at - self._written_at >= HEARTBEAT_S
        stats = await self._backend.stats(Pace.BUSY.guest_age_s if due else quicker.guest_age_s)
        look = replace(look, pressure_us=stats.pressure.some_total_us)
        pace = pace_of(self._before, look)
        self._before = look
        sample = self._sample(stats)
        if due or pace is not Pace.IDLE:
            if pace is not Pace.IDLE and self._held is not None:
                self._write(self._held)  # nothing had changed until then
            self._write(sample)
            self._written_at = look.at
            self._held = None
        else:
            self._held = sample
        return pace

    def _host_look(self) -> Look:
        balloon = self._backend.balloon
        resident = self._backend.engine.look()
        return Look(
            at=time.monotonic(),
            cpu_s=read_cpu_s(self._backend.engine.pid),
            guest_ram=None if resident is None else resident.guest_ram_bytes,
            balloon=() if balloon is None else (balloon.target_mib, balloon.actual_mib, balloon.limit_mib),
            moving=balloon is not None and balloon.state == "converging",
            pressure_us=None if self._before is None else self._before.pressure_us,
        )

    def _sample(self, stats: Stats) -> SandboxSample:
        sample = sample_of(
            name=self._name,
            run_id=self._run_id,
            at=time.time(),
            balloon=self._backend.balloon,
            stats=stats,
            ceiling_mib=self._backend.ceiling_mib,
        )
        # Totals stay if the guest stops reporting.
        for name in TOTALS:
            value = getattr(sample, name)
            self._totals[name] = self._totals[name] if value is None else value
        return with_totals(sample, self._totals)

    def _write(self, sample: SandboxSample) -> None:
        if sample.resident is None:
            return  # the engine has ended: the previous sample has its last figures
        try:
            self._history.write(sample)
            self._complained = False
        except HostError as error:
            if not self._complained:  # log a full disk once; it must not end the sandbox
                log.warning("%s", error)
            self._complained = True


def earlier_totals(total: Mapping[str, int]) -> EarlierTotals:
    """The totals of a history, as an object of the control protocol."""
    return EarlierTotals(
        major_faults=total["major_faults"],
        swap_in_mib=bytes_to_mib(total["swap_in"]),
        swap_out_mib=bytes_to_mib(total["swap_out"]),
        oom_kills=total["oom_kills"],
        pressure_some_us=total["pressure_some_us"],
        pressure_full_us=total["pressure_full_us"],
        reclaimed_mib=bytes_to_mib(total["reclaimed"]),
    )


def _grew(before: int | None, now: int | None) -> int:
    return 0 if before is None or now is None else now - before
