"""The sandbox for the control server: its balloon and its memory, as objects of the control protocol."""

from __future__ import annotations

import asyncio
import time

from ballonet.base.errors import BalloonError
from ballonet.base.memory import bytes_to_mib, kib_to_bytes, pages_to_mib
from ballonet.control.backend import (
    BalloonSnapshot,
    Capabilities,
    EarlierTotals,
    GuestMemory,
    GuestPressure,
    Outcome,
    SetResult,
    Stats,
    TrimRequest,
    TrimResult,
)
from ballonet.guest.report import GuestReport
from ballonet.host.clock import unix_time
from ballonet.host.proc import read_cpu_s, read_io_bytes
from ballonet.machine.engine_memory import EngineMemory
from ballonet.machine.guest_memory import GuestMemory as GuestMemorySource
from ballonet.machine.hardcap import HardCap
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.convergence import BalloonStatus
from ballonet.vmm.engine import Vm

#: The guest is asked again if its statistics are older than this (seconds).
_STATISTICS_MAX_AGE_S = 1.0
#: Timeout for the engine's statistics (seconds): longer than the engine waits for the guest.
_DEVICE_S = 3.0


class MachineBackend:
    """A :class:`ballonet.control.backend.Backend` over one :class:`~ballonet.vmm.engine.Vm`."""

    def __init__(self, vm: Vm, guest: GuestMemorySource, cap: HardCap | None = None) -> None:
        self._vm = vm
        self._guest = guest
        self._cap = cap
        #: Host memory of the engine's process.
        self.engine = EngineMemory(vm.pid)
        #: The totals of earlier runs, if the sandbox has a history.
        self.earlier: EarlierTotals | None = None

    @property
    def ceiling_mib(self) -> int:
        """The VM's configured memory."""
        return self._vm.spec.memory_mib

    @property
    def balloon(self) -> BalloonSnapshot | None:
        return None if self._vm.balloon is None else self._snapshot(self._vm.balloon.status)

    async def set_target(self, requested_mib: int, *, force: bool) -> SetResult:
        balloon = self._balloon()
        clamped, generation = await balloon.set_target(requested_mib, force=force)
        return SetResult(requested_mib, clamped.effective_mib, clamped.by, generation)

    async def wait_settled(self, generation: int, timeout_s: float) -> tuple[BalloonSnapshot, Outcome]:
        balloon = self._balloon()
        outcome: Outcome = "timeout"
        try:
            async with asyncio.timeout(timeout_s):
                status = await balloon.wait_settled(generation)
                outcome = "settled" if status.generation == generation else "superseded"
        except TimeoutError:
            status = balloon.status
        return self._snapshot(status), outcome

    def subscribe(self) -> _Changes:
        return _Changes(self, self._balloon())

    async def stats(self, max_age_s: float = 0.0) -> Stats:
        recent = await self._guest.recent_report(max_age_s)
        silent = recent is None or (max_age_s == 0 and recent[1] >= _STATISTICS_MAX_AGE_S)
        report, age_s = (None, None) if recent is None or silent else recent
        if report is not None:
            guest = _guest_memory(report, age_s)
        elif max_age_s == 0:
            guest = await self._device_statistics()
        else:
            guest = GuestMemory()
        return Stats(
            guest=guest,
            pressure=_pressure(report, age_s),
            oom_kills=None if report is None else report.oom_kill,
            host=self.engine.figures(),
            earlier=self.earlier,
        )

    async def _device_statistics(self) -> GuestMemory:
        """The report of the balloon driver, for when the agent does not answer."""
        if self._vm.balloon is None:
            return GuestMemory()
        try:
            async with asyncio.timeout(_DEVICE_S):
                statistics = await self._vm.balloon.statistics(max_age_s=_STATISTICS_MAX_AGE_S)
        except TimeoutError:  # the engine is stuck
            return GuestMemory()
        return GuestMemory(
            age_s=None if statistics.reported_at is None else max(0.0, time.time() - statistics.reported_at),
            total_mib=_mib(statistics.total_bytes),
            free_mib=_mib(statistics.free_bytes),
            available_mib=_mib(statistics.available_bytes),
            disk_caches_mib=_mib(statistics.disk_caches_bytes),
            swap_in_mib=_mib(statistics.swap_in_bytes),
            swap_out_mib=_mib(statistics.swap_out_bytes),
            major_faults=statistics.major_faults,
            minor_faults=statistics.minor_faults,
        )

    async def trim(self, request: TrimRequest) -> TrimResult:
        deadline = time.monotonic() + request.timeout_s
        before = self.engine.look()
        note, reclaimed = await self._guest.trim(
            request.caches_percent,
            compact=request.compact,
            timeout_s=request.timeout_s,
            gentle=request.gentle,
        )
        notes = [note]
        if request.inflate:
            left_s = max(0.1, deadline - time.monotonic())
            notes.append(await self._balloon().squeeze(left_s))
        after = self.engine.look()
        problems = [note for note in notes if note is not None]
        return TrimResult(
            returned_mib=None
            if before is None or after is None
            else max(0, before.total_mib - after.total_mib),
            resident_before_mib=None if before is None else before.total_mib,
            resident_after_mib=None if after is None else after.total_mib,
            complete=not problems,
            detail="; ".join(problems) or None,
            reclaimed_mib=_mib(reclaimed),
        )

    async def set_limit(self, limit_mib: int | None) -> None:
        await self._balloon().set_limit(limit_mib)

    def capabilities(self) -> Capabilities:
        has_balloon = self._vm.spec.balloon is not None
        return Capabilities(
            balloon=has_balloon,
            statistics=has_balloon,
            pressure_relief=self._guest.relief,
            hard_cap=self._cap is not None,
            trim=has_balloon,
            accelerator=str(self._vm.spec.accel),
            engine=f"{self._vm.engine.name} {self._vm.engine.version_text}",
        )

    def _balloon(self) -> Balloon:
        if self._vm.balloon is None:
            raise BalloonError(
                "this sandbox has no balloon",
                hint="create a new sandbox with a balloon: it cannot be added later",
            )
        return self._vm.balloon

    def _snapshot(self, status: BalloonStatus) -> BalloonSnapshot:
        resident = self.engine.look()
        return BalloonSnapshot(
            ceiling_mib=status.spec.ceiling_mib,
            initial_mib=status.spec.initial_mib,
            floor_mib=status.spec.floor_mib,
            limit_mib=status.limit_mib,
            requested_mib=status.requested_mib,
            target_mib=status.target_mib,
            actual_mib=status.actual_mib,
            state=status.state.value,
            since=unix_time(status.since),
            driver=status.driver.value,
            resident_mib=None if resident is None else resident.total_mib,
            detail=status.detail,
            guest_ram_mib=None if resident is None else resident.guest_ram_mib,
            engine_mib=None if resident is None else resident.engine_mib,
            engine_cpu_s=read_cpu_s(self.engine.pid),
            engine_io_mib=_mib(read_io_bytes(self.engine.pid)),
        )


class _Changes:
    """Changes for one watcher. Versions start at 1; those of the balloon start at 0."""

    def __init__(self, backend: MachineBackend, balloon: Balloon) -> None:
        self._backend = backend
        self._balloon = balloon

    async def wait_change(self, since_version: int) -> tuple[int, BalloonSnapshot]:
        version, status = await self._balloon.wait_change(since_version - 1)
        return version + 1, self._backend._snapshot(status)


def _guest_memory(report: GuestReport, age_s: float | None) -> GuestMemory:
    """A report of the agent. The kernel counts swap in 4 KiB pages."""
    cached = report.cached_kib
    if cached is not None and report.buffers_kib is not None:
        cached += report.buffers_kib
    return GuestMemory(
        age_s=age_s,
        total_mib=_mib_of_kib(report.mem_total_kib),
        free_mib=_mib_of_kib(report.mem_free_kib),
        available_mib=_mib_of_kib(report.mem_available_kib),
        disk_caches_mib=_mib_of_kib(cached),
        inactive_caches_mib=_mib_of_kib(report.inactive_file_kib),
        swap_in_mib=None if report.pswpin is None else pages_to_mib(report.pswpin),
        swap_out_mib=None if report.pswpout is None else pages_to_mib(report.pswpout),
        refault_mib=None if report.refault_file is None else pages_to_mib(report.refault_file),
        major_faults=report.pgmajfault,
        swap_total_mib=_mib_of_kib(report.swap_total_kib),
        swap_free_mib=_mib_of_kib(report.swap_free_kib),
        uptime_s=None if report.uptime_ms is None else report.uptime_ms / 1000,
        trims=report.trims,
        trimmed_mib=_mib_of_kib(report.trimmed_kib),
    )


def _pressure(report: GuestReport | None, age_s: float | None) -> GuestPressure:
    if report is None:
        return GuestPressure()
    return GuestPressure(
        age_s=age_s,
        some_avg10=_percent(report.psi_some_avg10_centi),
        some_avg60=_percent(report.psi_some_avg60_centi),
        some_total_us=report.psi_some_total_us,
        full_avg10=_percent(report.psi_full_avg10_centi),
        full_avg60=_percent(report.psi_full_avg60_centi),
        full_total_us=report.psi_full_total_us,
    )


def _percent(centi: int | None) -> float | None:
    return None if centi is None else centi / 100


def _mib_of_kib(kib: int | None) -> int | None:
    return None if kib is None else bytes_to_mib(kib_to_bytes(kib))


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else bytes_to_mib(size_bytes)
