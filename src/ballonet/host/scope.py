"""Moves this process to a systemd scope: how an unprivileged user gets a delegated cgroup with cgroup version 2.

Asks the service manager (of the user, or of the system for root) over D-Bus, with ``busctl``, to put this process into
a transient scope with ``Delegate=yes`` (org.freedesktop.systemd1(5), StartTransientUnit; systemd's CGROUP_DELEGATION).
The scope ends with its processes: nothing needs to be removed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ballonet.base.errors import HostError
from ballonet.base.process import find_program, run

#: How long the manager may take to move the process (seconds).
_MOVE_S = 10.0
_LOOK_S = 0.01


def scope_request(unit: str, pid: int, *, user: bool) -> list[str]:
    """The ``busctl`` command that puts ``pid`` into a delegated scope named ``unit``. Pure."""
    return [
        *("busctl", "--user" if user else "--system", "call"),
        *("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"),
        *("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail"),
        *("2", "PIDs", "au", "1", str(pid), "Delegate", "b", "true", "0"),
    ]


def enter_scope(name: str, *, own_cgroup: Path = Path("/proc/self/cgroup")) -> None:
    """Move this process into a delegated scope.

    :raises HostError: there is no systemd manager, or it refuses.
    """
    unit = f"{name}-{os.getpid()}.scope"
    find_program("busctl", hint="use a delegated cgroup directory: this host does not run systemd")
    run(scope_request(unit, os.getpid(), user=os.geteuid() != 0), timeout_s=_MOVE_S)
    deadline = time.monotonic() + _MOVE_S
    while unit not in own_cgroup.read_text():
        if time.monotonic() > deadline:
            raise HostError(f"systemd did not move process {os.getpid()} into {unit} within {_MOVE_S:g} s")
        time.sleep(_LOOK_S)
