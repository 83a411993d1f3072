"""Identifies a process beyond its pid, which the kernel may reuse, and reuses after a reboot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from ballonet.base.dataclass import dataclass
from ballonet.host.proc import PROC


@dataclass(frozen=True)
class ProcessId:
    """A pid with the start time of the process (clock ticks since boot) and the id of the host's boot (proc(5))."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int, *, proc: Path = PROC) -> Self | None:
        """The process that has this pid now; ``None`` if there is none or it is a zombie."""
        start = _start_ticks(pid, proc)
        return None if start is None else cls(pid, start, boot_id(proc))

    @classmethod
    def current(cls) -> Self:
        """This process."""
        found = cls.of(os.getpid())
        assert found is not None, "this process is in /proc"
        return found

    def alive(self, *, proc: Path = PROC) -> bool:
        """Whether this process is still running."""
        return self.boot_id == boot_id(proc) and self.start_ticks == _start_ticks(self.pid, proc)

    def open(self) -> int | None:
        """A pidfd of it (pidfd_open(2)), which the caller closes; ``None`` if it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():  # checked after opening: the descriptor keeps referring to the same process
            return pidfd
        os.close(pidfd)
        return None

    def to_json(self) -> list[Any]:
        return [self.pid, self.start_ticks, self.boot_id]

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """The process in a value of :meth:`to_json`; ``None`` for any other value."""
        match value:
            case [int(pid), int(start), str(boot)]:
                return cls(pid, start, boot)
        return None


def boot_id(proc: Path = PROC) -> str:
    """The kernel's random id of this boot (random(4)); empty if it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int, proc: Path) -> int | None:
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
        # The name is in parentheses and may contain anything; the fields after it start with the third.
        fields = stat.rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
