"""One cgroup as a directory, and its files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


class GroupDirectory:
    """What all cgroups have in common.

    :param lock: an open descriptor; it is closed when the group is removed.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        self._directory = directory
        self._lock = lock

    @property
    def procs_file(self) -> Path:
        """Write a pid here to move a process into the group; before exec, so that all its memory counts."""
        return self._directory / "cgroup.procs"

    def remove(self) -> None:
        """Remove the group, after its processes have ended."""
        _remove(self._directory)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the cgroup %s cannot be removed: %s", directory, error.strerror)


def words(path: Path) -> list[str]:
    return read(path).split()


def keyed(path: Path, key: str) -> int:
    """The number after ``key`` in a file of such lines; 0 if there is none."""
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
