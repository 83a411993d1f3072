"""Memory statistics of a guest. They are not trusted: a guest may send anything."""

from __future__ import annotations

from ballonet.base.dataclass import dataclass, fields

#: A report has about 500 bytes; more than this is ignored.
_MAX_TEXT_BYTES = 16 << 10
_MAX_NUMBER = 1 << 63


@dataclass(frozen=True, slots=True)
class GuestReport:
    """One reading of the guest's memory statistics. ``None``: the value is missing or invalid.

    ``*_kib`` are from ``/proc/meminfo``; the page counts and ``oom_kill`` are totals since boot from
    ``/proc/vmstat`` (4 KiB pages); ``psi_*`` are from ``/proc/pressure/memory``, the averages over 10 and 60 s in
    hundredths of a percent.
    """

    mem_total_kib: int | None = None
    mem_free_kib: int | None = None
    mem_available_kib: int | None = None
    cached_kib: int | None = None
    buffers_kib: int | None = None
    sreclaimable_kib: int | None = None
    #: Page cache that was not used again lately, which the kernel reclaims first.
    inactive_file_kib: int | None = None
    swap_total_kib: int | None = None
    swap_free_kib: int | None = None
    pgmajfault: int | None = None
    oom_kill: int | None = None
    pswpin: int | None = None
    pswpout: int | None = None
    #: Pages of files that were read again after they had been reclaimed (``workingset_refault_file``).
    refault_file: int | None = None
    #: Trims that the agent has started, and the file pages that they have reclaimed, since boot.
    trims: int | None = None
    trimmed_kib: int | None = None
    psi_some_total_us: int | None = None
    psi_some_avg10_centi: int | None = None
    psi_some_avg60_centi: int | None = None
    psi_full_total_us: int | None = None
    psi_full_avg10_centi: int | None = None
    psi_full_avg60_centi: int | None = None
    uptime_ms: int | None = None


_NAMES = frozenset(field.name for field in fields(GuestReport))


def parse_report(text: bytes) -> GuestReport:
    """Parse lines ``name value``. Never fails: invalid lines are skipped, and the first valid line of a name counts."""
    values: dict[str, int] = {}
    for line in text[:_MAX_TEXT_BYTES].decode(errors="replace").split("\n"):
        name, _, number = line.partition(" ")
        if name not in _NAMES or name in values:
            continue
        # 19 digits are enough for 2^63; parsing longer ones would only cost time.
        if number.isascii() and number.isdigit() and len(number) <= 19 and int(number) <= _MAX_NUMBER:
            values[name] = int(number)
    return GuestReport(**values)
