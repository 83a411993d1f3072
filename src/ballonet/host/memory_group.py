"""A cgroup that limits memory (the kernel's cgroup-v1/memory.rst and cgroup-v2.rst, "Memory")."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Protocol

from ballonet.base.errors import HostError
from ballonet.host.cgroup_directory import GroupDirectory, keyed

#: Version 2: how far ``memory.max`` lies above the limit, in bytes.
_HIGH_TO_MAX_BYTES = 32 << 20


class MemoryGroup(Protocol):
    """One cgroup with a memory limit."""

    @property
    def procs_file(self) -> Path:
        """Write a pid here to move a process into the group; before exec, so that all its memory counts."""
        ...

    def set_limit(self, limit_bytes: int) -> bool:
        """Set the limit. False: the kernel could not reclaim enough memory yet; try again later."""
        ...

    def kills(self) -> int:
        """How many times the kernel killed a process of the group because of the limit."""
        ...

    def remove(self) -> None:
        """Remove the group, after its processes have ended."""
        ...


class MemoryGroupV1(GroupDirectory):
    """Version 1: ``memory.limit_in_bytes``; the kernel refuses a limit that it cannot reach by reclaim."""

    def __init__(self, directory: Path, lock: int) -> None:
        super().__init__(directory, lock)
        (directory / "memory.limit_in_bytes").write_text("-1")

    def set_limit(self, limit_bytes: int) -> bool:
        try:
            (self._directory / "memory.limit_in_bytes").write_text(str(limit_bytes))
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINTR):
                return False
            raise HostError(f"the limit of {self._directory} cannot be set: {error.strerror}") from error
        return True

    def kills(self) -> int:
        return keyed(self._directory / "memory.oom_control", "oom_kill")


class MemoryGroupV2(GroupDirectory):
    """Version 2: ``memory.max`` kills a little above the limit.

    ``memory.high`` throttles only while more than that is held. A guest that stays just above it would never be killed:
    nothing of its memory can be reclaimed, and the engine's every page waits, its monitor's as well.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        super().__init__(directory, lock)
        (directory / "memory.high").write_text("max")
        (directory / "memory.max").write_text("max")

    def set_limit(self, limit_bytes: int) -> bool:
        try:
            (self._directory / "memory.high").write_text(str(limit_bytes))
            current = int((self._directory / "memory.current").read_text())
            if current > limit_bytes + _HIGH_TO_MAX_BYTES:
                return False  # memory.max below the current use would kill at once
            (self._directory / "memory.max").write_text(str(limit_bytes + _HIGH_TO_MAX_BYTES))
            (self._directory / "memory.high").write_text("max")
        except OSError as error:
            raise HostError(f"the limit of {self._directory} cannot be set: {error.strerror}") from error
        return True

    def kills(self) -> int:
        return keyed(self._directory / "memory.events", "oom_kill")
