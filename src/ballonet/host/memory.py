"""The memory of the host: ``/proc/meminfo`` and ``/proc/pressure/memory`` (proc(5), the kernel's psi.rst)."""

from __future__ import annotations

from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.host.proc import PROC, read_kib_fields


@dataclass(frozen=True)
class HostMemory:
    """Bytes, and seconds since boot. ``None`` means unknown."""

    total_bytes: int | None
    #: Memory that is available to new programs without swapping.
    available_bytes: int | None
    #: Time in which some, and all, tasks of the host stalled on memory; ``None`` if PSI is off.
    pressure_some_s: float | None
    pressure_full_s: float | None
    #: Percent of the last 10 s in which some task stalled.
    pressure_some_avg10: float | None = None


def read_host_memory(*, proc: Path = PROC) -> HostMemory:
    """The host's memory now."""
    fields = read_kib_fields(proc / "meminfo")
    some, full, avg10 = _pressure(proc)
    return HostMemory(fields.get("MemTotal"), fields.get("MemAvailable"), some, full, avg10)


def _pressure(proc: Path) -> tuple[float | None, float | None, float | None]:
    try:
        lines = (proc / "pressure/memory").read_text().splitlines()
        some, full = (dict(word.split("=") for word in line.split()[1:]) for line in lines)
        return int(some["total"]) / 1e6, int(full["total"]) / 1e6, float(some["avg10"])
    except (OSError, ValueError, KeyError):
        return None, None, None
