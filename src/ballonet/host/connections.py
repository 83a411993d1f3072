"""Counts the TCP connections of a process, from ``/proc`` (proc_pid_net(5))."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")
#: ``TCP_ESTABLISHED`` (include/net/tcp_states.h), as ``/proc/net/tcp`` shows it.
_ESTABLISHED = "01"
#: The columns of ``/proc/net/tcp``.
_STATE, _INODE = 3, 9


def count_connections(pid: int, *, proc: Path = PROC) -> int | None:
    """How many established TCP connections a process has; ``None`` if that cannot be read, or it has ended."""
    directory = proc / str(pid)
    links: list[str] = []
    try:
        for entry in (directory / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since
                links.append(str(entry.readlink()))
        lines = [
            line
            for name in ("tcp", "tcp6")
            for line in (directory / "net" / name).read_text().splitlines()[1:]
        ]
    except OSError:
        return None
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    rows = map(str.split, lines)
    return sum(row[_STATE] == _ESTABLISHED and row[_INODE] in own for row in rows)
