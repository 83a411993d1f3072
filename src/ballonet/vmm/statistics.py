"""The guest's own statistics, as its balloon driver reports them (virtio 1.2 §5.5.6.3). Pure."""

from __future__ import annotations

from ballonet.base.dataclass import dataclass


@dataclass(frozen=True)
class GuestStatistics:
    """One report of the guest. ``None`` is unknown. Sizes in bytes, faults and swaps are counts since boot."""

    #: Host time of the report, unix seconds (whole: the engine keeps no more); ``None`` if there was none.
    reported_at: int | None
    total_bytes: int | None
    free_bytes: int | None
    available_bytes: int | None
    disk_caches_bytes: int | None
    swap_in_bytes: int | None
    swap_out_bytes: int | None
    major_faults: int | None
    minor_faults: int | None
