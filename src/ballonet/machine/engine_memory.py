"""Host memory of the engine: guest RAM and its own memory at each reading, PSS less often."""

from __future__ import annotations

import time
from collections.abc import Callable

from ballonet.base.memory import bytes_to_mib
from ballonet.control.backend import HostMemory
from ballonet.host.proc import Resident, read_pss_bytes, read_resident

#: PSS is read on demand if the last value is older than this (seconds) …
PSS_EVERY_S = 30.0
#: … and older than the duration of the last reading times this factor, so that it uses at most 0.5 % of a processor:
#: the kernel walks every page of the guest's memory (Documentation/filesystems/proc.rst, smaps_rollup).
PSS_COST_FACTOR = 200.0


class EngineMemory:
    """The memory of one engine. Totals count from its start.

    :param pid: the engine's process.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        pid: int,
        *,
        resident: Callable[[int], Resident | None] = read_resident,
        pss: Callable[[int], int | None] = read_pss_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pid = pid
        self._read_resident = resident
        self._read_pss = pss
        self._clock = clock
        self._guest_ram_bytes = 0
        self._reclaimed_bytes = 0
        self._pss_bytes: int | None = None
        self._pss_at: float | None = None
        self._pss_every_s = PSS_EVERY_S

    def look(self) -> Resident | None:
        """Its memory now; ``None`` if it has ended. Takes microseconds."""
        resident = self._read_resident(self.pid)
        if resident is not None:
            self._reclaimed_bytes += max(0, self._guest_ram_bytes - resident.guest_ram_bytes)
            self._guest_ram_bytes = resident.guest_ram_bytes
        return resident

    def figures(self) -> HostMemory:
        """All figures, as an object of the control protocol."""
        resident = self.look()
        if resident is None:
            return HostMemory(reclaimed_mib=bytes_to_mib(self._reclaimed_bytes))
        pss_bytes, pss_age_s = self._pss()
        return HostMemory(
            resident_mib=resident.total_mib,
            pss_mib=None if pss_bytes is None else bytes_to_mib(pss_bytes),
            guest_ram_mib=resident.guest_ram_mib,
            engine_mib=resident.engine_mib,
            pss_age_s=pss_age_s,
            reclaimed_mib=bytes_to_mib(self._reclaimed_bytes),
        )

    def _pss(self) -> tuple[int | None, float | None]:
        """PSS, and its age (seconds)."""
        now = self._clock()
        if self._pss_at is None or now - self._pss_at >= self._pss_every_s:
            self._pss_bytes = self._read_pss(self.pid)
            self._pss_at = self._clock()
            self._pss_every_s = max(PSS_EVERY_S, PSS_COST_FACTOR * (self._pss_at - now))
        return self._pss_bytes, None if self._pss_bytes is None else max(0.0, self._clock() - self._pss_at)
