"""A cgroup that limits processor time (the kernel's scheduler/sched-bwc.rst and cgroup-v2.rst, "CPU")."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ballonet.base.errors import HostError
from ballonet.host.cgroup_directory import GroupDirectory

#: The kernel's default (µs): within each period, the processes of a group run until they have used their quota.
_PERIOD_US = 100_000


class CpuGroup(Protocol):
    """One cgroup with a limit of processor time."""

    @property
    def procs_file(self) -> Path:
        """Write a pid here to move a process into the group."""
        ...

    def set_quota(self, percent: int | None) -> None:
        """Set the limit, in percent of one processor; ``None``: no limit.

        :raises HostError: the kernel refuses it.
        """
        ...

    def remove(self) -> None:
        """Remove the group, after its processes have ended."""
        ...


class CpuGroupV1(GroupDirectory):
    """Version 1: ``cpu.cfs_quota_us``."""

    def set_quota(self, percent: int | None) -> None:
        quota_us = -1 if percent is None else percent * _PERIOD_US // 100
        _write(self._directory / "cpu.cfs_period_us", str(_PERIOD_US))
        _write(self._directory / "cpu.cfs_quota_us", str(quota_us))


class CpuGroupV2(GroupDirectory):
    """Version 2: ``cpu.max``."""

    def set_quota(self, percent: int | None) -> None:
        quota = "max" if percent is None else str(percent * _PERIOD_US // 100)
        _write(self._directory / "cpu.max", f"{quota} {_PERIOD_US}")


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise HostError(f"{path} cannot be set to {value!r}: {error.strerror}") from error
