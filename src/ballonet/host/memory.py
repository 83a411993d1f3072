"""The host's own memory: ``/proc/meminfo`` and ``/proc/pressure/memory`` (proc(5), the kernel's psi.rst)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ballonet.host.proc import PROC, read_kib_fields


@dataclass(frozen=True)
class HostMemory:
    """Bytes, and seconds since boot. Unknown is ``None``, never zero."""

    total_bytes: int | None
    #: What new programs could have without swapping.
    available_bytes: int | None
    #: Time in which some, and all, of the host's tasks stalled on memory; ``None`` where PSI is off.
    pressure_some_s: float | None
    pressure_full_s: float | None


def read_host_memory(*, proc: Path = PROC) -> HostMemory:
    """The host's memory now."""
    fields = read_kib_fields(proc / "meminfo")
    some, full = _pressure(proc)
    return HostMemory(fields.get("MemTotal"), fields.get("MemAvailable"), some, full)


def _pressure(proc: Path) -> tuple[float | None, float | None]:
    try:
        lines = (proc / "pressure/memory").read_text().splitlines()
        totals = {line.split()[0]: int(line.rpartition("total=")[2]) / 1e6 for line in lines}
    except (OSError, ValueError, IndexError):
        return None, None
    return totals.get("some"), totals.get("full")
