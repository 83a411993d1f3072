"""The limit on the memory of the cgroups that this process is in: a container's, a service's, a batch job's.

Files: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.host.cgroup import controller_mounts, keyed, own_groups

#: Version 1 says "no limit" with the largest multiple of the page size; nothing real comes near.
_NO_LIMIT_BYTES = 1 << 60
#: For each version: its controllers in ``/proc/self/cgroup``, its limits, its use, and the key in ``memory.stat`` of
#: the caches that the kernel drops first.
_VERSIONS = (
    ("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ("", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
)


@dataclass(frozen=True)
class MemoryLimit:
    """What the tightest cgroup permits."""

    #: The group with the least memory left.
    directory: Path
    total_bytes: int
    #: What is left, with the caches that the kernel drops first.
    available_bytes: int


def read_memory_limit(*, proc: Path = Path("/proc/self")) -> MemoryLimit | None:
    """The limits of this process's cgroup and of all that contain it, together; ``None`` if there are none."""
    mounts, groups = controller_mounts(proc / "mounts"), own_groups(proc / "cgroup")
    found = []
    for controllers, limits, use, caches in _VERSIONS:
        mount, group = mounts.get(controllers), groups.get(controllers)
        if mount is None or group is None:
            continue
        own = mount / group.lstrip("/")
        for directory in (own, *own.parents):
            total = min(filter(None, (_bytes(directory / name) for name in limits)), default=None)
            used = None if total is None else _bytes(directory / use)
            if total is not None and used is not None:
                left = total - used + keyed(directory / "memory.stat", caches)
                found.append(MemoryLimit(directory, total, max(0, min(total, left))))
            if directory == mount:
                break
    if not found:
        return None
    tightest = min(found, key=lambda limit: limit.available_bytes)
    total = min(limit.total_bytes for limit in found)
    return MemoryLimit(tightest.directory, total, min(total, tightest.available_bytes))


def _bytes(path: Path) -> int | None:
    """The number in the file; ``None``: no such file, or no limit."""
    try:
        number = int(path.read_text())
    except (OSError, ValueError):
        return None
    return number if number < _NO_LIMIT_BYTES else None
