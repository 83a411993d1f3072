"""Looking at processes from outside: what lives, and who belongs to whom."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from pathlib import Path

from ballonet.host.proc import read_resident


def alive(pid: int) -> bool:
    """Whether ``pid`` is a process that runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started and that live."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words if alive(int(word))]


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def with_variable(variable: str) -> list[int]:
    """The processes that have this variable, ``NAME=value``, in their environment."""
    mark = f"{variable}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                if mark in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
    return found


def descriptors(pid: int | None = None) -> dict[str, str]:
    """The open file descriptors of a process, or of this one: their numbers, and what they refer to."""
    if pid is None:
        gc.collect()
    found = {}
    for entry in Path(f"/proc/{'self' if pid is None else pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, as is the one that lists this directory
            found[entry.name] = str(entry.readlink())
    return found


def guest_ram_mib(engine_pid: int) -> int:
    """What the host really holds of a guest's memory."""
    resident = read_resident(engine_pid)
    assert resident is not None
    return resident.guest_ram_mib


def parent_of(pid: int) -> int:
    """The parent of a process. See proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait for a state of other processes, which send us no event; fail with ``what`` if it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what}"
        time.sleep(0.02)
