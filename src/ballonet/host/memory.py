"""The memory of the host: ``/proc/meminfo`` and ``/proc/pressure/memory`` (proc(5), the kernel's psi.rst).

For a process in a container, or in another cgroup with a limit, the host is what this limit permits.
"""

from __future__ import annotations

from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.host.memory_limit import read_memory_limit
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
    #: The cgroup whose limit these figures are of; ``None``: they are the host's.
    limited_by: Path | None = None


def read_host_memory(*, proc: Path = PROC) -> HostMemory:
    """The memory of the host now, or of the part of it that the cgroups of this process may use."""
    fields = read_kib_fields(proc / "meminfo")
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    pressure = proc / "pressure/memory"
    limit = read_memory_limit(proc=proc / "self")
    limited_by = None
    if limit is not None and total is not None and available is not None and limit.total_bytes < total:
        total, available, limited_by = (
            limit.total_bytes,
            min(available, limit.available_bytes),
            limit.directory,
        )
        if (own := limited_by / "memory.pressure").exists():  # cgroup version 2
            pressure = own
    return HostMemory(total, available, *_pressure(pressure), limited_by=limited_by)


def _pressure(path: Path) -> tuple[float | None, float | None, float | None]:
    try:
        lines = path.read_text().splitlines()
        some, full = (dict(word.split("=") for word in line.split()[1:]) for line in lines)
        return int(some["total"]) / 1e6, int(full["total"]) / 1e6, float(some["avg10"])
    except (OSError, ValueError, KeyError):
        return None, None, None
