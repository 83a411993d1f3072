"""The text of ``ballonet balloon stats``: each figure with its unit. Pure."""

from __future__ import annotations

from ballonet.cli.output import show_seconds
from ballonet.control.backend import Stats

Facts = dict[str, str]


def describe_stats(stats: Stats) -> dict[str, Facts]:
    """The figures, grouped by their source. Unknown figures are shown as ``unknown``."""
    guest, pressure, host = stats.guest, stats.pressure, stats.host
    return {
        "guest (as reported by the guest)": {
            "reported": _ago(guest.age_s),
            "uptime": _time(guest.uptime_s),
            "memory": _mib(guest.total_mib),
            "free": _mib(guest.free_mib),
            "available": _mib(guest.available_mib),
            "page cache": _mib(guest.disk_caches_mib),
            "inactive page cache": _mib(guest.inactive_caches_mib),
            "trimmed": _trimmed(guest.trims, guest.trimmed_mib),
            "refaulted": _since_boot(guest.refault_mib),
            "swap": _swap(guest.swap_total_mib, guest.swap_free_mib),
            "swapped in": _since_boot(guest.swap_in_mib),
            "swapped out": _since_boot(guest.swap_out_mib),
            "major faults": _count(guest.major_faults),
            "minor faults": _count(guest.minor_faults),
            "out-of-memory kills": _count(stats.oom_kills),
        },
        "pressure (share of time in which guest tasks waited for memory)": {
            "reported": _ago(pressure.age_s),
            "some tasks": _pressure(pressure.some_avg10, pressure.some_avg60, pressure.some_total_us),
            "all tasks": _pressure(pressure.full_avg10, pressure.full_avg60, pressure.full_total_us),
        },
        "host (measured on the host)": {
            "guest RAM": _mib(host.guest_ram_mib),
            "engine": _mib(host.engine_mib),
            "both (resident)": _mib(host.resident_mib),
            "PSS": _mib(host.pss_mib)
            + ("" if host.pss_age_s is None else f", measured {show_seconds(host.pss_age_s)} ago"),
            "reclaimed": _since_boot(host.reclaimed_mib),
        },
    }


def _mib(value: int | None) -> str:
    return "unknown" if value is None else f"{value} MiB"


def _since_boot(value: int | None) -> str:
    return "unknown" if value is None else f"{value} MiB since boot"


def _trimmed(trims: int | None, mib: int | None) -> str:
    return "unknown" if trims is None or mib is None else f"{mib} MiB in {trims} trims since boot"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value} since boot"


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else show_seconds(seconds)


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{show_seconds(seconds)} ago"


def _swap(total: int | None, free: int | None) -> str:
    if total == 0:
        return "none"
    return f"{_mib(total)}, {_mib(free)} free"


def _pressure(avg10: float | None, avg60: float | None, total_us: int | None) -> str:
    if avg10 is None or avg60 is None or total_us is None:
        return "unknown"
    return (
        f"{avg10:.2f} % of the last 10 s, {avg60:.2f} % of the last minute, {total_us / 1e6:.3f} s since boot"
    )
